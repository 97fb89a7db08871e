"""What the steps of a decoder compute with: its parameters, in the right number formats."""

from typing import NamedTuple

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array

from show_attend_tell.models import posterior_reading, recurrence, sight
from show_attend_tell.models.attention import Attention
from show_attend_tell.models.parts import bias_of


class Layers(NamedTuple):
    """The layers of a decoder that its steps use."""

    lstm_state: nnx.Linear
    gate: nnx.Linear | None
    combine: nnx.Linear | None
    attention: Attention
    self_attention: recurrence.SelfAttention | None
    sight: sight.Sight | None


def weights(
    layers: Layers,
    config: recurrence.StepConfig,
    dtype: jnp.dtype,
    predictor: posterior_reading.Predictor | None,
) -> recurrence.Weights:
    """What every step of the recurrence computes with.

    Args:
      layers: that have it.
      config: what the steps do.
      dtype: of the products.
      predictor: of words, if steps read a posterior.
    """

    def matrix(layer: nnx.Linear | None, *, exact: bool = False) -> Array | None:
        if layer is None:
            return None
        return jnp.asarray(layer.kernel[...], jnp.float32 if exact else dtype)

    attention, back = layers.attention, layers.self_attention
    score, query = None, None
    if attention.score is not None:
        score = attention.score.kernel[...][:, 0] / attention.temperature
        query = matrix(attention.query)
    return recurrence.Weights(
        matrices=recurrence.Matrices(
            lstm=matrix(layers.lstm_state),
            query=query,
            beta=matrix(layers.gate, exact=True),
            centre=matrix(attention.centre),
            combine=matrix(layers.combine),
            self_key=None if back is None else matrix(back.key),
            self_query=None if back is None else matrix(back.query),
        ),
        score=score,
        beta_bias=None if layers.gate is None else bias_of(layers.gate)[0],
        centre_score=matrix(attention.centre_score, exact=True),
        self_score=None if back is None else back.score.kernel[...][:, 0],
        predictor=predictor,
        config=config,
        of_picture=None if layers.sight is None else layers.sight.weights(),
    )
