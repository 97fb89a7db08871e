"""The recurrence in C++ beside XLA's, at sizes of several parts.

`test_fast_scan` has all variants at small sizes.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from show_attend_tell.models import fast_scan, native, recurrence
from show_attend_tell.models.attention import Choice
from show_attend_tell.models.native import recurrence as in_cpp

needs_compiler = pytest.mark.skipif(
    not native.available(), reason="no C++ compiler, or not one CPU device"
)
T, B, R, L = 4, 5, 7, 3  # 35 rows: two tiles of the matrix units, and a part of one
SIZES = {"H": 131, "D": 70, "A": 77}  # several parts of columns, the last one ragged


def drawn(number, *shape):
    # By NumPy: of JAX, each shape would be a program.
    return jnp.asarray(np.random.default_rng(number).standard_normal(shape), jnp.float32)


def inputs(dtype, H, D, A):
    weights = recurrence.Weights(
        recurrence.Matrices(
            lstm=drawn(0, H + D, 4 * H).astype(dtype) / 10,
            query=drawn(1, H, A).astype(dtype) / 10,
            beta=drawn(2, H, 1) / 10,
        ),
        score=drawn(3, A),
        beta_bias=drawn(4),
    )
    memory = recurrence.Memory(
        annotations=drawn(5, B, L, D).astype(dtype),
        keys=jnp.exp(2 * drawn(6, B, L, A)),
        h0=drawn(7, B, H),
        c0=drawn(8, B, H),
        mask=jnp.ones((B, L), bool).at[1, 2].set(False),
    )
    words = recurrence.WordInputs(drawn(9, T, B, R, 4 * H))
    starts = jnp.zeros((T, B, R), bool).at[0].set(True).at[2, 1, 3].set(True)
    return weights, memory, words, starts


@needs_compiler
@pytest.mark.parametrize(
    ("hard", "dtype"),
    [
        pytest.param(False, "float32", marks=pytest.mark.slow),
        (False, "bfloat16"),
        (True, "float32"),
        pytest.param(True, "bfloat16", marks=pytest.mark.slow),
    ],
)
def test_values_and_gradients_are_those_of_xla(dtype, hard, monkeypatch):
    if not native.can_multiply(dtype):
        pytest.skip("no matrix units for bfloat16")
    weights, memory, words, starts = inputs(dtype, **SIZES)
    expected = jnp.zeros((B, R), bool).at[0].set(True)
    choice = Choice(jax.random.gumbel(jax.random.key(10), (T, B, R, L)), expected) if hard else None

    @jax.jit
    def total(weights, memory, words):
        h, out = fast_scan.run(weights, memory, words, starts, choice)
        parts = h, out.z, jnp.maximum(out.log_alpha, -30.0), out.beta
        return sum((drawn(20 + i, *x.shape) * x).sum() for i, x in enumerate(parts)), parts

    assert in_cpp.covers(weights, memory, choice)
    results = []
    for _ in range(2):  # in C++, then by XLA
        run = jax.value_and_grad(total, (0, 1, 2), has_aux=True, allow_int=True)
        results.append(run(weights, memory, words))
        total.clear_cache()
        monkeypatch.setattr(native, "available", lambda: False)
    rough = 2e-2 if dtype == "bfloat16" else 2e-5
    paths = jax.tree_util.tree_leaves_with_path(results[1])
    for (path, theirs), ours in zip(paths, jax.tree.leaves(results[0]), strict=True):
        if theirs.dtype == jax.dtypes.float0:
            continue
        theirs, ours = (np.asarray(x.astype(jnp.float32)) for x in (theirs, ours))
        scale = max(np.abs(theirs).max(), 1e-3)
        np.testing.assert_allclose(
            ours, theirs, atol=rough * scale, err_msg=jax.tree_util.keystr(path)
        )


@needs_compiler
def test_overflowing_products_are_saturated_not_nan():
    weights, memory, words, starts = inputs("float32", **SIZES)
    weights = weights._replace(matrices=weights.matrices._replace(query=drawn(1, 131, 77) * 1e3))
    memory = memory._replace(keys=memory.keys * 1e34)
    words = words._replace(gates=words.gates * 1e3)

    def total(words):
        h, out = fast_scan.run(weights, memory, words, starts)
        return h.sum() + out.z.sum()

    value, gradient = jax.value_and_grad(total)(words)
    assert jnp.isfinite(value) and jnp.isfinite(gradient.gates).all()
