"""What objectives share whose loss is a sum over steps, each with an expectation over its places.

Symbols as in `models.decoder`.
"""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from show_attend_tell import settings
from show_attend_tell.models.attention import Annotations
from show_attend_tell.models.teacher_forced import TeacherForced
from show_attend_tell.objectives.likelihood import doubly_stochastic_penalty
from show_attend_tell.objectives.objective import Batch, Report
from show_attend_tell.objectives.sampling import entropies
from show_attend_tell.objectives.supervision import maps_over, supervised
from show_attend_tell.tokens import EOS, PAD


@dataclasses.dataclass(frozen=True)
class Stepwise:
    """An objective that gives every step of the references a log-probability.

    Like `likelihood.soft_loss` its loss is divided by the batch's number of real tokens. The
    penalty is that of soft attention; `hard.entropy` weighs the entropy of alpha.

    Attributes:
      hard: of which the weight of the entropy applies to all, and what else the objective says.
      regularizers: the doubly stochastic penalty and label smoothing.
      attention: of which the supervision applies.
    """

    hard: settings.Hard
    regularizers: settings.Loss
    attention: settings.Attention = settings.Attention()

    def init(self) -> PyTree:
        """No state, unless an objective has its own."""
        return {}

    def smoothed(
        self, log_probs: Float[Array, "*S"], uniform: Float[Array, "*S"]
    ) -> Float[Array, "*S"]:
        """log p of the given words, with a share of the mean over the vocabulary of log p."""
        share = self.regularizers.label_smoothing
        return (1 - share) * log_probs + share * uniform if share else log_probs

    def of_words(
        self, log_p: Float[Array, "N B R T V"], tokens: Int[Array, "B R T"]
    ) -> tuple[Float[Array, "N B R T"], Float[Array, "N B R T"]]:
        """log p of the given words in nats, and the same with label smoothing."""
        log_probs = jnp.take_along_axis(log_p, tokens[None, ..., None], axis=-1)[..., 0]
        return log_probs, self.smoothed(log_probs, log_p.mean(axis=-1))

    def of_steps(
        self,
        log_probs: Float[Array, "B R T"],
        gains: Float[Array, "B R T"],
        out: TeacherForced,
        tokens: Int[Array, "B R T"],
    ) -> tuple[Float[Array, ""], Report]:
        """The loss of the steps and their entropy.

        Args:
          log_probs: of the given words, in nats.
          gains: what is maximised of each step; `log_probs` with label smoothing and other terms.
          out: of the decoder.
          tokens: the references.

        Returns:
          The loss, and a report: `nll` (nats per real token, without smoothing), `entropy` (nats,
          mean over steps of alpha) and `tokens` (of the references).
        """
        entropy = mean_over_words(entropies(out.alpha, out.log_alpha), tokens)
        loss = -mean_over_words(gains, tokens) - self.hard.entropy * entropy
        count = jnp.maximum((tokens != PAD).sum(), 1)
        return loss, {
            "nll": -mean_over_words(log_probs, tokens),
            "entropy": entropy,
            "tokens": count.astype(jnp.float32),
        }

    def regularized(
        self,
        loss: Float[Array, ""],
        report: Report,
        out: TeacherForced,
        annotations: Annotations,
        batch: Batch,
    ) -> tuple[Float[Array, ""], Report]:
        """Adds the doubly stochastic penalty and the supervision.

        Args:
          loss, report: of `of_steps`.
          out: of the decoder over `annotations`.
          annotations: of the batch.
          batch: with `maps` where attention is supervised.

        Returns:
          The loss; and the report with `penalty` (mean over captions, unweighted) and
          `supervision` (see `supervision.supervised`).
        """
        tokens = batch["tokens"]
        locations = annotations.vectors.shape[1]  # a null place owes nothing
        penalty = doubly_stochastic_penalty(out.alpha[..., :locations], tokens, annotations.mask)
        loss += self.regularizers.doubly_stochastic * penalty / report["tokens"]
        captions = jnp.maximum((tokens == EOS).sum(), 1)
        report = report | {"penalty": penalty / captions}
        maps = maps_over(annotations, batch)
        return supervised(loss, report, self.attention, maps, out.log_alpha, tokens, out.factors)


def mean_over_words(x: Float[Array, "*S"], tokens: Int[Array, "*S"]) -> Float[Array, ""]:
    """The mean over real tokens, <eos> included and padding excluded."""
    real = tokens != PAD
    return jnp.where(real, x, 0.0).sum() / jnp.maximum(real.sum(), 1)
