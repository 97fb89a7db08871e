"""Baselines of REINFORCE (Williams 1992): what is subtracted from a credit.

A baseline that does not depend on s_t leaves the expected gradient as it is and lowers its
variance. Symbols as in `models.decoder`; Q = N R rows, row n R + r being sample n of row r.

    none
    moving_average  b_k = 0.9 b_(k-1) + 0.1 credit, of the batches before this one (Xu et al. 2015,
                    section 4.1), divided by 1 - 0.9^k, so that b_0 = 0 carries no weight. With
                    credits `to_go` and `word` it averages per word.
    learned         the moving average plus a network's correction. The network sees h_{t-1}, the
                    mean annotation, the word y_t and the number of words to go, and is fitted to
                    the credit; no gradient reaches the model.
    self_critical   the credit of the same words under arg-max attention: a second rollout.
    expected        the credit of the same words under soft attention: a second rollout.
    leave_one_out   the mean credit of the other N - 1 samples.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from show_attend_tell.models.decoder import Decoder
from show_attend_tell.models.packed import same_caption
from show_attend_tell.objectives.credit import averaged_by, credit_of, credited
from show_attend_tell.objectives.sampling import Rollout, TeacherForcing, most_probable
from show_attend_tell.settings import Hard

_DECAY = 0.9


class MovingAverage(NamedTuple):
    """b of Xu et al. 2015, section 4.1, and 1 - 0.9^k, the weight of what it has seen.

    `start`, `value` and `update` are its initial state, its value and its next state.
    """

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
        """b after a batch, of which only `counted` credits enter; unchanged if there are none."""
        count = counted.sum()
        mean = jnp.where(counted, credit, 0.0).sum() / jnp.maximum(count, 1)
        keep = jnp.where(count > 0, _DECAY, 1.0)
        return MovingAverage(keep * self.b + (1 - keep) * mean, keep * self.weight + (1 - keep))


class LearnedBaseline(nnx.Module):
    """Predicts a step's credit before s_t is drawn.

    The output is in nats per word, over the moving average's value. The gradient stops at the
    inputs.
    """

    def __init__(self, hidden: int, features: int, embedding: int, *, rngs: nnx.Rngs):
        units = 128
        self.hidden = nnx.Linear(hidden + features + embedding + 1, units, rngs=rngs)
        # Zeros: it starts as the moving average, without noise on top.
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


def leave_one_out(signal: Float[Array, "B N *S"]) -> Float[Array, "B N *S"]:
    """The mean over the other samples."""
    return (signal.sum(axis=1, keepdims=True) - signal) / (signal.shape[1] - 1)


def others_credit(
    log_probs: Float[Array, "B Q T"], weights: Float[Array, "B R T T"]
) -> Float[Array, "B Q T"]:
    """`leave_one_out`: the mean credit of the row's other samples."""
    images, rows, steps, _ = weights.shape
    credit = credit_of(log_probs, weights).reshape(images, -1, rows, steps)
    return leave_one_out(credit).reshape(log_probs.shape)


def average_credit(
    average: MovingAverage, weights: Float[Array, "B R T T"], hard: Hard
) -> Float[Array, "B R T"]:
    """`moving_average`: its value, times the words of the credit where it averages per word.

    The released code does not correct for b_0 = 0.
    """
    b = average.b if hard.released else average.value()
    return b * averaged_by(weights, hard.credit)


def network_correction(
    learned: LearnedBaseline,
    decoder: Decoder,
    rollout: Rollout,
    weights: Float[Array, "B R T T"],
) -> Float[Array, "B Q T"]:
    """`learned`: what the network adds to the moving average, in nats."""
    samples = rollout.tokens.shape[1] // weights.shape[1]
    words = jnp.tile(weights.sum(axis=-1), (1, samples, 1))
    word = decoder.embed(rollout.tokens)
    return words * learned(rollout.previous_h, rollout.mean_annotation, word, words)


def baseline_of(
    hard: Hard,
    given: TeacherForcing,
    rollout: Rollout,
    average: MovingAverage,
    learned: LearnedBaseline | None = None,
) -> Float[Array, "B Q T"]:
    """b of each step in nats; differentiable in the network's weights for `learned`.

    Args:
      hard: which baseline and which credit.
      given: the batch, for the second rollout of `self_critical` and `expected`.
      rollout: along the N sampled paths of each row.
      average: of the batches before.
      learned: the network of `learned`.
    """
    samples = rollout.tokens.shape[1] // given.tokens.shape[1]
    weights = credited(same_caption(given.tokens), hard.credit)

    def every_sample(x: Float[Array, "B R T"]) -> Float[Array, "B Q T"]:
        return jnp.tile(x, (1, samples, 1))

    if hard.baseline == "none":
        return jnp.zeros_like(rollout.log_probs)
    if hard.baseline == "moving_average":
        return every_sample(average_credit(average, weights, hard))
    if hard.baseline == "learned":
        if learned is None:
            raise ValueError("baseline 'learned' needs its network")
        correction = network_correction(learned, given.decoder, rollout, weights)
        return every_sample(average_credit(average, weights, hard)) + correction
    if hard.baseline == "leave_one_out":
        return others_credit(rollout.log_probs, weights)
    argmax = most_probable(given) if hard.baseline == "self_critical" else None
    return every_sample(credit_of(given.along(argmax).log_probs, weights))
