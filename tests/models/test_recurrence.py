"""Variants of a step against their papers' equations in NumPy."""

import jax
import numpy as np
from recurrences import B, H, L, R, T, inputs

from show_attend_tell.models import fast_scan


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def lstm(c, gates):
    i, f, o, g = np.split(gates, 4)
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    return sigmoid(o) * np.tanh(c), c


def run(*given):
    """`fast_scan.run` as one program, its results in NumPy."""
    return jax.tree.map(np.asarray, jax.jit(fast_scan.run)(*given))


def test_self_attention_is_the_lstmns_equations():
    """Cheng et al. 2016, eq. 5-11, one word after the other."""
    weights, memory, words, starts = inputs(memory=False, back=True)
    starts = starts.at[1:].set(False)
    h, output = run(weights, memory, words, starts)
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
            found = np.exp(np.asarray(output.self_log_alpha[t, b, r]))
            np.testing.assert_allclose(found[: t + 1], s, atol=1e-5)
            np.testing.assert_array_equal(found[t + 1 :], 0)
            hs.append(new_h)
            cs.append(new_c)


def test_luongs_order_attends_with_the_present_state_and_feeds_its_output():
    """Luong et al. 2015, eq. 5 and section 3.3."""
    weights, memory, words, starts = inputs(order="current", product=True, gate=False)
    starts = starts.at[1:].set(False)
    h, output = run(weights, memory, words, starts)
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
            np.testing.assert_allclose(output.alpha[t, b, r], alpha, atol=1e-5)
            np.testing.assert_allclose(output.attentional[t, b, r], fed, atol=2e-5)


def test_a_monotonic_window_stays_at_the_last_place_once_the_sentence_is_over():
    """Luong et al. 2015, section 3.2, local-m: p_t = t."""
    weights, memory, words, starts = inputs(window="local_m")
    _, output = fast_scan.run(weights, memory, words, starts.at[1:].set(False))
    for b, r, t in np.ndindex(B, R, T):
        last = int(memory.extent[b, 0]) - 1
        near = np.abs(np.arange(L) - min(t, last)) <= 2
        read = output.alpha[t, b, r] > 0
        np.testing.assert_array_equal(read, near & np.asarray(memory.mask[b]))


def test_a_gru_is_its_equations():
    """Cho et al. 2014, with the reset gate on the product."""
    weights, memory, words, starts = inputs(memory="gru")
    starts = starts.at[1:].set(False)
    h, _ = fast_scan.run(weights, memory, words, starts)
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
