"""The fast run against the plain scan: values and every gradient, soft and hard."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from show_attend_tell import recurrence
from show_attend_tell.attention import AttentionWeights, Choice

T, B, R, L, D, H, A = 6, 2, 3, 5, 4, 7, 8


def drawn(key, *shape):
    return jax.random.normal(jax.random.key(key), shape)


def inputs(gate=True):
    weights = recurrence.Weights(
        attention=AttentionWeights(drawn(1, H, A), drawn(2, A)),
        beta=drawn(3, H) if gate else None,
        beta_bias=drawn(4) if gate else None,
        lstm=drawn(5, H + D, 4 * H),
    )
    memory = recurrence.Memory(
        drawn(6, B, L, D), jnp.exp(drawn(7, B, L, A)), drawn(8, B, H), drawn(9, B, H)
    )
    # A new caption at the first step, and within some rows.
    starts = jnp.zeros((T, B, R), bool).at[0].set(True).at[3, 0, 1].set(True).at[4, 1].set(True)
    return weights, memory, drawn(10, T, B, R, 4 * H), starts


SAMPLED = jnp.array([[False, True, False], [True, False, False]])


@pytest.mark.parametrize("gate", [True, False])
@pytest.mark.parametrize("kind", ["soft", "hard"])
def test_the_fast_run_has_the_plain_scans_values_and_gradients(kind, gate):
    weights, memory, gates, starts = inputs(gate)
    noise = jax.random.gumbel(jax.random.key(11), (T, B, R, L))
    choice = Choice(noise, SAMPLED) if kind == "hard" else None
    weigh = [drawn(20 + i, T, B, R, n) for i, n in enumerate((H, D, L, 1))]

    def total(way):
        def of(weights, memory, gates):
            h, reading = way(weights, memory, gates, starts, choice)
            parts = (h, reading.z, reading.scores, reading.beta[..., None])
            total = sum((w * part).sum() for w, part in zip(weigh, parts, strict=True))
            return total, reading.location

        return jax.jit(jax.value_and_grad(of, argnums=(0, 1, 2), has_aux=True))

    given = (weights, memory, gates)
    (plain, location), expected = total(recurrence.scan)(*given)
    (fast, same_location), gradients = total(recurrence.run)(*given)
    np.testing.assert_allclose(fast, plain, rtol=1e-5)
    np.testing.assert_array_equal(location, same_location)
    paths = jax.tree_util.tree_leaves_with_path(expected)
    for (path, leaf), got in zip(paths, jax.tree.leaves(gradients), strict=True):
        scale = float(jnp.abs(leaf).max())
        assert scale > 1e-2, path  # a gradient that could be wrong
        np.testing.assert_allclose(got, leaf, atol=1e-5 * scale, err_msg=str(path))


def test_a_caption_begins_with_the_initial_state():
    weights, memory, gates, starts = inputs()
    h, _ = recurrence.run(weights, memory, gates, starts)
    again = starts.at[3].set(True)
    restarted, _ = recurrence.run(weights, memory, gates, again)
    alone, _ = recurrence.run(weights, memory, gates[3:], again[3:])
    np.testing.assert_allclose(restarted[3:], alone, atol=1e-6)
    np.testing.assert_allclose(restarted[:3], h[:3], atol=1e-6)
    assert jnp.abs(restarted[3] - h[3]).max() > 1e-2
