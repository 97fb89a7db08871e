"""Attention paths: drawing them, and running the decoder along them.

Symbols as in `models.decoder`; N paths of each row, Q = N R, row n R + r being sample n of row r.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from show_attend_tell.models.attention import Annotations, Choice
from show_attend_tell.models.decoder import Decoder
from show_attend_tell.models.product_form import exponentials, log_mixture
from show_attend_tell.objectives.likelihood import token_log_probs
from show_attend_tell.settings import Hard

# Decoder keys are splits 0 to 2 of a step's key. Paths are drawn from a key apart from these, so
# that dropout does not depend on sampling.
_SAMPLING = 0x5EED
_PICTURE = 0x91C7  # folded into that key: the places of a picture beside a sentence


def sampling_key(key: PRNGKeyArray) -> PRNGKeyArray:
    """The key that a training step draws its paths from."""
    return jax.random.fold_in(key, _SAMPLING)


def probability_of_soft(hard: Hard, step: Int[Array, ""] | int) -> Float[Array, ""]:
    """p of the semi-sampling at a training step, counted from 0: 1 during `soft_steps`."""
    return jnp.where(step < hard.soft_steps, 1.0, hard.soft_probability)


def flip_coin(
    key: PRNGKeyArray, images: int, probability: Float[Array, ""] | float, unit: str
) -> Bool[Array, " B"]:
    """Which images read the expectation in place of samples (Xu et al. 2015, section 4.1).

    Args:
      key: of this draw.
      images: B.
      probability: p, in [0, 1].
      unit: what shares one draw: an `image` (all of its captions and samples), or the `batch`, as
        in the released code.
    """
    draws = () if unit == "batch" else (images,)
    soft = jax.random.uniform(key, draws) < probability
    return jnp.broadcast_to(jnp.reshape(soft, (-1,)), (images,))


def draw_choice(
    key: PRNGKeyArray,
    shape: tuple[int, int, int, int],
    soft_probability: Float[Array, ""] | float = 0.0,
    coin: str = "image",
) -> Choice:
    """Gumbel noise for all steps, and the coin of the semi-sampling (see `flip_coin`).

    A row's noise follows from the key and the row's number only, whatever the batch's size.

    Args:
      key: of all draws.
      shape: (B, Q, T, L).
      soft_probability: p, in [0, 1].
      coin: `image` or `batch`.
    """
    images, rows, steps, locations = shape
    coin_key, noise_key = jax.random.split(key)
    soft = flip_coin(coin_key, images, soft_probability, coin)
    expected = jnp.broadcast_to(soft[:, None], (images, rows))
    keys = jax.vmap(lambda row: jax.random.fold_in(noise_key, row))(jnp.arange(images * rows))
    noise = jax.vmap(lambda row_key: jax.random.gumbel(row_key, (steps, locations)))(keys)
    return Choice(noise.reshape(images, rows, steps, locations), expected)


def draw_both(
    given: "TeacherForcing", samples: int, soft_probability: Float[Array, ""] | float, coin: str
) -> Choice:
    """The choice of N paths a row: of places, and of those of a picture beside a sentence.

    The coin decides for both. A soft attention reads its expectation, whatever falls.
    """
    assert given.key is not None
    key, shape = sampling_key(given.key), given.paths(samples)
    choice = draw_choice(key, shape, soft_probability, coin)
    of_picture = jax.random.fold_in(key, _PICTURE)
    return _of_hard_ones(given, choice, lambda shape: draw_choice(of_picture, shape))


def most_probable(given: "TeacherForcing") -> Choice:
    """The choice of every step's most probable place, by each attention that is hard."""

    def largest(shape: tuple[int, int, int, int]) -> Choice:
        return Choice(jnp.zeros(shape), jnp.zeros(shape[:2], bool))

    return _of_hard_ones(given, largest(given.paths(1)), largest)


def _of_hard_ones(
    given: "TeacherForcing",
    choice: Choice,
    of_picture: Callable[[tuple[int, int, int, int]], Choice],
) -> Choice:
    """A choice of words, with that of a picture if its attention is hard.

    Soft attention over the words beside a hard one reads its expectation.
    """
    sight, picture = given.decoder.sight, given.annotations.picture
    if sight is None or picture is None or not sight.hard:
        return choice
    images, rows, steps, _ = choice.noise.shape
    other = of_picture((images, rows, steps, picture.shape[1]))
    other = other._replace(expected=choice.expected)
    if not given.decoder.step_config.renormalise:
        choice = choice._replace(expected=jnp.ones_like(choice.expected))
    return choice._replace(of_picture=other)


class Rollout(NamedTuple):
    """What a pass over given captions along attention paths gives."""

    tokens: Int[Array, "B Q T"]  # the given captions
    log_probs: Float[Array, "B Q T"]  # log p(y_t | s), 0 at padding
    log_p_s: Float[Array, "B Q T"]  # log alpha of the locations read
    log_alpha: Float[Array, "B Q T L"]
    previous_h: Float[Array, "B Q T H"]
    mean_annotation: Float[Array, "B D"]
    logits: Float[Array, "B Q T V"]
    seen: Float[Array, "B Q T P"] | None = None  # log alpha over a picture that is attended to hard


def roll_out(
    decoder: Decoder,
    annotations: Annotations,
    tokens: Int[Array, "B Q T"],
    key: PRNGKeyArray | None,
    choice: Choice | None,
    *,
    mixture: bool = False,
    paths: int = 1,
) -> Rollout:
    """Runs the decoder along the paths that `choice` fixes; see `Decoder.__call__`.

    With `mixture` the logits are the log-probabilities with the places summed out.
    """
    out = decoder(annotations, tokens, key, choice, paths)
    logits = out.logits
    if mixture:
        assert out.factors is not None
        logits = log_mixture(exponentials(out.factors)).reshape(logits.shape)
    log_p_s = jnp.take_along_axis(out.log_alpha, out.location[..., None], axis=-1)[..., 0]
    look, hard = out.look, decoder.sight is not None and decoder.sight.hard
    if choice is not None and choice.of_picture is not None and look is not None:
        seen = jnp.take_along_axis(look.log_alpha, look.location[..., None], axis=-1)[..., 0]
        log_p_s = seen + jnp.where(choice.expected[..., None], 0.0, log_p_s)
    log_probs = token_log_probs(logits, tokens)
    kept = (out.previous_h, out.mean_annotation, logits)
    maps = look.log_alpha if look is not None and hard else None
    return Rollout(tokens, log_probs, log_p_s, out.log_alpha, *kept, maps)


@dataclasses.dataclass(frozen=True)
class TeacherForcing:
    """A batch whose captions are given, ready to be run along any paths.

    Attributes:
      decoder, annotations: what runs, and over what.
      tokens: the captions (B, R, T).
      key: of the decoder's dropout; None switches it off.
      maps: what attention should look at, where it is supervised (see `supervision`).
    """

    decoder: Decoder
    annotations: Annotations
    tokens: Int[Array, "B R T"]
    key: PRNGKeyArray | None = None
    maps: Float[Array, "B R T L"] | None = None

    def paths(self, samples: int) -> tuple[int, int, int, int]:
        """(B, N R, T, L): the shape of the noise of N paths a row."""
        images, rows, steps = self.tokens.shape
        places = self.decoder.places(self.annotations.vectors.shape[1])
        return images, samples * rows, steps, places

    def along(self, choice: Choice | None, samples: int = 1) -> Rollout:
        """Runs N paths a row; all paths of a row, in every call, lose the same features."""
        tokens = jnp.tile(self.tokens, (1, samples, 1))
        return roll_out(self.decoder, self.annotations, tokens, self.key, choice, paths=samples)


def entropies(
    alpha: Float[Array, "B Q T L"], log_alpha: Float[Array, "B Q T L"]
) -> Float[Array, "B Q T"]:
    """H(alpha_t) of each step in nats."""
    return -(alpha * log_alpha).sum(axis=-1)


def entropies_of_hard(decoder: Decoder, rollout: Rollout) -> Float[Array, "B Q T"]:
    """The entropy of each step's attention in nats, summed over the attentions that are hard.

    Without a picture there is one, over the words or the places of an image.
    """
    own = entropies(jnp.exp(rollout.log_alpha), rollout.log_alpha)
    if rollout.seen is None:
        return own
    of_picture = entropies(jnp.exp(rollout.seen), rollout.seen)
    return of_picture + own if decoder.step_config.renormalise else of_picture
