"""Random weights and inputs of every variant of a step."""

import jax
import jax.numpy as jnp

from show_attend_tell.models import recurrence

T, B, R, L, D, H, A = 6, 2, 3, 5, 4, 7, 8


def drawn(key, *shape):
    return jax.random.normal(jax.random.key(key), shape)


def inputs(
    *,
    gate=True,
    product=False,
    order="previous",
    window="global",
    back=False,
    memory=True,
    masked=True,
    grid=False,
    renormalise=False,
    reads="drawn",
    read_out="softmax",
):
    """Random weights, memory, words and starts of one variant of a step."""
    luong = order == "current" and reads != "nothing"
    read = H if luong else D if memory and reads != "nothing" else 0
    cell = "gru" if memory == "gru" else "lstm"
    gates = (3 if cell == "gru" else 4) * H
    attends = memory is True
    coordinates = 2 if grid else 1
    weights = recurrence.Weights(
        matrices=recurrence.Matrices(
            lstm=drawn(5, H + (read if attends else 0), gates),
            query=drawn(1, H, A) if attends and not product else None,
            beta=drawn(3, H, 1) if attends and gate else None,
            centre=drawn(12, H, A) if window == "local_p" else None,
            combine=drawn(13, D + H, H) if luong else None,
            self_key=drawn(14, H, A) if back else None,
            self_query=drawn(15, H, A) if back else None,
        ),
        score=drawn(2, A) if attends and not product else None,
        beta_bias=drawn(4) if attends and gate else None,
        centre_score=drawn(16, A, coordinates) if window == "local_p" else None,
        self_score=drawn(17, A) if back else None,
        config=recurrence.StepConfig(cell, window, 2, renormalise, order, reads, read_out),
    )
    state = drawn(8, B, H), drawn(9, B, H)
    if attends:
        keys = drawn(7, B, L, H) / 3 if product else jnp.exp(drawn(7, B, L, A))
        mask = jnp.arange(L)[None] < jnp.array([[L], [3 if masked else L]])
        places, extent = jnp.arange(L)[:, None], mask.sum(axis=1)[:, None]
        if grid:  # two rows of three, one place left out
            places = jnp.stack(jnp.divmod(jnp.arange(L), 3), axis=-1)
            extent = jnp.broadcast_to(jnp.array([[2, 3]]), (B, 2))
        local = window != "global"
        memory = recurrence.Memory(
            drawn(6, B, L, D),
            keys,
            *state,
            mask=mask if masked else None,
            places=places.astype(jnp.float32) if local else None,
            extent=extent.astype(jnp.float32) if local else None,
        )
    else:
        memory = recurrence.Memory(None, None, *state)
    words = recurrence.WordInputs(
        drawn(10, T, B, R, gates), drawn(18, T, B, R, A) if back else None
    )
    # A new caption at the first step, and within some rows.
    starts = jnp.zeros((T, B, R), bool).at[0].set(True).at[3, 0, 1].set(True).at[4, 1].set(True)
    return weights, memory, words, starts


DECODERS = {
    "additive": {"masked": False},
    "masked": {},
    "without gate": {"gate": False},
    "product": {"product": True},
    "luong": {"order": "current", "product": True},
    "luong, additive, local_p": {"order": "current", "window": "local_p"},
    "local_m": {"window": "local_m"},
    "local_p": {"window": "local_p", "product": True},
    "local_p, renormalised": {"window": "local_p", "renormalise": True},
    "local_p on a grid": {"window": "local_p", "grid": True, "masked": False},
    "self-attention": {"back": True},
    "luong, self-attention": {"back": True, "order": "current"},
    "product, self-attention": {"back": True, "product": True},
    "reads nothing": {"reads": "nothing"},
    "reads nothing, current": {"reads": "nothing", "order": "current", "window": "local_m"},
    "reads nothing, self-attention": {"reads": "nothing", "back": True, "product": True},
    "reads expected": {"reads": "expected"},
    "entmax": {"read_out": "entmax", "product": True},
}
ENCODERS = {
    "lstm encoder": {"memory": False},
    "gru encoder": {"memory": "gru"},
    "lstmn encoder": {"memory": False, "back": True},
}
