"""Training hard attention: gradient estimators of stochastic attention, and their baselines.

Symbols as in `decoder`; s_t is the location sampled at step t, N samples are drawn of an image's
attention paths. Xu et al. 2015, section 4.1, maximise a lower bound of log p(y|a),

    L_s = sum_s p(s|a) log p(y|s, a),

whose gradient is the expectation of d log p(y|s,a) + log p(y|s,a) d log p(s|a) (REINFORCE). The
surrogate maximised here has the estimate as its gradient, in the notation of their section 4.1:

    J = 1/N sum_n [ log p(y|s^n) + lambda_r sum_t stop_gradient(A_t) log p(s_t^n)
                    + lambda_e sum_t H(alpha_t) ]

where A_t, the advantage, is a credit minus a baseline. With lambda_r = 1 and lambda_e = 0 its
expected gradient is that of L_s whatever the baseline, as long as this does not depend on s_t;
other values make it the paper's heuristic.

Credits sum log p(y_t) over a part of the caption, so with lambda_r = 1 all are unbiased but `mean`:
    sequence  all words of the caption: the paper's.
    to_go     the words from t on. s_t cannot change earlier words, so this loses nothing.
    mean      the mean over the caption's words: the released code's, biased in scale.
Baselines b (Williams 1992):
    none
    moving_average  the paper's b_k = 0.9 b_(k-1) + 0.1 credit, of the batches before this one;
                    divided by 1 - 0.9^k, so that b_0 = 0 does not count. With `to_go` per word.
    learned         the moving average, corrected by a network of h_{t-1}, the mean annotation, the
                    word y_t and the number of words to go that is fitted to the credit; no
                    gradient reaches the model.
    self_critical   the same words' credit under arg-max attention: a second rollout.
    expected        the same words' credit under soft attention: a second rollout.
    leave_one_out   the mean credit of the other N - 1 samples.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from show_attend_tell.errors import UserError
from show_attend_tell.models.attention import Annotations, Choice
from show_attend_tell.models.decoder import Decoder, same_caption
from show_attend_tell.objectives.likelihood import (
    doubly_stochastic_penalty,
    smooth,
    token_log_probs,
)
from show_attend_tell.tokens import EOS, PAD

OBJECTIVES = ("reinforce", "multi_sample")
CREDITS = ("sequence", "to_go", "mean")
BASELINES = (
    "none",
    "moving_average",
    "learned",
    "self_critical",
    "expected",
    "leave_one_out",
)
_DECAY = 0.9
# Decoder keys are splits 0 to 2 of a step's key; this draws locations apart from them, so that
# dropout does not depend on sampling.
_SAMPLING = 0x5EED


@dataclasses.dataclass(frozen=True)
class Estimator:
    """How hard attention is trained (`config.hard`).

    Attributes:
      objective: `reinforce`, the surrogate J above; or `multi_sample`, the tighter bound
        E log(1/N sum_n p(y|s^n)) with leave-one-out signals (Mnih and Rezende 2016, VIMCO, eq. 9
        and 10), whose credit is `sequence` and whose baseline is `leave_one_out`.
      samples: N, paths drawn for a caption.
      soft_probability: p, with which the samples of an image are replaced by their expectation
        alpha (section 4.1, the paper's 0.5). Such images are trained as in soft attention: they
        have no REINFORCE and no entropy term and do not enter the moving average. In expectation
        the gradient is p times soft attention's plus 1 - p times that of J.
      soft_steps: first training steps in which p is 1: words and attention are learnt softly
        before locations are drawn; 0 is the paper's constant p.
      coin: unit of that draw: `image` (all captions and samples of an image together) or `batch`
        (the released code).
      reinforce: lambda_r, at least 0.
      entropy: lambda_e, in units of log p(y) over nats of entropy, at least 0.
      credit, baseline: see the module.
      released: as the released code does: REINFORCE and entropy terms are not divided by the
        batch, where the likelihood is; entropy counts every position, padded and soft ones too;
        soft captions enter the moving average, whose b_0 = 0 counts; and the doubly stochastic
        penalty has no gradient. (Its padding is not repeated: there a caption's credit is divided
        by the length of the batch's longest and acts at padded steps, too; here rows are packed,
        and it is divided by its own length and acts at its own steps.)
    """

    objective: str
    samples: int
    soft_probability: float
    soft_steps: int
    coin: str
    reinforce: float
    entropy: float
    credit: str
    baseline: str
    released: bool

    def __post_init__(self):
        for name, choices in {
            "objective": OBJECTIVES,
            "coin": ("image", "batch"),
            "credit": CREDITS,
            "baseline": BASELINES,
        }.items():
            if getattr(self, name) not in choices:
                raise UserError(
                    f"config.hard.{name} is {getattr(self, name)!r}: choose one of "
                    + ", ".join(choices)
                )
        if self.samples < 1:
            raise UserError(f"config.hard.samples is {self.samples}: it must be at least 1")
        if not 0 <= self.soft_probability <= 1:
            raise UserError(
                f"config.hard.soft_probability is {self.soft_probability}: it must lie in [0, 1]"
            )
        if min(self.reinforce, self.entropy, self.soft_steps) < 0:
            raise UserError("config.hard.reinforce, .entropy and .soft_steps must be 0 or more")
        if self.baseline == "leave_one_out" and self.samples < 2:
            raise UserError(
                "config.hard.baseline 'leave_one_out' needs config.hard.samples of 2 or more"
            )
        if self.objective == "multi_sample":
            if (self.credit, self.baseline) != ("sequence", "leave_one_out"):
                raise UserError(
                    "config.hard.objective 'multi_sample' has credit 'sequence' and baseline "
                    "'leave_one_out'; set both (with 'to_go' its gradient would be biased)"
                )
            if self.released:
                raise UserError("config.hard.released goes with objective 'reinforce' alone")


class MovingAverage(NamedTuple):
    """b of the paper, and the weight 1 - 0.9^k of what it has seen."""

    b: Float[Array, ""]
    weight: Float[Array, ""]

    @classmethod
    def start(cls) -> "MovingAverage":
        """Before the first batch."""
        return cls(jnp.zeros(()), jnp.zeros(()))

    def value(self) -> Float[Array, ""]:
        """The mean of the credits seen, recent ones weighing more; 0 before the first."""
        return self.b / jnp.where(self.weight > 0, self.weight, 1.0)

    def update(self, credit: Float[Array, "..."], counted: Bool[Array, "..."]) -> "MovingAverage":
        """b after a batch; the same where nothing of it is counted."""
        count = counted.sum()
        mean = jnp.where(counted, credit, 0.0).sum() / jnp.maximum(count, 1)
        keep = jnp.where(count > 0, _DECAY, 1.0)
        return MovingAverage(keep * self.b + (1 - keep) * mean, keep * self.weight + (1 - keep))


class LearnedBaseline(nnx.Module):
    """Predicts a step's credit per word, in nats over the moving average's, before s_t is drawn."""

    def __init__(self, hidden: int, features: int, embedding: int, *, rngs: nnx.Rngs):
        units = 128
        self.hidden = nnx.Linear(hidden + features + embedding + 1, units, rngs=rngs)
        # It starts as the moving average alone, not as noise on it.
        self.output = nnx.Linear(units, 1, kernel_init=nnx.initializers.zeros, rngs=rngs)

    def __call__(
        self,
        previous_h: Float[Array, "B R T H"],
        mean_annotation: Float[Array, "B D"],
        word: Float[Array, "B R T E"],
        words_to_go: Float[Array, "B R T"],
    ) -> Float[Array, "B R T"]:
        shape = previous_h.shape[:-1]
        mean = mean_annotation[:, None, None]
        inputs = (
            previous_h,
            jnp.broadcast_to(mean, (*shape, mean.shape[-1])),
            word,
            jnp.log(jnp.maximum(words_to_go, 1.0))[..., None],
        )
        x = jax.lax.stop_gradient(jnp.concatenate(inputs, axis=-1))
        return self.output(jax.nn.relu(self.hidden(x)))[..., 0]


def credited(same: Float[Array, "B R T T"], kind: str) -> Float[Array, "B R T T"]:
    """C[t, s]: the weight with which log p(y_s) enters the credit of the choice at step t."""
    if kind == "to_go":
        return jnp.triu(same)
    if kind == "mean":
        return same / jnp.maximum(same.sum(axis=-1, keepdims=True), 1.0)
    return same


def leave_one_out(signal: Float[Array, "B N *S"]) -> Float[Array, "B N *S"]:
    """The mean over the other samples."""
    return (signal.sum(axis=1, keepdims=True) - signal) / (signal.shape[1] - 1)


def multi_sample_bound(
    log_likelihood: Float[Array, "B N *S"],
) -> tuple[Float[Array, "B *S"], Float[Array, "B N *S"]]:
    """log(1/N sum_n p_n), and each sample's learning signal (Mnih and Rezende 2016, eq. 9, 10).

    The signal is the bound minus the bound in which p_n is replaced by the geometric mean of the
    others, so it does not depend on sample n but through p_n itself.
    """
    samples = log_likelihood.shape[1]
    bound = jax.nn.logsumexp(log_likelihood, axis=1) - jnp.log(samples)
    others = leave_one_out(log_likelihood)
    replaced = jnp.where(
        jnp.eye(samples, dtype=bool).reshape(1, samples, samples, *[1] * (others.ndim - 2)),
        others[:, None],
        log_likelihood[:, None],
    )
    without = jax.nn.logsumexp(replaced, axis=2) - jnp.log(samples)
    return bound, bound[:, None] - without


def probability_of_soft(estimator: Estimator, step: Int[Array, ""] | int) -> Float[Array, ""]:
    """p at a training step, counted from 0."""
    return jnp.where(step < estimator.soft_steps, 1.0, estimator.soft_probability)


def draw_choice(
    key: PRNGKeyArray,
    shape: tuple[int, int, int, int],
    soft_probability: Float[Array, ""] | float = 0.0,
    coin: str = "image",
) -> Choice:
    """Gumbel noise for all steps, and the coin of the semi-sampling (see `Estimator`).

    `shape` is (B, R, T, L). A row's noise follows from the key and the row's number alone.
    """
    images, rows, steps, locations = shape
    coin_key, noise_key = jax.random.split(key)
    draw = () if coin == "batch" else (images,)
    drawn = jax.random.uniform(coin_key, draw) < soft_probability
    expected = jnp.broadcast_to(jnp.reshape(drawn, (-1, 1)), (images, rows))
    keys = jax.vmap(lambda row: jax.random.fold_in(noise_key, row))(jnp.arange(images * rows))
    noise = jax.vmap(lambda row_key: jax.random.gumbel(row_key, (steps, locations)))(keys)
    return Choice(noise.reshape(images, rows, steps, locations), expected)


class Rollout(NamedTuple):
    """What a pass over given captions along sampled paths gives (Q = N R rows)."""

    log_probs: Float[Array, "B Q T"]  # log p(y_t | s), 0 at padding
    log_p_s: Float[Array, "B Q T"]  # log alpha of the locations read
    log_alpha: Float[Array, "B Q T L"]
    previous_h: Float[Array, "B Q T H"]
    mean_annotation: Float[Array, "B D"]
    logits: Float[Array, "B Q T V"]


def roll_out(
    decoder: Decoder,
    annotations: Annotations,
    tokens: Int[Array, "B Q T"],
    key: PRNGKeyArray | None,
    choice: Choice | None,
) -> Rollout:
    """Runs the decoder along the paths that `choice` draws; see `Decoder.__call__`."""
    out = decoder(annotations, tokens, key, choice)
    log_p_s = jnp.take_along_axis(out.log_alpha, out.location[..., None], axis=-1)[..., 0]
    log_probs = token_log_probs(out.logits, tokens)
    return Rollout(
        log_probs, log_p_s, out.log_alpha, out.previous_h, out.mean_annotation, out.logits
    )


def credit_of(
    log_probs: Float[Array, "B Q T"], weights: Float[Array, "B R T T"]
) -> Float[Array, "B Q T"]:
    """The credit of each step; `weights` (see `credited`) are the same for all samples of a row."""
    images, rows, steps, _ = weights.shape
    by_row = log_probs.reshape(images, -1, rows, steps)
    return jnp.einsum("brts,bnrs->bnrt", weights, by_row).reshape(log_probs.shape)


def averaged_by(weights: Float[Array, "B R T T"], credit: str) -> Float[Array, "B R T"]:
    """By what a credit is divided for the moving average: with `to_go` the words that it sums."""
    words = weights.sum(axis=-1)
    return jnp.maximum(words, 1.0) if credit == "to_go" else jnp.ones_like(words)


def baseline_of(
    estimator: Estimator,
    decoder: Decoder,
    annotations: Annotations,
    tokens: Int[Array, "B R T"],
    key: PRNGKeyArray | None,
    rollout: Rollout,
    moving_average: MovingAverage,
    learned: LearnedBaseline | None,
) -> Float[Array, "B Q T"]:
    """b of each step, for the rows of `rollout`; differentiable for `learned` alone."""
    images, rows, steps = tokens.shape
    samples = rollout.log_probs.shape[1] // rows
    weights = credited(same_caption(tokens), estimator.credit)

    def every_sample(x: Float[Array, "B R T"]) -> Float[Array, "B Q T"]:
        return jnp.tile(x, (1, samples, 1))

    if estimator.baseline == "none":
        return jnp.zeros_like(rollout.log_probs)
    if estimator.baseline in ("moving_average", "learned"):
        b = moving_average.b if estimator.released else moving_average.value()
        average = every_sample(b * averaged_by(weights, estimator.credit))
        if estimator.baseline == "moving_average":
            return average
        if learned is None:
            raise ValueError("baseline 'learned' needs its network")
        words = every_sample(weights.sum(axis=-1))
        embedded = decoder.embed(jnp.tile(tokens, (1, samples, 1)))
        network = learned(rollout.previous_h, rollout.mean_annotation, embedded, words)
        return average + words * network
    if estimator.baseline == "leave_one_out":
        credit = credit_of(rollout.log_probs, weights).reshape(images, samples, rows, steps)
        return leave_one_out(credit).reshape(rollout.log_probs.shape)
    argmax = None
    if estimator.baseline == "self_critical":
        locations = rollout.log_alpha.shape[-1]
        noise = jnp.zeros((images, rows, steps, locations))
        argmax = Choice(noise, jnp.zeros((images, rows), bool))
    second = roll_out(decoder, annotations, tokens, key, argmax)
    return every_sample(credit_of(second.log_probs, weights))


def hard_loss(
    decoder: Decoder,
    annotations: Annotations,
    tokens: Int[Array, "B R T"],
    key: PRNGKeyArray,
    moving_average: MovingAverage,
    estimator: Estimator,
    *,
    step: Int[Array, ""] | int = 0,
    learned: LearnedBaseline | None = None,
    doubly_stochastic: float,
    label_smoothing: float,
    dropout: bool = True,
    choice: Choice | None = None,
) -> tuple[Float[Array, ""], dict[str, Any]]:
    """The loss of stochastic attention: -J and the doubly stochastic penalty.

    As for `objectives.soft_loss` the sum over captions, here the mean over samples, is divided by
    the batch's number of real tokens; the penalty is soft attention's, of alpha. Label smoothing
    acts on log p(y|s) where it is differentiated, never on credits.

    Args:
      decoder, annotations, tokens: as in `Decoder.__call__`.
      key: of the step: dropout as in soft attention, and the samples.
      moving_average: of the steps before.
      estimator: see there.
      step: of the training, counted from 0, for `soft_steps`.
      learned: the network of baseline `learned`.
      doubly_stochastic, label_smoothing: see `objectives.soft_loss`.
      dropout: whether the decoder drops.
      choice: instead of a drawn one: noise (B, N R, T, L) and coin (B, N R), row n R + r being
        sample n of row r.

    Returns:
      The loss, with that of the learned baseline; and for reporting what soft_loss reports and
      `loss` (without it), `entropy` (nats, mean over steps of
      alpha), `advantage` (root mean square of A over steps that have one), `baseline_error` (mean
      square of the learned baseline, per word) and `moving_average` (the next one).
    """
    images, rows, steps = tokens.shape
    samples = estimator.samples
    if choice is None:
        shape = (images, samples * rows, steps, annotations.vectors.shape[1])
        p = probability_of_soft(estimator, step)
        choice = draw_choice(jax.random.fold_in(key, _SAMPLING), shape, p, estimator.coin)
    dropout_key = key if dropout else None
    repeated = jnp.tile(tokens, (1, samples, 1))
    rollout = roll_out(decoder, annotations, repeated, dropout_key, choice)
    real = repeated != PAD
    hard = real & ~choice.expected[..., None]
    count = jnp.maximum(real.sum(), 1)
    hard_count = jnp.maximum(hard.sum(), 1)
    captions = jnp.maximum((repeated == EOS).sum(), 1)

    weights = credited(same_caption(tokens), estimator.credit)
    credit = jax.lax.stop_gradient(credit_of(rollout.log_probs, weights))
    report = {}
    baseline_loss = 0.0
    if estimator.objective == "multi_sample":
        likelihood = credit_of(rollout.log_probs, weights)
        bound, signal = multi_sample_bound(likelihood.reshape(images, samples, rows, steps))
        # The bound stands at every step of a caption and counts once, at its <eos>. It is summed
        # over samples where J is their mean, hence the factors N over the common count.
        ends = (tokens == EOS).astype(bound.dtype)
        nll = -(ends * bound).sum() * samples / count
        advantage = samples * signal.reshape(credit.shape)
    else:
        nll = -rollout.log_probs.sum() / count
        baseline = baseline_of(
            estimator, decoder, annotations, tokens, dropout_key, rollout, moving_average, learned
        )
        advantage = credit - baseline
        if estimator.baseline == "learned":
            words = jnp.maximum(jnp.tile(weights.sum(axis=-1), (1, samples, 1)), 1.0)
            errors = jnp.where(hard, advantage / words, 0.0)
            baseline_loss = jnp.square(errors).sum() / hard_count
            report["baseline_error"] = baseline_loss
    advantage = jax.lax.stop_gradient(jnp.where(hard, advantage, 0.0))

    # The released code leaves these two terms undivided where the likelihood is a batch mean.
    scale = (captions if estimator.released else 1.0) / count
    reinforce = (advantage * rollout.log_p_s).sum() * scale
    alpha = jnp.exp(rollout.log_alpha)
    entropies = -(alpha * rollout.log_alpha).sum(axis=-1)
    entropy = jnp.where(hard | estimator.released, entropies, 0.0).sum() * scale
    penalty = doubly_stochastic_penalty(alpha, repeated, annotations.mask)
    if estimator.released:
        penalty = jax.lax.stop_gradient(penalty)
    loss = (
        smooth(nll, rollout.logits, real, label_smoothing)
        - estimator.reinforce * reinforce
        - estimator.entropy * entropy
        + doubly_stochastic * penalty / count
    )
    by = jnp.tile(averaged_by(weights, estimator.credit), (1, samples, 1))
    seen = real if estimator.released else hard
    if estimator.credit != "to_go":  # one credit a caption, which stands at every step of it
        seen &= repeated == EOS
    return loss + baseline_loss, report | {
        "loss": loss,  # what is comparable with other baselines
        "nll": -rollout.log_probs.sum() / count,
        "penalty": penalty / captions,
        "tokens": (tokens != PAD).sum().astype(jnp.float32),
        "entropy": jnp.where(real, entropies, 0.0).sum() / count,
        "advantage": jnp.sqrt(jnp.square(advantage).sum() / hard_count),
        "moving_average": moving_average.update(credit / by, seen),
    }
