"""Posterior attention: the state reads where the last word came from.

After Shankar and Sarawagi 2019, "Posterior Attention Models for Sequence to Sequence Learning"
(ICLR), a step that attends with h_t and says y_t hands on the posterior context

    c_t = sum_i p(i | y_t) a_i,    p(i | y_t) = alpha_ti p(y_t | i) / p(y_t)

which the LSTM reads with the next input word. No later step depends on a drawn place, so the
likelihood with places summed out stays exact (`objectives.marginal`). With an output in product
form p(y_t | i) = exp(b_ty + g_iy) / Z_ti (`models.product_form`). A step therefore carries
log alpha_ti - log Z_ti, and the next one, which knows the word, adds g_iy. The normalisers are one
product of each step inside the scan, so this form costs more than the others.

The posterior is that of the model without the dropout of the output. Before the first word every
place counts alike, the null place included.

Symbols as in `recurrence`; E the embedding, V words.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from show_attend_tell.models.attention import read_context
from show_attend_tell.models.packed import BOS_ONLY, Starts
from show_attend_tell.models.product_form import balanced, below_maximum, log_normalisers
from show_attend_tell.models.products import matmul


class PlaceTerms(NamedTuple):
    """The places' term g of the logits; see `product_form.balanced`."""

    log: Float[Array, "B L V"]  # less the mean over places, then less the maximum over words
    exp: Float[Array, "B L V"]
    mean: Float[Array, "B 1 V"]  # over places; it belongs to the state's term


class Predictor(NamedTuple):
    """The parameters of the state's term b of the logits."""

    h: Float[Array, "H E"]  # L_h
    word: Float[Array, "E V"]  # L_o
    bias: Float[Array, " V"]


class WordTerms(NamedTuple):
    """What input words contribute."""

    hidden: Float[Array, "*T B R E"]  # to the state's term: E y_{t-1}, and the scene
    log: Float[Array, "*T B R L"]  # g of the input word; 0 for <bos>


def place_terms(place_logits: Float[Array, "B L V"], mask: Bool[Array, "B L"] | None) -> PlaceTerms:
    """The terms, from g; False in the mask is padding."""
    nothing = jnp.zeros_like(place_logits[:, :1])
    mean, place = balanced(nothing, place_logits, mask)
    log = below_maximum(place)
    return PlaceTerms(log, jnp.exp(log), mean)


def word_terms(
    places: PlaceTerms,
    words: Int[Array, "*T B R"],
    embedded: Float[Array, "*T B R E"],
    scene: Float[Array, "B E"] | None,
    starts: Starts = BOS_ONLY,
) -> WordTerms:
    """What the steps whose input is `words`, also given embedded, are handed.

    No place says what captions start with.
    """
    hidden = embedded
    if scene is not None:
        hidden += jnp.expand_dims(scene[:, None], range(embedded.ndim - 3))
    pick = jax.vmap(
        lambda log, word: jnp.moveaxis(log[:, word], 0, -1), in_axes=(0, -2), out_axes=-3
    )
    begins = jnp.isin(words, jnp.array(starts.tokens))
    return WordTerms(hidden, jnp.where(begins[..., None], 0.0, pick(places.log, words)))


def before_any_word(
    mask: Bool[Array, "B L"] | None, shape: tuple[int, ...]
) -> Float[Array, "B R L"]:
    """What the first step finds in place of log alpha - log Z: every real place alike."""
    return jnp.zeros(shape) if mask is None else jnp.where(mask[:, None], jnp.zeros(shape), -1e9)


def context(
    carried: Float[Array, "B R L"], words: WordTerms, annotations: Float[Array, "B L D"]
) -> Float[Array, "B R D"]:
    """The posterior context of the step before, whose word is this step's input.

    Args:
      carried: log alpha - log Z of the step before.
      words: of this step.
    """
    return read_context(jax.nn.log_softmax(carried + words.log, axis=-1), annotations)[0]


def carry(
    places: PlaceTerms,
    predictor: Predictor,
    words: WordTerms,
    h: Float[Array, "B R H"],
    log_alpha: Float[Array, "B R L"],
    tanh: bool,
) -> Float[Array, "B R L"]:
    """log alpha - log Z of a step.

    Args:
      words: of this step.
      h: the state that predicts.
      tanh: whether the state's term has one.
    """
    hidden = words.hidden + matmul(h, predictor.h)
    hidden = jnp.tanh(hidden) if tanh else hidden
    b = matmul(hidden, predictor.word) + predictor.bias[None, None] + places.mean
    return log_alpha - log_normalisers(below_maximum(b), places.exp)
