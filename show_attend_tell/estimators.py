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
    learned         a network of h_{t-1}, the mean annotation, the word y_t and the number of words
                    to go, fitted to the credit; no gradient reaches the model.
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

from show_attend_tell.attention import Choice
from show_attend_tell.decoder import Decoder, same_caption
from show_attend_tell.errors import UserError
from show_attend_tell.objectives import doubly_stochastic_penalty, smooth, token_log_probs
from show_attend_tell.vocabulary import Vocabulary

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
      coin: unit of that draw: `image` (all captions and samples of an image together) or `batch`
        (the released code).
      reinforce: lambda_r, at least 0.
      entropy: lambda_e, in units of log p(y) over nats of entropy, at least 0.
      credit, baseline: see the module.
      released: normalises as the released code does: REINFORCE and entropy terms are not divided
        by the batch, where the likelihood is; entropy counts padded positions; and the doubly
        stochastic penalty has no gradient.
    """

    objective: str
    samples: int
    soft_probability: float
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
        if min(self.reinforce, self.entropy) < 0:
            raise UserError("config.hard.reinforce and .entropy must be 0 or more")
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
    """Predicts a step's credit per word, in nats, from what is known before s_t is drawn."""

    def __init__(self, hidden: int, features: int, embedding: int, *, rngs: nnx.Rngs):
        units = 128
        self.hidden = nnx.Linear(hidden + features + embedding + 1, units, rngs=rngs)
        self.output = nnx.Linear(units, 1, rngs=rngs)

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


def draw_choice(
    key: PRNGKeyArray, estimator: Estimator, images: int, rows: int, steps: int, locations: int
) -> Choice:
    """Gumbel noise for all steps, and the coin of the semi-sampling.

    A row's noise follows from the key and the row's number alone.
    """
    coin_key, noise_key = jax.random.split(key)
    draw = () if estimator.coin == "batch" else (images,)
    coin = jax.random.uniform(coin_key, draw) < estimator.soft_probability
    expected = jnp.broadcast_to(jnp.reshape(coin, (-1, 1)), (images, rows))
    keys = jax.vmap(lambda row: jax.random.fold_in(noise_key, row))(jnp.arange(images * rows))
    noise = jax.vmap(lambda row_key: jax.random.gumbel(row_key, (steps, locations)))(keys)
    return Choice(noise.reshape(images, rows, steps, locations), expected)


def hard_loss(
    decoder: Decoder,
    annotations: Float[Array, "B L F"],
    tokens: Int[Array, "B R T"],
    key: PRNGKeyArray,
    moving_average: MovingAverage,
    estimator: Estimator,
    *,
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
      learned: the network of baseline `learned`.
      doubly_stochastic, label_smoothing: see `objectives.soft_loss`.
      dropout: whether the decoder drops.
      choice: instead of a drawn one: noise (B, N R, T, L) and coin (B, N R), row n R + r being
        sample n of row r.

    Returns:
      The loss, and for reporting what soft_loss reports and `entropy` (nats, mean over steps of
      alpha), `advantage` (root mean square of A over steps that have one), `baseline_error` (mean
      square of the learned baseline, per word) and `moving_average` (the next one).
    """
    images, rows, steps = tokens.shape
    samples = estimator.samples
    if choice is None:
        choice = draw_choice(
            jax.random.fold_in(key, _SAMPLING),
            estimator,
            images,
            samples * rows,
            steps,
            annotations.shape[1],
        )
    dropout_key = key if dropout else None
    repeated = jnp.tile(tokens, (1, samples, 1))
    out = decoder(annotations, repeated, dropout_key, choice)
    log_probs = token_log_probs(out.logits, repeated)
    same = same_caption(repeated)
    real = repeated != Vocabulary.pad
    count = jnp.maximum(real.sum(), 1)
    weights = credited(same, estimator.credit)

    def credit_of(log_probs: Float[Array, "B Q T"]) -> Float[Array, "B Q T"]:
        return jnp.einsum("brts,brs->brt", weights[:, : log_probs.shape[1]], log_probs)

    def by_sample(x: Array) -> Array:
        return x.reshape(images, samples, rows, *x.shape[2:])

    credit = jax.lax.stop_gradient(credit_of(log_probs))
    words = weights.sum(axis=-1)  # that a credit sums
    hard = real & ~choice.expected[..., None]
    fitted, extra_loss = {}, 0.0
    if estimator.objective == "multi_sample":
        bound, signal = multi_sample_bound(by_sample(credit_of(log_probs)))
        ends = (tokens == Vocabulary.eos).astype(jnp.float32)
        nll = -(ends * bound).sum() * samples / count
        advantage = signal.reshape(credit.shape) * samples
    else:
        nll = -log_probs.sum() / count
        if estimator.baseline == "none":
            baseline = jnp.zeros_like(credit)
        elif estimator.baseline == "moving_average":
            per = words if estimator.credit == "to_go" else jnp.ones_like(words)
            baseline = moving_average.value() * per
        elif estimator.baseline == "learned":
            assert learned is not None
            mean = decoder.memory(annotations, None).annotations.mean(axis=1)
            predicted = learned(out.previous_h, mean, decoder.embed(repeated), words)
            error = jnp.where(hard, predicted - credit / jnp.maximum(words, 1e-6), 0.0)
            extra_loss = jnp.square(error).sum() / jnp.maximum(hard.sum(), 1)
            fitted["baseline_error"] = extra_loss
            baseline = predicted * words
        elif estimator.baseline == "leave_one_out":
            baseline = leave_one_out(by_sample(credit)).reshape(credit.shape)
        else:
            other = None
            if estimator.baseline == "self_critical":
                other = Choice(
                    jnp.zeros_like(choice.noise[:, :rows]), jnp.zeros((images, rows), bool)
                )
            second = decoder(annotations, tokens, dropout_key, other)
            rollout = credit_of(token_log_probs(second.logits, tokens))
            baseline = jnp.tile(rollout, (1, samples, 1))
        advantage = credit - baseline
    advantage = jax.lax.stop_gradient(jnp.where(hard, advantage, 0.0))

    log_alpha = jax.nn.log_softmax(out.scores, axis=-1)
    alpha = jnp.exp(log_alpha)
    log_p_s = jnp.take_along_axis(log_alpha, out.location[..., None], axis=-1)[..., 0]
    entropies = -(alpha * log_alpha).sum(axis=-1)
    sampled = jnp.broadcast_to(~choice.expected[..., None], hard.shape)
    counted = sampled if estimator.released else hard
    # The released code leaves these two terms undivided where the likelihood is a batch mean.
    captions = jnp.maximum((repeated == Vocabulary.eos).sum(), 1)
    scale = (captions if estimator.released else 1.0) / count
    reinforce = (advantage * log_p_s).sum() * scale
    entropy = jnp.where(counted, entropies, 0.0).sum() * scale

    penalty = doubly_stochastic_penalty(alpha, repeated, same)
    if estimator.released:
        penalty = jax.lax.stop_gradient(penalty)
    loss = (
        smooth(nll, out.logits, real, label_smoothing)
        - estimator.reinforce * reinforce
        - estimator.entropy * entropy
        + doubly_stochastic * penalty / count
    )
    steps_counted = jnp.maximum(hard.sum(), 1)
    per = words if estimator.credit == "to_go" else jnp.ones_like(words)
    ends = hard & (repeated == Vocabulary.eos)
    return loss + extra_loss, fitted | {
        "nll": -log_probs.sum() / count,
        "penalty": penalty / captions,
        "tokens": (tokens != Vocabulary.pad).sum().astype(jnp.float32),
        "entropy": jnp.where(real, entropies, 0.0).sum() / count,
        "advantage": jnp.sqrt(jnp.square(advantage).sum() / steps_counted),
        "moving_average": moving_average.update(
            credit / jnp.maximum(per, 1.0), hard if estimator.credit == "to_go" else ends
        ),
    }
