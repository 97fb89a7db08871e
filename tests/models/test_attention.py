"""Scores, windows and read-outs against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import nnx

from show_attend_tell import settings
from show_attend_tell.errors import UserError
from show_attend_tell.models.attention import (
    Annotations,
    Attention,
    Choice,
    Window,
    log_weights,
    position_code,
    read_context,
    scores_of_query,
)
from show_attend_tell.objectives.likelihood import soft_loss
from show_attend_tell.tokens import EOS

A = 6


def make(features, hidden, *, seed=0, units=A, **options):
    options = settings.Attention(units=units, **options)
    return Attention(options, features=features, hidden=hidden, rngs=nnx.Rngs(seed))


def scored(attention, a, h):
    """The scores (B, R, L) as a step computes them."""
    v, query = None, jnp.asarray(h)
    if attention.score is not None:
        v = attention.score.kernel[...][:, 0] / attention.temperature
        query = query @ attention.query.kernel[...]
    return scores_of_query(v, query, attention.keys(jnp.asarray(a)))


def by_formula(score, attention, a, h):
    """One score, of vectors a (D) and h (H)."""
    parts = {}
    for name in ("key", "query", "score"):
        layer = getattr(attention, name)
        parts[name] = None if layer is None else np.asarray(layer.kernel[...])
    if score == "additive":
        bias = np.asarray(attention.key.bias[...])
        return np.tanh(a @ parts["key"] + h @ parts["query"] + bias) @ parts["score"][:, 0]
    if score == "concat":
        whole = np.concatenate([parts["query"], parts["key"]])  # W_a of [h; a]
        return np.tanh(np.concatenate([h, a]) @ whole) @ parts["score"][:, 0]
    if score == "dot":
        return h @ a
    if score == "general":
        return h @ parts["key"].T @ a
    return (h @ parts["query"]) @ (a @ parts["key"]) / np.sqrt(A)


@pytest.mark.parametrize("score", settings.SCORES)
@pytest.mark.parametrize("temperature", [1.0, 0.25])
def test_scores_and_their_gradient_equal_the_formula(score, temperature):
    rng = np.random.default_rng(0)
    features, hidden = (4, 4) if score == "dot" else (5, 4)
    attention = make(features, hidden, score=score, temperature=temperature)
    if score == "additive":
        attention.key.bias[...] = jnp.array(rng.normal(size=A), jnp.float32)
    a = rng.normal(size=(2, 3, features)).astype(np.float32)
    h = rng.normal(size=(2, 7, hidden)).astype(np.float32)
    scores = np.asarray(jax.jit(lambda a, h: scored(attention, a, h))(a, h))
    gradient = jax.jit(jax.grad(lambda a, h: scored(attention, a, h)[1, 2, 0], (0, 1)))(a, h)
    for i, r, place in np.ndindex(2, 7, 3):
        expected = by_formula(score, attention, a[i, place], h[i, r]) / temperature
        np.testing.assert_allclose(scores[i, r, place], expected, atol=2e-5)
    of_a = numeric(lambda a: by_formula(score, attention, a, h[1, 2]) / temperature, a[1, 0])
    of_h = numeric(lambda h: by_formula(score, attention, a[1, 0], h) / temperature, h[1, 2])
    np.testing.assert_allclose(gradient[0][1, 0], of_a, atol=1e-3)
    np.testing.assert_allclose(gradient[1][1, 2], of_h, atol=1e-3)


def numeric(function, x):
    """The gradient by central differences."""
    steps = 1e-3 * np.eye(x.size)
    return np.array([(function(x + step) - function(x - step)) / 2e-3 for step in steps])


def test_concat_is_additive_with_another_initialisation():
    """Luong's W_a of [h; a_i] is Bahdanau's W and U side by side."""
    concat = make(5, 4, units=300, score="concat")
    additive = make(5, 4, units=300, seed=1)
    rng = np.random.default_rng(0)
    a, h = (rng.normal(size=(2, 3, n)).astype(np.float32) for n in (5, 4))
    assert np.abs(scored(concat, a, h) - scored(additive, a, h)).max() > 0.1
    for name in ("key", "query", "score"):
        getattr(additive, name).kernel[...] = getattr(concat, name).kernel[...]
    np.testing.assert_array_equal(scored(concat, a, h), scored(additive, a, h))
    # Drawn as one matrix of nine inputs, where additive draws one of five and one of four.
    for layer in (concat.key, concat.query):
        np.testing.assert_allclose(layer.kernel[...].std(), 9**-0.5, rtol=0.1)


def test_dot_needs_vectors_of_one_size():
    with pytest.raises(UserError, match="5 features by the 4 units .*decoder.projection=4"):
        make(5, 4, score="dot")
    make(4, 4, score="dot")


def test_scores_and_gradients_stay_finite_and_right_however_large_the_arguments():
    attention = make(1, 1, units=1)
    for layer in (attention.key, attention.query, attention.score):
        layer.kernel[...] = jnp.ones((1, 1))
    values = np.array([-1e4, -60, -12, -1, -1e-3, 0, 1e-3, 1, 12, 60, 1e4], np.float32)
    a = jnp.array(values)[None, :, None]

    def scores(a, h):
        return scored(attention, a, h)[0]

    np.testing.assert_allclose(
        scores(a, a),
        np.tanh(np.clip(values, -40, 40) + np.clip(values[:, None], -40, 40)),
        atol=1e-6,
    )
    gradient = jax.jit(jax.grad(lambda a, h: scores(a, h).sum(), (0, 1)))(a, a)
    slopes = (1 - np.tanh(values + values[:, None], dtype=np.float64) ** 2) * (
        (np.abs(values) < 40) & (np.abs(values[:, None]) < 40)
    )
    np.testing.assert_allclose(gradient[0][0, :, 0], slopes.sum(0), atol=1e-5)
    np.testing.assert_allclose(gradient[1][0, :, 0], slopes.sum(1), atol=1e-5)


LARGE = jax.nn.log_softmax(jnp.array([[[0.0, np.log(3.0)], [1e4, -1e4]]]))
TWO = jnp.array([[[1.0, 10.0], [5.0, 2.0]]])


def test_the_soft_context_is_the_expectation_and_survives_large_scores():
    context, location = read_context(LARGE, TWO)
    np.testing.assert_allclose(context, [[[4.0, 4.0], [1.0, 10.0]]], atol=1e-5)
    assert location.tolist() == [[1, 0]]


def test_the_hard_context_is_one_annotation_vector_or_the_expectation():
    noise = jnp.array([[[5.0, 0.0], [0.0, 5.0]]])
    context, location = read_context(LARGE, TWO, Choice(noise, jnp.array([[False, False]])))
    assert location.tolist() == [[0, 0]]  # the noise turns the first, not the certain second
    np.testing.assert_allclose(context, [[[1.0, 10.0]] * 2], atol=1e-6)
    mixed, _ = read_context(LARGE, TWO, Choice(noise, jnp.array([[True, False]])))
    np.testing.assert_allclose(mixed, [[[4.0, 4.0], [1.0, 10.0]]], atol=1e-5)


def test_gumbel_noise_samples_alpha():
    draws = 20_000
    scores = jnp.broadcast_to(jnp.log(jnp.array([0.1, 0.2, 0.7])), (1, draws, 3))
    noise = jax.random.gumbel(jax.random.key(0), scores.shape)
    choice = Choice(noise, jnp.zeros((1, draws), bool))
    _, location = read_context(scores, jnp.eye(3)[None], choice)
    shares = np.bincount(np.asarray(location[0]), minlength=3) / draws
    np.testing.assert_allclose(shares, [0.1, 0.2, 0.7], atol=0.015)  # over four standard errors


def weights_by_formula(scores, length, centre=None, reach=None, gaussian=False, renormalise=False):
    """alpha of one row of scores, place by place, as Luong et al. 2015, section 3.2, write it."""
    places = [i for i in range(length) if centre is None or abs(i - centre) <= reach]
    factor = np.zeros(len(scores))
    for i in places:
        factor[i] = np.exp(-((i - centre) ** 2) / (2 * (reach / 2) ** 2)) if gaussian else 1.0
    total = sum(np.exp(scores[i]) for i in places)
    alpha = np.array([np.exp(e) if i in places else 0.0 for i, e in enumerate(scores)]) / total
    return alpha * factor / ((alpha * factor).sum() if renormalise else 1.0)


@pytest.mark.parametrize(
    "gaussian, renormalise", [(None, False), (False, False), (True, False), (True, True)]
)
def test_windows_and_masks_equal_the_formula(gaussian, renormalise):
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(2, 4, 7)).astype(np.float32)
    lengths, reach = np.array([7, 4]), 2
    centres = np.minimum(rng.uniform(0, 7, size=(2, 4, 1)), lengths[:, None, None]).astype(
        np.float32
    )
    mask = jnp.arange(7)[None] < jnp.array(lengths)[:, None]
    window = None
    if gaussian is not None:
        places = jnp.arange(7.0)[:, None]
        window = Window(places, jnp.array(centres), reach, gaussian, renormalise)
    alpha = np.exp(log_weights(jnp.array(scores), mask, window))
    for i, r in np.ndindex(2, 4):
        where = (None,) if gaussian is None else (centres[i, r, 0], reach, gaussian, renormalise)
        expected = weights_by_formula(scores[i, r], lengths[i], *where)
        np.testing.assert_allclose(alpha[i, r], expected, atol=1e-6)
        np.testing.assert_array_equal(alpha[i, r] == 0, expected == 0)
    sums = alpha.sum(axis=-1)
    if gaussian and not renormalise:
        assert sums.max() < 1 and sums.min() < 0.9
    else:
        np.testing.assert_allclose(sums, 1, atol=1e-6)


def test_a_window_on_a_grid_is_around_a_place_of_two_coordinates():
    places = jnp.array([[y, x] for y in range(3) for x in range(3)], jnp.float32)
    window = Window(places, jnp.array([[[0.0, 2.0]]]), 1, True, False)
    alpha = np.exp(log_weights(jnp.zeros((1, 1, 9)), None, window))[0, 0]
    edge = np.exp(-2.0) / 4  # a neighbour is two sigma away
    expected = np.zeros((3, 3))
    expected[0, 2], expected[0, 1], expected[1, 2], expected[1, 1] = 0.25, edge, edge, 4 * edge**2
    np.testing.assert_allclose(alpha.reshape(3, 3), expected, atol=1e-6)


def test_padding_has_no_weight_and_no_gradient():
    mask = jnp.array([[True, True, False]])
    a = jnp.array(np.random.default_rng(0).normal(size=(1, 3, 4)), jnp.float32)

    def entropy_and_context(scores, a):
        log_alpha = log_weights(scores, mask)
        context, _ = read_context(log_alpha, a)
        return context.sum() - (jnp.exp(log_alpha) * log_alpha).sum()

    scores = jnp.array([[[0.3, -0.2, 50.0]]])
    of_scores, of_a = jax.jit(jax.grad(entropy_and_context, (0, 1)))(scores, a)
    assert of_scores[0, 0, 2] == 0 and jnp.abs(of_scores[0, 0, :2]).min() > 1e-3
    np.testing.assert_array_equal(of_a[0, 2], 0)
    noise = jnp.array([[[0.0, 0.0, 30.0]]])
    _, location = read_context(log_weights(scores, mask), a, Choice(noise, jnp.array([[False]])))
    assert location.item() == 0


def test_without_attention_every_step_reads_the_mean():
    decoder = tiny.make_decoder(features=32, vocabulary=20, kind="none", grid=(2, 2))
    a = jnp.array(np.random.default_rng(0).normal(size=(2, 4, 32)), jnp.float32)
    tokens = jnp.array([[[5, 6, EOS]], [[7, 5, EOS]]])

    @nnx.jit
    @nnx.grad(argnums=(0, 1), has_aux=True)
    def gradient(decoder, a):
        out = decoder(Annotations(a), tokens)
        weights = {"doubly_stochastic": 1.0, "label_smoothing": 0.0}
        return soft_loss(out.logits, out.alpha, tokens, **weights)[0], out.alpha

    (by_weight, by_place), alpha = gradient(decoder, a)
    np.testing.assert_allclose(alpha, 0.25, rtol=1e-6)
    for leaf in jax.tree.leaves(nnx.state(by_weight.attention)):
        np.testing.assert_array_equal(leaf, 0)
    # All locations of an image are alike.
    np.testing.assert_allclose(by_place, by_place[:, :1].repeat(4, axis=1), atol=1e-7)
    assert jnp.abs(by_place).max() > 1e-4


@pytest.mark.parametrize(
    "setting, value, message",
    [
        ("kind", "loose", "choose one of 'soft', 'hard', 'none'"),
        ("score", "cosine", "choose one of 'additive', 'concat', 'dot', 'general', 'scaled_dot'"),
        ("window", "local", "choose one of 'global', 'local_m', 'local_p'"),
        ("order", "next", "choose one of 'previous', 'current'"),
        ("temperature", 0.0, "must be over 0"),
        ("reach", 0, "must lie in"),
        ("score", "dot", "set config.decoder.projection=4"),
    ],
)
def test_impossible_attention_is_rejected(setting, value, message):
    with pytest.raises(UserError, match=message):
        tiny.make_decoder(**{setting: value})


def test_monotonic_windows_are_for_sentences_only():
    attention = settings.Attention(window="local_m")
    images = settings.ImageData(name="shapes"), settings.ImageEncoder(name="small")
    with pytest.raises(UserError, match="on the grid of an image choose 'local_p' or 'global'"):
        settings.Settings(*images, attention=attention)
    sentences = settings.SentenceData(name="reversal"), settings.SentenceEncoder()
    settings.Settings(*sentences, attention=attention)


def test_only_images_attended_to_as_a_whole_can_lose_places():
    some, window = settings.Decoder(places_kept=0.5), settings.Attention(window="local_p")
    images = settings.ImageData(name="shapes"), settings.ImageEncoder(name="small")
    with pytest.raises(UserError, match="needs config.attention.window 'global'"):
        settings.Settings(*images, attention=window, decoder=some)
    settings.Settings(*images, decoder=some)
    sentences = settings.SentenceData(name="reversal"), settings.SentenceEncoder()
    with pytest.raises(UserError, match="places_kept is for images"):
        settings.Settings(*sentences, decoder=some)


def test_gradients_of_additive_scores_are_those_of_the_formula():
    """Both scans share the custom backward pass, so their comparison cannot see a fault in it."""
    draws = np.random.default_rng(0)
    v, query, keys = (draws.normal(size=size) for size in ((5,), (2, 3, 5), (2, 4, 5)))
    weights = draws.normal(size=(2, 3, 4))  # their sum is not 0, as a softmax would make it

    def ours(v, query, keys):
        return (weights * scores_of_query(v, query, jnp.exp(2 * keys))).sum()

    def formula(v, query, keys):
        return (weights * (jnp.tanh(query[:, :, None] + keys[:, None]) @ v)).sum()

    given = [jnp.asarray(x, jnp.float32) for x in (v, query, keys)]
    np.testing.assert_allclose(ours(*given), formula(*given), rtol=1e-5)
    for found, expected in zip(
        *(jax.jit(jax.grad(function, (0, 1, 2)))(*given) for function in (ours, formula)),
        strict=True,
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_a_position_code_says_where_a_places_middle_lies():
    code = np.asarray(position_code((1, 2)))
    assert code.shape == (2, 14)
    np.testing.assert_allclose(code[:, -2:], [[0, -0.5], [0, 0.5]], atol=1e-6)
    # sin and cos of pi, 2 pi and 4 pi times the coordinates: down 1/2, across 1/4 and 3/4.
    down = [1, 0, 0, -1, 0, 1]
    half = 0.5**0.5
    np.testing.assert_allclose(code[0, :12], [*down, half, half, 1, 0, 0, -1], atol=1e-6)
    np.testing.assert_allclose(code[1, :12], [*down, half, -half, -1, 0, 0, -1], atol=1e-6)
    options = settings.Attention(units=3, score="scaled_dot", position_code=True)
    attention = Attention(options, features=4, hidden=5, grid=(2, 2), rngs=nnx.Rngs(0))
    keys = attention.keys(jnp.ones((1, 4, 4)))
    assert np.abs(np.diff(np.asarray(keys[0]), axis=0)).max(axis=1).min() > 1e-2


def test_some_places_keep_their_vectors_and_their_numbers():
    a = jnp.arange(400 * 10.0).reshape(400, 10, 1)
    assert Annotations(a).some(1.0, jax.random.key(0)).vectors is a
    some = Annotations(a).some(0.35, jax.random.key(0))
    assert some.vectors.shape == (400, 4, 1)
    places = np.asarray(some.numbers)
    np.testing.assert_array_equal(some.vectors[..., 0], 10.0 * np.arange(400)[:, None] + places)
    assert (np.diff(places, axis=1) > 0).all()
    # Each place is kept in 0.4 of the images: 160, give or take 9.8.
    assert np.abs(np.bincount(places.reshape(-1), minlength=10) - 160).max() < 40
    assert len(np.unique(places, axis=0)) > 100
    assert Annotations(a).some(0.01, jax.random.key(0)).vectors.shape == (400, 1, 1)


def test_the_position_code_follows_the_places():
    options = settings.Attention(units=3, score="scaled_dot", position_code=True)
    attention = Attention(options, features=2, hidden=5, grid=(2, 2), rngs=nnx.Rngs(0))
    a, places = jax.random.normal(jax.random.key(1), (2, 4, 2)), jnp.array([[0, 3], [1, 2]])
    some = jnp.take_along_axis(a, places[..., None], axis=1)
    keys = jnp.take_along_axis(attention.keys(a), places[..., None], axis=1)
    np.testing.assert_allclose(attention.keys(some, places), keys, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("score", ["additive", "general"])
def test_a_null_place_has_a_learned_key_and_a_vector_of_zeros(score):
    options = settings.Attention(units=3, score=score, null_place=True)
    attention = Attention(options, features=4, hidden=5, rngs=nnx.Rngs(0))
    size = 3 if score == "additive" else 5
    attention.null_key[...] = jnp.arange(1.0, size + 1)
    a = jnp.ones((2, 3, 4))
    mask = jnp.array([[True, True, False], [True, True, True]])
    vectors, keys, allowed = attention.with_null_place(a, attention.keys(a), mask)
    assert vectors.shape == (2, 4, 4) and not vectors[:, -1].any()
    expected = np.arange(1.0, size + 1)
    if score == "additive":
        expected = np.exp(2 * expected)
    np.testing.assert_allclose(keys[:, -1], [expected] * 2, rtol=1e-5)
    np.testing.assert_array_equal(keys[:, :3], attention.keys(a))
    assert allowed.tolist() == [[True, True, False, True], [True] * 4]


def test_sparse_read_outs_keep_to_the_mask():
    scores = jnp.array([[[3.0, 1.0, 0.0, 9.0]]])
    mask = jnp.array([[True, True, True, False]])
    for name in ("sparsemax", "entmax"):
        alpha = np.exp(log_weights(scores, mask, None, name))[0, 0]
        assert alpha[3] == 0 and alpha[2] == 0
        assert alpha.sum() == pytest.approx(1, abs=1e-6)
    np.testing.assert_allclose(
        np.exp(log_weights(scores, mask, None, "sparsemax"))[0, 0], [1, 0, 0, 0], atol=1e-6
    )
