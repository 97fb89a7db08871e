"""The fast run against the plain scan: values and every gradient, of every form of a step."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from show_attend_tell.models import recurrence
from show_attend_tell.models.attention import Choice

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
):
    """Random weights, memory, words and starts of a form."""
    read = H if order == "current" else D if memory else 0
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
            combine=drawn(13, D + H, H) if order == "current" else None,
            self_key=drawn(14, H, A) if back else None,
            self_query=drawn(15, H, A) if back else None,
        ),
        score=drawn(2, A) if attends and not product else None,
        beta_bias=drawn(4) if attends and gate else None,
        centre_score=drawn(16, A, coordinates) if window == "local_p" else None,
        self_score=drawn(17, A) if back else None,
        form=recurrence.Form(cell=cell, window=window, reach=2, renormalise=renormalise),
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


SAMPLED = jnp.array([[False, True, False], [True, False, False]])
FORMS = {
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
}
ENCODERS = {
    "lstm encoder": {"memory": False},
    "gru encoder": {"memory": "gru"},
    "lstmn encoder": {"memory": False, "back": True},
}
# Soft and hard attention differ in the read-out alone.
HARD = ("additive", "luong, additive, local_p", "local_p, renormalised", "self-attention")
CASES = [(form, "soft") for form in (*FORMS, *ENCODERS)] + [(form, "hard") for form in HARD]


def _order(settings):
    return settings.get("order", "previous") if settings.get("memory", True) else ""


@pytest.mark.parametrize("form, kind", CASES)
def test_the_fast_run_has_the_plain_scans_values_and_gradients(kind, form):
    settings = (FORMS | ENCODERS)[form]
    weights, memory, words, starts = inputs(**settings)
    noise = jax.random.gumbel(jax.random.key(11), (T, B, R, L))
    choice = Choice(noise, SAMPLED) if kind == "hard" else None

    def total(way):
        def of(weights, memory, words):
            h, reading = way(weights, memory, words, starts, choice)
            parts = {"h": h} | reading._replace(location=None)._asdict()
            # Logarithms of zero weights are arbitrary numbers, their exponentials are 0.
            for name in ("log_alpha", "self_log_alpha"):
                if parts[name] is not None:
                    parts[name] = jnp.exp(parts[name]) + jnp.maximum(parts[name], -30.0)
            parts = [part for part in parts.values() if part is not None]
            weigh = [drawn(20 + i, *part.shape) for i, part in enumerate(parts)]
            total = sum((w * part).sum() for w, part in zip(weigh, parts, strict=True))
            return total, reading.location

        given = (weights, memory, words)
        return jax.jit(jax.value_and_grad(of, argnums=(0, 1, 2), has_aux=True, allow_int=True))(
            *given
        )

    (plain, location), expected = total(recurrence.scan)
    (fast, same_location), gradients = total(recurrence.run)
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


@pytest.mark.parametrize("form", ["additive", "luong", "local_m", "self-attention", "gru encoder"])
def test_a_caption_begins_with_the_initial_state(form):
    weights, memory, words, starts = inputs(**(FORMS | ENCODERS)[form])
    h, _ = recurrence.run(weights, memory, words, starts)
    again = starts.at[3].set(True)
    restarted, _ = recurrence.run(weights, memory, words, again)
    later = jax.tree.map(lambda x: x[3:], words)
    alone, _ = recurrence.run(weights, memory, later, again[3:])
    np.testing.assert_allclose(restarted[3:], alone, atol=1e-6)
    np.testing.assert_allclose(restarted[:3], h[:3], atol=1e-6)
    assert jnp.abs(restarted[3] - h[3]).max() > 1e-2


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def lstm(c, gates):
    i, f, o, g = np.split(gates, 4)
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    return sigmoid(o) * np.tanh(c), c


def test_self_attention_is_the_lstmns_equations():
    """Cheng et al. 2016, eq. 5-11, one word after the other."""
    weights, memory, words, starts = inputs(memory=False, back=True)
    starts = starts.at[1:].set(False)
    h, reading = recurrence.run(weights, memory, words, starts)
    m = {k: v if v is None else np.asarray(v) for k, v in weights.matrices._asdict().items()}
    v = np.asarray(weights.self_score)
    for b, r in np.ndindex(B, R):
        hs, cs = [np.zeros(H)], [np.zeros(H)]  # before the first step
        summary = np.zeros(H)
        for t in range(T):
            x = np.asarray(words.query[t, b, r])
            a = [v @ np.tanh(h_i @ m["self_key"] + x + summary @ m["self_query"]) for h_i in hs]
            s = np.exp(a) / np.exp(a).sum()
            summary = sum(s_i * h_i for s_i, h_i in zip(s, hs, strict=True))
            past_c = sum(s_i * c_i for s_i, c_i in zip(s, cs, strict=True))
            new_h, new_c = lstm(past_c, np.asarray(words.gates[t, b, r]) + summary @ m["lstm"])
            np.testing.assert_allclose(h[t, b, r], new_h, atol=2e-5)
            found = np.exp(np.asarray(reading.self_log_alpha[t, b, r]))
            np.testing.assert_allclose(found[: t + 1], s, atol=1e-5)
            np.testing.assert_array_equal(found[t + 1 :], 0)
            hs.append(new_h)
            cs.append(new_c)


def test_luongs_order_attends_with_the_present_state_and_feeds_its_reading():
    """Luong et al. 2015, eq. 5 and section 3.3."""
    weights, memory, words, starts = inputs(order="current", product=True, gate=False)
    starts = starts.at[1:].set(False)
    h, reading = recurrence.run(weights, memory, words, starts)
    w, combine = np.asarray(weights.matrices.lstm), np.asarray(weights.matrices.combine)
    for b, r in np.ndindex(B, R):
        a, keys = np.asarray(memory.annotations[b]), np.asarray(memory.keys[b])
        real = np.asarray(memory.mask[b])
        state, c, fed = np.asarray(memory.h0[b]), np.asarray(memory.c0[b]), np.zeros(H)
        for t in range(T):
            gates = np.asarray(words.gates[t, b, r]) + np.concatenate([state, fed]) @ w
            state, c = lstm(c, gates)
            e = np.where(real, keys @ state, -np.inf)
            alpha = np.exp(e - e.max()) / np.exp(e - e.max()).sum()
            fed = np.tanh(np.concatenate([alpha @ a, state]) @ combine)
            np.testing.assert_allclose(h[t, b, r], state, atol=2e-5)
            np.testing.assert_allclose(reading.alpha[t, b, r], alpha, atol=1e-5)
            np.testing.assert_allclose(reading.attentional[t, b, r], fed, atol=2e-5)


def test_a_gru_is_its_equations():
    """Cho et al. 2014, with the reset gate on the product."""
    weights, memory, words, starts = inputs(memory="gru")
    starts = starts.at[1:].set(False)
    h, _ = recurrence.run(weights, memory, words, starts)
    u = np.asarray(weights.matrices.lstm)
    for b, r in np.ndindex(B, R):
        state = np.asarray(memory.h0[b])
        for t in range(T):
            (rx, zx, nx), (rh, zh, nh) = (
                np.split(x, 3) for x in (np.asarray(words.gates[t, b, r]), state @ u)
            )
            new, update = np.tanh(nx + sigmoid(rx + rh) * nh), sigmoid(zx + zh)
            state = update * state + (1 - update) * new
            np.testing.assert_allclose(h[t, b, r], state, atol=2e-5)
