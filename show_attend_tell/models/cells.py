"""The cells of recurrent networks, from the gates' pre-activations.

Symbols: B inputs, R rows, H units, G gate pre-activations (4 H of an LSTM, 3 H of a GRU).
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


@jax.custom_vjp
def lstm_cell(
    c: Float[Array, "B R H"], gates: Float[Array, "B R G"]
) -> tuple[Float[Array, "B R H"], Float[Array, "B R H"]]:
    """h and c after a step of an LSTM; the gates are i, f, o, g (Xu et al. 2015, eq. 1-3).

    The gradient recomputes the gates: a scan that kept each of them would write more than it saves.
    """
    i, f, o, g = jnp.split(gates, 4, axis=-1)
    c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
    return jax.nn.sigmoid(o) * jnp.tanh(c), c


def _lstm_forward(c, gates):
    h, after = lstm_cell(c, gates)
    return (h, after), (c, gates, after)


def _lstm_backward(residuals, d):
    c, gates, after = residuals
    d_h, d_c = d
    i, f, o, g = jnp.split(gates, 4, axis=-1)
    i, f, o, g = jax.nn.sigmoid(i), jax.nn.sigmoid(f), jax.nn.sigmoid(o), jnp.tanh(g)
    tanh = jnp.tanh(after)
    d_after = d_c + d_h * o * (1 - tanh * tanh)
    d_i, d_f = d_after * g * i * (1 - i), d_after * c * f * (1 - f)
    d_o, d_g = d_h * tanh * o * (1 - o), d_after * i * (1 - g * g)
    return d_after * f, jnp.concatenate([d_i, d_f, d_o, d_g], axis=-1)


lstm_cell.defvjp(_lstm_forward, _lstm_backward)


def gru_cell(
    h: Float[Array, "B R H"], of_word: Float[Array, "B R G"], of_h: Float[Array, "B R G"]
) -> Float[Array, "B R H"]:
    """h after a step of a GRU, with the reset gate on the product, as in cuDNN (Cho et al. 2014).

    Args:
      of_word, of_h: the terms of the input and of h before the step.
    """
    reset_x, update_x, new_x = jnp.split(of_word, 3, axis=-1)
    reset_h, update_h, new_h = jnp.split(of_h, 3, axis=-1)
    new = jnp.tanh(new_x + jax.nn.sigmoid(reset_x + reset_h) * new_h)
    update = jax.nn.sigmoid(update_x + update_h)
    return update * h + (1 - update) * new
