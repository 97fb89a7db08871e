"""The decoder against the paper's equations in NumPy, and what flows where."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import nnx

from show_attend_tell.models import recurrence
from show_attend_tell.models.attention import Annotations
from show_attend_tell.models.packed import caption_starts, input_words, same_caption
from show_attend_tell.objectives.likelihood import soft_loss

B, L, F, V, T = 2, 4, 6, 11, 5
PAD, BOS, EOS = 0, 1, 2


def make(seed=0, **changes):
    sizes = dict(vocabulary=V, features=F, projection=5, embedding=3, hidden=7, units=8)
    decoder = tiny.make_decoder(**(sizes | changes), seed=seed)
    # Freshly initialised biases are zero, which would hide a missing one.
    rng = np.random.default_rng(seed + 1)
    state = nnx.state(decoder, nnx.Param)
    noise = jax.tree.map(
        lambda p: jnp.float32(np.asarray(p) + 0.3 * rng.standard_normal(p.shape)), state
    )
    nnx.update(decoder, noise)
    return decoder


# As one program: operation by operation, each would be compiled by itself.
run = nnx.jit(lambda decoder, a, tokens, key=None: decoder(a, tokens, key))


def annotations(seed=0):
    return np.random.default_rng(seed).normal(size=(B, L, F)).astype(np.float32)


# One caption a row, two in a row, an empty row.
TOKENS = np.array(
    [
        [[5, 6, 7, 8, EOS], [4, EOS, 9, 5, EOS], [PAD] * 5],
        [[4, 4, EOS, PAD, PAD], [10, EOS, EOS, PAD, PAD], [7, 6, 5, EOS, PAD]],
    ],
    np.int32,
)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def paper(decoder, a, caption):
    """Log-probabilities, alpha and beta of one caption of one image, step by step (eq. 1-7)."""

    def linear(layer, x):
        bias = 0 if layer.bias is None else np.asarray(layer.bias[...])
        return x @ np.asarray(layer.kernel[...]) + bias

    if decoder.projection is not None:
        a = linear(decoder.projection, a)
    h = np.tanh(linear(decoder.init_h, a.mean(0)))
    c = np.tanh(linear(decoder.init_c, a.mean(0)))
    embedding = np.asarray(decoder.embed.embedding[...])
    log_probs, alphas, betas = [], [], []
    for previous, word in zip([BOS, *caption[:-1]], caption, strict=True):
        attention = decoder.attention
        e = linear(attention.score, np.tanh(linear(attention.key, a) + linear(attention.query, h)))
        alpha = np.exp(e[:, 0]) / np.exp(e).sum()
        beta = 1.0 if decoder.gate is None else sigmoid(linear(decoder.gate, h))[0]
        z = beta * (alpha @ a)
        y = embedding[previous]
        gates = linear(decoder.lstm_word, y) + linear(decoder.lstm_state, np.concatenate([h, z]))
        i, f, o, g = np.split(gates, 4)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        deep = linear(decoder.output_h, h)
        if decoder.output_z is not None:
            deep = y + deep + linear(decoder.output_z, z)
        deep = np.tanh(deep) if decoder.output_tanh else deep
        if decoder.output_word is None:
            logits = deep @ embedding.T + np.asarray(decoder.output_bias[...])
        else:
            logits = linear(decoder.output_word, deep)
        log_probs.append(logits[word] - np.log(np.exp(logits).sum()))
        alphas.append(alpha)
        betas.append(beta)
    return np.array(log_probs), np.array(alphas), np.array(betas)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"projection": 0},
        {"gate": False},
        {"output_tanh": False},
        {"deep_output": False},
        {"tied": True},
    ],
)
def test_equals_the_papers_equations_for_every_caption_of_a_packed_row(changes):
    decoder, a = make(**changes), annotations()
    out = run(decoder, Annotations(jnp.array(a)), jnp.array(TOKENS))
    logits = np.asarray(out.logits)
    log_probs = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    captions = 0
    for b, r in np.ndindex(B, 3):
        row = TOKENS[b, r].tolist()
        start = 0
        for t, word in enumerate(row):
            if word == PAD:
                break
            if word == EOS:
                caption = row[start : t + 1]
                expected = paper(decoder, a[b], caption)
                steps = np.arange(start, t + 1)
                got = log_probs[b, r, steps, np.array(caption)]
                np.testing.assert_allclose(got, expected[0], rtol=2e-5, atol=2e-5)
                np.testing.assert_allclose(out.alpha[b, r, steps], expected[1], atol=1e-5)
                np.testing.assert_allclose(out.beta[b, r, steps], expected[2], atol=1e-5)
                start, captions = t + 1, captions + 1
    assert captions == 7


def test_steps_one_by_one_are_the_scan():
    decoder, a = make(), Annotations(jnp.array(annotations()))
    tokens = jnp.array(TOKENS[:, :1])
    out = run(decoder, a, tokens)

    @nnx.jit
    def steps(decoder, a, tokens):
        memory, words = decoder.memory(a), input_words(tokens)
        state, found = recurrence.initial_state(decoder.weights(), memory, 1, T), []
        for t in range(3):  # within the first caption of both images
            embedded = decoder.embed(words[:, :, t])
            words_now = decoder.word_inputs(memory, words[:, :, t], embedded)
            state, output = recurrence.step(decoder.weights(), memory, state, words_now)
            found.append((decoder.output(embedded, state.h, output.z), output.alpha))
        return found

    for t, (logits, alpha) in enumerate(steps(decoder, a, tokens)):
        np.testing.assert_allclose(logits, out.logits[:, :, t], atol=1e-5)
        np.testing.assert_allclose(alpha, out.alpha[:, :, t], atol=1e-6)


def test_starts_inputs_and_captions_of_a_packed_row():
    row = jnp.array([[[5, 6, EOS, 7, EOS, PAD]]])
    assert caption_starts(row)[0, 0].tolist() == [True, False, False, True, False, True]
    assert input_words(row)[0, 0].tolist() == [BOS, 5, 6, BOS, 7, BOS]
    first, second = [1.0, 1, 1, 0, 0, 0], [0.0, 0, 0, 1, 1, 0]
    expected = [first] * 3 + [second] * 2 + [[0.0] * 6]
    assert same_caption(row)[0, 0].tolist() == expected


def test_information_flows_only_within_a_caption_and_its_image():
    decoder, tokens = make(), jnp.array(TOKENS)

    def picked(a, b, r, t):
        return decoder(Annotations(a), tokens).logits[b, r, t].sum()

    a = jnp.array(annotations())
    gradient = jax.jit(jax.grad(picked))(a, 0, 1, 3)
    assert jnp.abs(gradient[0]).min() > 0
    assert jnp.abs(gradient[1]).max() == 0

    # Changing the first caption of a packed row leaves the second one's numbers as they are.
    other = tokens.at[0, 1, 0].set(8)
    before, after = (np.asarray(run(decoder, Annotations(a), t).logits) for t in (tokens, other))
    np.testing.assert_array_equal(before[0, 1, 2:], after[0, 1, 2:])
    assert np.abs(before[0, 1, 1] - after[0, 1, 1]).max() > 1e-4


def test_dropout_needs_a_key_and_follows_it():
    decoder = make(dropout=0.5, annotation_dropout=0.2)
    a, tokens = Annotations(jnp.array(annotations())), jnp.array(TOKENS)
    plain = run(make(), a, tokens).logits
    np.testing.assert_array_equal(run(decoder, a, tokens).logits, plain)
    one = run(decoder, a, tokens, jax.random.key(1)).logits
    np.testing.assert_array_equal(one, run(decoder, a, tokens, jax.random.key(1)).logits)
    assert jnp.abs(one - run(decoder, a, tokens, jax.random.key(2)).logits).max() > 1e-3
    assert jnp.abs(one - plain).max() > 1e-3


def test_each_dropout_drops_what_it_is_named_after():
    a, tokens = Annotations(jnp.array(annotations())), jnp.array(TOKENS)
    kept = make(projection=0, annotation_dropout=0.5).memory(a, jax.random.key(1)).annotations
    scaled = np.asarray(kept) / np.asarray(a.vectors)
    np.testing.assert_allclose(np.unique(scaled.round(4)), [0.0, 2.0])

    decoder = make(dropout=0.5)
    np.testing.assert_array_equal(decoder.memory(a, jax.random.key(1)).keys, decoder.memory(a).keys)
    embedded, h, z = jnp.ones((9, 3)), jnp.ones((9, 7)), jnp.ones((9, 5))
    exact = decoder.output(embedded, h, z)
    assert jnp.abs(decoder.output(embedded, h, z, jax.random.key(1)) - exact).max() > 1e-2
    # Only the words' dropout reaches the states.
    states = run(decoder, a, tokens).previous_h
    assert jnp.abs(run(decoder, a, tokens, jax.random.key(1)).previous_h - states).max() > 1e-3


def test_padded_places_change_nothing():
    decoder, a, tokens = make(), jnp.array(annotations()), jnp.array(TOKENS)
    padded = jnp.concatenate([a, 9 * jnp.ones_like(a)], axis=1)
    mask = jnp.broadcast_to(jnp.arange(2 * L) < L, (B, 2 * L))
    without = run(decoder, Annotations(a), tokens)
    got = run(decoder, Annotations(padded, mask), tokens)
    for name in ("logits", "previous_h", "mean_annotation"):
        np.testing.assert_allclose(getattr(got, name), getattr(without, name), atol=1e-5)
    np.testing.assert_allclose(got.alpha[..., :L], without.alpha, atol=1e-6)
    assert (got.alpha[..., L:] == 0).all()


def test_only_hard_attention_renormalises_alpha_within_a_gaussian_window():
    a, tokens = Annotations(jnp.array(annotations())), jnp.array(TOKENS)
    soft, hard = (
        run(make(window="local_p", reach=2, kind=kind, grid=(2, 2)), a, tokens).alpha.sum(axis=-1)
        for kind in ("soft", "hard")
    )
    assert soft.max() < 0.999
    np.testing.assert_allclose(hard, 1.0, rtol=1e-5)


def test_the_bias_of_the_forget_gate_begins_at_one():
    """As in Jozefowicz et al. 2015, section 2.2; the other gates' begin at zero."""
    decoder = tiny.make_decoder(vocabulary=V, features=F, hidden=7)
    bias = np.asarray(decoder.lstm_word.bias[...]).reshape(4, 7)
    np.testing.assert_array_equal(bias, np.outer([0, 1, 0, 0], np.ones(7)))


def test_an_uneven_shape_is_refused():
    with pytest.raises(Exception, match="(?i)type|shape"):
        make()(Annotations(jnp.array(annotations())), jnp.array(TOKENS[:1]))


@pytest.mark.parametrize("tied", [pytest.param(False, marks=pytest.mark.slow), True])
def test_bfloat16_products_give_nearly_the_same_loss_and_gradient(tied):
    exact = make(tied=tied, dtype="float32")
    rounded = make(tied=tied, dtype="bfloat16")
    a, tokens = Annotations(jnp.array(annotations())), jnp.array(TOKENS)

    def loss(params, graph):
        out = nnx.merge(graph, params)(a, tokens)
        assert out.logits.dtype == out.log_alpha.dtype == out.previous_h.dtype == jnp.float32
        return soft_loss(out.logits, out.alpha, tokens, doubly_stochastic=1.0, label_smoothing=0.0)[
            0
        ]

    params = nnx.state(exact, nnx.Param)
    both = jax.jit(jax.value_and_grad(loss), static_argnums=1)
    expected, gradient = both(params, nnx.graphdef(exact))
    got, near = both(params, nnx.graphdef(rounded))
    assert got != expected  # or nothing was rounded
    np.testing.assert_allclose(got, expected, rtol=0.01)
    for (path, leaf), other in zip(
        jax.tree_util.tree_leaves_with_path(gradient), jax.tree.leaves(near), strict=True
    ):
        assert other.dtype == jnp.float32, path
        assert jnp.linalg.norm(other - leaf) < 0.05 * jnp.linalg.norm(leaf) + 1e-3, path


def test_bfloat16_decodes_step_by_step_what_it_was_run_over():
    decoder = make(dtype="bfloat16")
    a, tokens = Annotations(jnp.array(annotations())), jnp.array(TOKENS[:, :1])
    forced = run(decoder, a, tokens).logits[:, :, 0]
    memory = decoder.memory(a)
    state = recurrence.initial_state(decoder.weights(), memory, 1, T)
    first = jnp.full((B, 1), BOS)
    logits, _, _ = decoder.emit(decoder.weights(), memory, state, first)
    np.testing.assert_allclose(logits, forced, atol=1e-3)
