"""Training hard attention: a surrogate whose gradient estimates that of a lower bound.

Symbols as in `models.decoder`; s_t is the location sampled at step t; N paths are drawn for each
row, Q = N R, row n R + r being sample n of row r. Xu et al. 2015, section 4.1, maximise a lower
bound of log p(y|a),

    L_s = sum_s p(s|a) log p(y|s, a),

whose gradient is the expectation of d log p(y|s,a) + log p(y|s,a) d log p(s|a) (REINFORCE). The
surrogate maximised here has this estimate as its gradient:

    J = 1/N sum_n [ log p(y|s^n) + lambda_r sum_t stop_gradient(A_t) log p(s_t^n)
                    + lambda_e sum_t H(alpha_t) ]

The advantage A_t is a credit (see `credit`) minus a baseline (see `baselines`). With lambda_r = 1
and lambda_e = 0 its expected gradient is that of L_s for every baseline that does not depend on
s_t and for every credit but `mean`, and for `word` only where the state does not read the drawn
place; other values make it the paper's heuristic.

Semi-sampling: with probability p an image reads the expectation alpha in place of samples. Such
soft images are trained as in soft attention: they have no REINFORCE and no entropy term and do not
enter the moving average. The expected gradient is p times soft attention's plus 1 - p times J's.

`hard.objective` "multi_sample" replaces log p(y|s^n) and A_t by VIMCO's; see `multi_sample`.

`hard.released` follows the paper's released code. It does not divide the REINFORCE and entropy
terms by the batch, although it divides the likelihood. Its entropy counts every position, padded
and soft ones too. Its soft captions enter the moving average, whose b_0 = 0 counts. Its doubly
stochastic penalty has no gradient. One point is not reproduced: there, a credit is divided by the
length of the batch's longest caption and acts at padded steps, too. Here rows are packed, and a
credit is divided by its own caption's length and acts at its own steps.
"""

import dataclasses
from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from show_attend_tell import settings
from show_attend_tell.models.attention import Choice
from show_attend_tell.models.captioner import Captioner
from show_attend_tell.models.packed import same_caption
from show_attend_tell.objectives.baselines import LearnedBaseline, MovingAverage, baseline_of
from show_attend_tell.objectives.credit import averaged_by, credit_of, credited
from show_attend_tell.objectives.likelihood import doubly_stochastic_penalty, smooth
from show_attend_tell.objectives.multi_sample import multi_sample_terms
from show_attend_tell.objectives.objective import Batch, Report, encoder_key
from show_attend_tell.objectives.sampling import (
    Rollout,
    TeacherForcing,
    draw_both,
    entropies_of_hard,
    probability_of_soft,
)
from show_attend_tell.objectives.supervision import maps_over, supervised
from show_attend_tell.tokens import EOS, PAD


class Steps(NamedTuple):
    """Which steps count, and how many they are; no count is less than 1."""

    real: Bool[Array, "B Q T"]  # no padding
    hard: Bool[Array, "B Q T"]  # the real ones that read a sampled location
    ends: Bool[Array, "B Q T"]  # every caption's <eos>
    real_count: Int[Array, ""]
    hard_count: Int[Array, ""]
    captions: Int[Array, ""]  # a caption counts once for each sample

    @classmethod
    def of(cls, tokens: Int[Array, "B Q T"], soft: Bool[Array, "B Q"]) -> "Steps":
        """The steps of captions, of which the rows in `soft` read the expectation."""
        real, ends = tokens != PAD, tokens == EOS
        hard = real & ~soft[..., None]
        return cls(real, hard, ends, *(jnp.maximum(x.sum(), 1) for x in (real, hard, ends)))


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Reinforce:
    """Hard attention's objective: minus J (see the module) and the doubly stochastic penalty.

    As in `likelihood.soft_loss` a sum over captions, here the mean over samples, is divided by the
    batch's number of real tokens; the penalty is soft attention's, of alpha. Label smoothing acts
    on log p(y|s) where it is differentiated, never on credits.

    Attributes:
      hard: how paths are drawn and credited.
      regularizers: the doubly stochastic penalty and label smoothing.
      attention: of which the supervision applies.
    """

    hard: settings.Hard
    regularizers: settings.Loss
    attention: settings.Attention = settings.Attention()

    def init(self) -> MovingAverage:
        """A moving average of no batch. It is kept whatever the baseline."""
        return MovingAverage.start()

    def loss(
        self,
        model: Captioner,
        batch: Batch,
        key: PRNGKeyArray,
        state: MovingAverage,
        step: Int[Array, ""] | int,
    ) -> tuple[Float[Array, ""], MovingAverage, Report]:
        """See `Objective.loss` and, for what it reports, `loss_along`."""
        annotations = model.annotations(batch["inputs"], encoder_key(key))
        maps = maps_over(annotations, batch)
        given = TeacherForcing(model.decoder, annotations, batch["tokens"], key, maps)
        soft = probability_of_soft(self.hard, step)
        choice = draw_both(given, self.hard.samples, soft, self.hard.coin)
        learned = cast(LearnedBaseline | None, model.baseline)
        return self.loss_along(given, choice, state, learned)

    def loss_along(
        self,
        given: TeacherForcing,
        choice: Choice,
        average: MovingAverage,
        learned: LearnedBaseline | None = None,
    ) -> tuple[Float[Array, ""], MovingAverage, Report]:
        """The loss along given paths.

        Args:
          given: the batch, and the key of its dropout.
          choice: noise (B, Q, T, L) and coin (B, Q) of N paths a row.
          average: of the batches before.
          learned: the network of baseline `learned`.

        Returns:
          The loss, with that of the learned baseline; the next moving average; and a report: what
          `likelihood.soft_loss` reports and `loss` (without the baseline's, so comparable between
          baselines), `entropy` (nats, mean over steps of alpha), `advantage` (root mean square of
          A over the steps that have one), `baseline_error` (mean square of the learned baseline's
          error, nats per word) and what `supervised` reports.
        """
        hard = self.hard
        rollout = given.along(choice, hard.samples)
        steps = Steps.of(rollout.tokens, choice.draws_none)
        weights = credited(same_caption(given.tokens), hard.credit)
        credit = jax.lax.stop_gradient(credit_of(rollout.log_probs, weights))

        fit, report = 0.0, {}
        if hard.objective == "multi_sample":
            likelihood = credit_of(rollout.log_probs, weights)
            bound, advantage = multi_sample_terms(likelihood, given.tokens)
            nll = -bound / steps.real_count
        else:
            nll = -rollout.log_probs.sum() / steps.real_count
            advantage = credit - baseline_of(hard, given, rollout, average, learned)
            if hard.baseline == "learned":
                fit = fit_error(advantage, weights, steps)
                report["baseline_error"] = fit
        advantage = jax.lax.stop_gradient(jnp.where(steps.hard, advantage, 0.0))

        loss, shown = self._regularized(nll, advantage, rollout, steps, given)
        loss, shown = supervised(loss, shown, self.attention, given.maps, rollout.log_alpha)
        seen = averaged(steps, hard)
        by = jnp.tile(averaged_by(weights, hard.credit), (1, hard.samples, 1))
        report |= shown | {
            "loss": loss,
            "nll": -rollout.log_probs.sum() / steps.real_count,
            "tokens": (given.tokens != PAD).sum().astype(jnp.float32),
            "advantage": jnp.sqrt(jnp.square(advantage).sum() / steps.hard_count),
        }
        return loss + fit, average.update(credit / by, seen), report

    def _regularized(
        self,
        nll: Float[Array, ""],
        advantage: Float[Array, "B Q T"],
        rollout: Rollout,
        steps: Steps,
        given: TeacherForcing,
    ) -> tuple[Float[Array, ""], Report]:
        """The loss: `nll`, smoothed, minus the score and entropy terms, plus the penalty."""
        hard, count = self.hard, steps.real_count
        # The released code divides neither of the two terms, and the likelihood by the captions.
        scale = (steps.captions if hard.released else 1.0) / count
        reinforce = score_term(advantage, rollout.log_p_s) * scale
        alpha = jnp.exp(rollout.log_alpha)
        of_steps, annotations = entropies_of_hard(given.decoder, rollout), given.annotations
        entropy = jnp.where(steps.hard | hard.released, of_steps, 0.0).sum() * scale
        locations = annotations.vectors.shape[1]  # a null place owes nothing
        penalty = doubly_stochastic_penalty(
            alpha[..., :locations], rollout.tokens, annotations.mask
        )
        if hard.released:
            penalty = jax.lax.stop_gradient(penalty)
        loss = (
            smooth(nll, rollout.logits, steps.real, self.regularizers.label_smoothing)
            - hard.reinforce * reinforce
            - hard.entropy * entropy
            + self.regularizers.doubly_stochastic * penalty / count
        )
        return loss, {
            "penalty": penalty / steps.captions,
            "entropy": jnp.where(steps.real, of_steps, 0.0).sum() / count,
        }


def score_term(
    advantage: Float[Array, "B Q T"], log_p_s: Float[Array, "B Q T"]
) -> Float[Array, ""]:
    """sum_t stop_gradient(A_t) log p(s_t), to be maximised (Williams 1992)."""
    return (jax.lax.stop_gradient(advantage) * log_p_s).sum()


def fit_error(
    advantage: Float[Array, "B Q T"], weights: Float[Array, "B R T T"], steps: Steps
) -> Float[Array, ""]:
    """Mean square of the learned baseline's error per word, over steps with a sampled location.

    `advantage` is credit minus baseline; its gradient reaches the baseline's network only.
    """
    samples = advantage.shape[1] // weights.shape[1]
    words = jnp.maximum(jnp.tile(weights.sum(axis=-1), (1, samples, 1)), 1.0)
    errors = jnp.where(steps.hard, advantage / words, 0.0)
    return jnp.square(errors).sum() / steps.hard_count


def averaged(steps: Steps, hard: settings.Hard) -> Bool[Array, "B Q T"]:
    """Which steps' credits enter the moving average: every hard step's with `to_go` or `word`.

    Other credits stand at every step of a caption and count once, at its <eos>. The released code
    counts soft captions, too.
    """
    seen = steps.real if hard.released else steps.hard
    return seen if hard.credit in ("to_go", "word") else seen & steps.ends
