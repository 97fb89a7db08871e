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
place counts alike, so c_0 is the mean annotation vector.

Symbols as in `recurrence`; E the embedding, V words. Arguments are None only for other variants.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from show_attend_tell.models.attention import matmul, read_context
from show_attend_tell.models.product_form import below_maximum, log_normalisers
from show_attend_tell.tokens import BOS


class Said(NamedTuple):
    """What each place says: its term g of the logits."""

    log: Float[Array, "B L V"]  # less its maximum over words
    exp: Float[Array, "B L V"]


class Predictor(NamedTuple):
    """The parameters of the state's term b of the logits."""

    h: Float[Array, "H E"]  # L_h
    word: Float[Array, "E V"]  # L_o
    bias: Float[Array, " V"]


class SaidInputs(NamedTuple):
    """What input words contribute to the posterior."""

    hidden: Float[Array, "*T B R E"]  # to the state's term: E y_{t-1}, and the scene
    log: Float[Array, "*T B R L"]  # g of the input word; 0 for <bos>


def said(place_logits: Float[Array, "B L V"]) -> Said:
    """What each place says, from g."""
    log = below_maximum(place_logits)
    return Said(log, jnp.exp(log))


def said_inputs(
    places: Said,
    words: Int[Array, "*T B R"],
    embedded: Float[Array, "*T B R E"],
    scene: Float[Array, "B E"] | None,
) -> SaidInputs:
    """The inputs of the steps that read `words`."""
    hidden = embedded
    if scene is not None:
        hidden += jnp.expand_dims(scene[:, None], range(embedded.ndim - 3))
    pick = jax.vmap(
        lambda log, word: jnp.moveaxis(log[:, word], 0, -1), in_axes=(0, -2), out_axes=-3
    )
    return SaidInputs(hidden, jnp.where((words == BOS)[..., None], 0.0, pick(places.log, words)))


def nothing_said(mask: Bool[Array, "B L"] | None, shape: tuple[int, ...]) -> Float[Array, "B R L"]:
    """What the first step finds in place of log alpha - log Z: every real place alike."""
    return jnp.zeros(shape) if mask is None else jnp.where(mask[:, None], jnp.zeros(shape), -1e9)


def context(
    carried: Float[Array, "B R L"] | None,
    inputs: SaidInputs | None,
    annotations: Float[Array, "B L D"] | None,
) -> Float[Array, "B R D"]:
    """The posterior context of the step before, whose word is this step's input.

    Args:
      carried: log alpha - log Z of the step before.
      inputs: of this step.
    """
    assert carried is not None and inputs is not None and annotations is not None
    return read_context(jax.nn.log_softmax(carried + inputs.log, axis=-1), annotations)[0]


def carry(
    places: Said | None,
    predictor: Predictor | None,
    inputs: SaidInputs | None,
    h: Float[Array, "B R H"],
    log_alpha: Float[Array, "B R L"] | None,
    tanh: bool,
) -> Float[Array, "B R L"]:
    """log alpha - log Z of a step.

    Args:
      inputs: of this step.
      h: the state that predicts.
      tanh: whether the state's term has one.
    """
    assert places is not None and predictor is not None
    assert inputs is not None and log_alpha is not None
    hidden = inputs.hidden + matmul(h, predictor.h)
    hidden = jnp.tanh(hidden) if tanh else hidden
    b = below_maximum(matmul(hidden, predictor.word) + predictor.bias[None, None])
    return log_alpha - log_normalisers(b, places.exp)
