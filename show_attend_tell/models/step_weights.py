"""What the steps of a decoder compute with: its parameters, in the right number formats."""

from typing import TYPE_CHECKING

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array

from show_attend_tell.models import posterior_reading, recurrence
from show_attend_tell.models.parts import bias_of

if TYPE_CHECKING:
    from show_attend_tell.models.decoder import Decoder


def of(decoder: "Decoder") -> recurrence.Weights:
    """What every step of the recurrence computes with."""

    def matrix(layer: nnx.Linear | None, *, exact: bool = False) -> Array | None:
        if layer is None:
            return None
        return jnp.asarray(layer.kernel[...], jnp.float32 if exact else decoder.dtype)

    attention, back = decoder.attention, decoder.self_attention
    score, query = None, None
    if attention.score is not None:
        score = attention.score.kernel[...][:, 0] / attention.temperature
        query = matrix(attention.query)
    return recurrence.Weights(
        matrices=recurrence.Matrices(
            lstm=matrix(decoder.lstm_state),
            query=query,
            beta=matrix(decoder.gate, exact=True),
            centre=matrix(attention.centre),
            combine=matrix(decoder.combine),
            self_key=None if back is None else matrix(back.key),
            self_query=None if back is None else matrix(back.query),
        ),
        score=score,
        beta_bias=None if decoder.gate is None else bias_of(decoder.gate)[0],
        centre_score=matrix(attention.centre_score, exact=True),
        self_score=None if back is None else back.score.kernel[...][:, 0],
        predictor=_predictor(decoder),
        config=decoder.step_config,
        of_picture=None if decoder.sight is None else decoder.sight.weights(),
    )


def _predictor(decoder: "Decoder") -> posterior_reading.Predictor | None:
    if decoder.step_config.reads != "posterior":
        return None
    word, bias = decoder.embed.embedding[...].T, decoder.output_bias
    if decoder.output_word is not None:
        word, bias = decoder.output_word.kernel[...], decoder.output_word.bias
    assert bias is not None
    h, word = (jnp.asarray(x, decoder.dtype) for x in (decoder.output_h.kernel[...], word))
    return posterior_reading.Predictor(h, word, jnp.asarray(bias[...]))
