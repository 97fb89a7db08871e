"""Training hard attention by straight-through gradients (Gumbel-softmax and Gumbel-Rao).

The bound is that of `reinforce`, L_s = sum_s p(s|a) log p(y|s, a), along the same N drawn paths.
Its gradient with respect to alpha is estimated without a score-function term: backwards, every
drawn place is replaced by the softmax of (log alpha + G) / tau, averaged over K draws of the noise
G that agree with the place (see `models.straight_through`). It needs no baseline and costs one
pass. K > 1 lowers the variance and leaves the mean as it is.

The estimate is biased: it follows the slope of what the decoder computes between places, where it
is never run. A small tau lowers the bias and raises the variance; for tau to 0 the difference
between two places is estimated by the trapezoidal rule.

Symbols as in `models.decoder`; Q = N R rows, as in `reinforce`.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from show_attend_tell import settings
from show_attend_tell.models.attention import Choice
from show_attend_tell.models.captioner import Captioner
from show_attend_tell.models.straight_through import Relaxation
from show_attend_tell.objectives.likelihood import doubly_stochastic_penalty, smooth
from show_attend_tell.objectives.objective import Batch, Report, encoder_key
from show_attend_tell.objectives.reinforce import Steps
from show_attend_tell.objectives.sampling import (
    TeacherForcing,
    draw_choice,
    entropies,
    probability_of_soft,
    sampling_key,
)
from show_attend_tell.objectives.supervision import maps_over, supervised
from show_attend_tell.tokens import PAD

_MORE = 0x6A0  # folded into the key of the paths: the noise of Gumbel-Rao


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Relaxed:
    """Minus log p(y|s) along drawn places, with straight-through gradients to alpha.

    As in `reinforce` the sum over captions, a mean over samples, is divided by the batch's number
    of real tokens; coin, entropy, penalty and label smoothing act as there.

    Attributes:
      hard: how paths are drawn and relaxed; its credit and baseline have no effect.
      regularizers: the doubly stochastic penalty and label smoothing.
      attention: of which the supervision applies.
    """

    hard: settings.Hard
    regularizers: settings.Loss
    attention: settings.Attention = settings.Attention()

    def init(self) -> dict[str, Array]:
        """No state."""
        return {}

    def loss(
        self,
        model: Captioner,
        batch: Batch,
        key: PRNGKeyArray,
        state: dict[str, Array],
        step: Int[Array, ""] | int,
    ) -> tuple[Float[Array, ""], dict[str, Array], Report]:
        """See `Objective.loss` and, for what it reports, `loss_along`."""
        annotations = model.annotations(batch["inputs"], encoder_key(key))
        maps = maps_over(annotations, batch)
        given = TeacherForcing(model.decoder, annotations, batch["tokens"], key, maps)
        choice = draw_relaxed(
            sampling_key(key),
            given.paths(self.hard.samples),
            self.hard,
            probability_of_soft(self.hard, step),
        )
        loss, report = self.loss_along(given, choice)
        return loss, state, report

    def loss_along(self, given: TeacherForcing, choice: Choice) -> tuple[Float[Array, ""], Report]:
        """The loss along given paths.

        Args:
          given: the batch, and the key of its dropout.
          choice: of N paths a row, with a relaxation.

        Returns:
          The loss, and a report: `nll` (nats per real token, without smoothing), `entropy` (nats,
          mean over steps of alpha), `penalty` (mean over captions, unweighted), `tokens` (of the
          references) and what `supervised` reports.
        """
        rollout = given.along(choice, self.hard.samples)
        steps = Steps.of(rollout.tokens, choice.expected)
        count = steps.real_count
        nll = -rollout.log_probs.sum() / count
        alpha = jnp.exp(rollout.log_alpha)
        of_steps = entropies(alpha, rollout.log_alpha)
        entropy = jnp.where(steps.hard, of_steps, 0.0).sum() / count
        locations = given.annotations.vectors.shape[1]
        penalty = doubly_stochastic_penalty(
            alpha[..., :locations], rollout.tokens, given.annotations.mask
        )
        loss = (
            smooth(nll, rollout.logits, steps.real, self.regularizers.label_smoothing)
            - self.hard.entropy * entropy
            + self.regularizers.doubly_stochastic * penalty / count
        )
        report = {
            "nll": nll,
            "entropy": jnp.where(steps.real, of_steps, 0.0).sum() / count,
            "penalty": penalty / steps.captions,
            "tokens": (given.tokens != PAD).sum().astype(jnp.float32),
        }
        return supervised(loss, report, self.attention, given.maps, rollout.log_alpha)


def draw_relaxed(
    key: PRNGKeyArray,
    shape: tuple[int, int, int, int],
    hard: settings.Hard,
    soft_probability: Float[Array, ""] | float = 0.0,
) -> Choice:
    """The choice of `draw_choice`, with a relaxation by `hard`.

    Args:
      key: of all draws; the paths are those of `draw_choice` with this key.
      shape: (B, Q, T, L).
      hard: its temperature, K and coin.
      soft_probability: p, in [0, 1].
    """
    choice = draw_choice(key, shape, soft_probability, hard.coin)
    size = (*shape[:-1], hard.rao_samples - 1, shape[-1])
    more = jax.random.gumbel(jax.random.fold_in(key, _MORE), size)
    return choice._replace(relaxation=Relaxation(more, jnp.float32(hard.relaxation_temperature)))
