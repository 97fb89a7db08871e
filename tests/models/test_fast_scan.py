"""The fast scan against the plain one: values and every gradient, for every variant of a step.

`unroll.run` stands for it: it is the fast scan, or that and what the state does not depend on.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from recurrences import DECODERS, ENCODERS, B, L, R, T, drawn, inputs

from show_attend_tell.models import fast_scan, recurrence, unroll
from show_attend_tell.models.attention import Choice
from show_attend_tell.models.straight_through import Relaxation

SAMPLED = jnp.array([[False, True, False], [True, False, False]])
# Soft and hard attention differ only in what they read.
HARD = (
    *("additive", "luong, additive, local_p", "local_p, renormalised"),
    *("reads nothing", "reads nothing, current", "reads expected"),
)
RELAXED = ("additive", "self-attention", "reads nothing")
# A set in which every branch of a step occurs, for each kind of attention that takes it.
EVERYDAY = {
    *((variant, "soft") for variant in ENCODERS),
    *((variant, "soft") for variant in ("masked", "without gate", "luong", "local_p on a grid")),
    *((variant, "soft") for variant in ("luong, self-attention", "entmax")),
    ("reads nothing, self-attention", "soft"),
    *((variant, "hard") for variant in ("local_p, renormalised", "reads nothing, current")),
    ("reads expected", "hard"),
    ("reads nothing", "relaxed"),
}
CASES = [
    *((variant, "soft") for variant in (*DECODERS, *ENCODERS)),
    *((variant, "hard") for variant in HARD),
    *((variant, "relaxed") for variant in RELAXED),
]
CASES = [pytest.param(*case, marks=() if case in EVERYDAY else pytest.mark.slow) for case in CASES]


def _order(settings):
    return settings.get("order", "previous") if settings.get("memory", True) else ""


@pytest.mark.parametrize("variant, kind", CASES)
def test_the_fast_run_has_the_plain_scans_values_and_gradients(kind, variant):
    settings = (DECODERS | ENCODERS)[variant]
    weights, memory, words, starts = inputs(**settings)
    noise = jax.random.gumbel(jax.random.key(11), (T, B, R, L))
    choice = None if kind == "soft" else Choice(noise, SAMPLED)
    if kind == "relaxed":
        more = jax.random.gumbel(jax.random.key(12), (T, B, R, 2, L))
        choice = Choice(noise, SAMPLED, Relaxation(more, jnp.float32(0.7)))

    def total(way):
        def of(weights, memory, words):
            h, output = way(weights, memory, words, starts, choice)
            parts = {"h": h} | output._replace(location=None)._asdict()
            # Logarithms of zero weights are arbitrary numbers, their exponentials are 0.
            for name in ("log_alpha", "self_log_alpha"):
                if parts[name] is not None:
                    parts[name] = jnp.exp(parts[name]) + jnp.maximum(parts[name], -30.0)
            parts = [part for part in parts.values() if part is not None]
            weigh = [drawn(20 + i, *part.shape) for i, part in enumerate(parts)]
            total = sum((w * part).sum() for w, part in zip(weigh, parts, strict=True))
            return total, output.location

        given = (weights, memory, words)
        return jax.jit(jax.value_and_grad(of, argnums=(0, 1, 2), has_aux=True, allow_int=True))(
            *given
        )

    (plain, location), expected = total(recurrence.scan)
    (fast, same_location), gradients = total(unroll.run)
    np.testing.assert_allclose(fast, plain, rtol=1e-5)
    if location is not None:
        np.testing.assert_array_equal(location, same_location)
    paths = jax.tree_util.tree_leaves_with_path(expected)
    for (path, leaf), got in zip(paths, jax.tree.leaves(gradients), strict=True):
        name = jax.tree_util.keystr(path)
        if leaf.dtype == jax.dtypes.float0 or ".places" in name or ".extent" in name:
            continue  # what nothing is learnt of
        if ".c0" in name and (settings.get("memory") == "gru" or settings.get("back")):
            continue  # a GRU has no c, and self-attention starts from zeros
        if ".h0" in name and settings.get("back") and _order(settings) != "previous":
            continue  # with which nothing attends
        scale = float(jnp.abs(leaf).max())
        assert scale > 1e-2, name  # a gradient that could be wrong
        np.testing.assert_allclose(got, leaf, atol=1e-5 * scale, err_msg=name)


@pytest.mark.parametrize(
    "variant",
    [
        pytest.param("additive", marks=pytest.mark.slow),  # `test_native_recurrence` has starts
        "luong",
        pytest.param("local_m", marks=pytest.mark.slow),
        "self-attention",
        "gru encoder",
    ],
)
def test_a_caption_begins_with_the_initial_state(variant):
    weights, memory, words, starts = inputs(**(DECODERS | ENCODERS)[variant])
    h, _ = fast_scan.run(weights, memory, words, starts)
    again = starts.at[3].set(True)
    restarted, _ = fast_scan.run(weights, memory, words, again)
    later = jax.tree.map(lambda x: x[3:], words)
    alone, _ = fast_scan.run(weights, memory, later, again[3:])
    np.testing.assert_allclose(restarted[3:], alone, atol=1e-6)
    np.testing.assert_allclose(restarted[:3], h[:3], atol=1e-6)
    assert jnp.abs(restarted[3] - h[3]).max() > 1e-2
