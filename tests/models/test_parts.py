"""Which features make keys, vectors and the scene, and what a decoder does with them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import nnx

from show_attend_tell import settings
from show_attend_tell.errors import UserError
from show_attend_tell.models.attention import Annotations
from show_attend_tell.models.decoder import Decoder
from show_attend_tell.models.dropouts import Dropout
from show_attend_tell.models.parts import Part, Parts

SECTIONS = (("early", 2), ("late", 3), ("early", 1))  # two encoders, the second without "late"
VECTORS = jax.random.normal(jax.random.key(0), (2, 4, 6))
TOKENS = jnp.array([[[4, 5, 2]], [[5, 4, 2]]])


def make(**changes):
    sizes = {"scene": ("late",), "layer_norm": True, **changes}
    of_attention = {k: sizes.pop(k) for k in ("keys", "values") if k in sizes}
    return Decoder(
        settings.Decoder(
            projection=0, embedding=3, hidden=4, dropout=0.0, annotation_dropout=0.0, **sizes
        ),
        settings.Attention(units=3, **of_attention),
        vocabulary=6,
        features=6,
        grid=(2, 2),
        sections=SECTIONS,
        rngs=nnx.Rngs(0),
    )


def chosen(keys=(), values=(), scene=(), initial_from=()):
    attention = settings.Attention(keys=keys, values=values)
    sizes = settings.Decoder(scene=scene, initial_from=initial_from)
    return Parts.chosen(SECTIONS, 6, sizes, attention)


def test_stages_are_found_in_every_encoder():
    parts = chosen(("late",), ("early",), ("late",))
    assert parts.values.spans == ((0, 2), (5, 6)) and parts.values.size == 3
    assert parts.keys.spans == parts.scene.spans == ((2, 5),)
    np.testing.assert_array_equal(parts.values.of(VECTORS), VECTORS[..., [0, 1, 5]])
    whole = chosen()
    assert whole.values.size == whole.keys.size == 6 and whole.scene.size == 0
    assert chosen(values=("late",)).keys.spans == ((2, 5),)  # keys follow the vectors


def test_each_section_is_normalised_by_itself():
    given = np.asarray(VECTORS)
    found = np.asarray(Part(((0, 2), (2, 5))).of(VECTORS, normalised=True))
    for span in (slice(0, 2), slice(2, 5)):
        part = given[..., span]
        expected = (part - part.mean(-1, keepdims=True)) / np.sqrt(part.var(-1, keepdims=True))
        np.testing.assert_allclose(found[..., span], expected, atol=1e-3)


def test_an_unknown_stage_is_named():
    with pytest.raises(UserError, match="attention.values names 'stage9': .* early, late"):
        chosen(values=("stage9",))
    with pytest.raises(UserError, match="decoder.initial_from names 'class': .* early, late"):
        chosen(initial_from=("class",))
    with pytest.raises(UserError, match="initial_from needs .*initial_state='mean', not 'zero'"):
        settings.Decoder(initial_state="zero", initial_from=("class",))
    with pytest.raises(UserError, match="decoder.scene names 'late': .* one part only"):
        Parts.chosen((), 6, settings.Decoder(scene=("late",)), settings.Attention())


def test_the_scene_is_a_mean_over_places_that_scores_and_state_do_not_see():
    decoder = make(values=("early",))
    swapped = VECTORS.at[:, :, 2:5].set(VECTORS[:, ::-1, 2:5])  # the late stage's places move
    other = VECTORS.at[:, :, 2:5].set(-VECTORS[:, :, 2:5])
    run = jax.jit(lambda v: decoder(Annotations(v), TOKENS))
    own, moved, changed = run(VECTORS), run(swapped), run(other)
    np.testing.assert_allclose(moved.logits, own.logits, atol=1e-5)
    assert jnp.abs(changed.logits - own.logits).max() > 1e-2
    np.testing.assert_allclose(changed.log_alpha, own.log_alpha, atol=1e-6)
    np.testing.assert_allclose(changed.previous_h, own.previous_h, atol=1e-6)


def test_the_scene_is_scaled():
    whole, half = (make(values=("early",), scene_scale=scale) for scale in (1.0, 0.5))
    wanted = 0.5 * whole.memory(Annotations(VECTORS)).scene
    np.testing.assert_allclose(half.memory(Annotations(VECTORS)).scene, wanted, rtol=1e-6)


def test_training_withholds_the_scene_from_a_share_of_the_images():
    decoder = make(values=("early",), scene_dropout=0.25)
    many = Annotations(jnp.tile(VECTORS[:1], (400, 1, 1)))
    whole = decoder.memory(many).scene
    seen = decoder.memory(many, jax.random.key(0)).scene
    kept = (np.asarray(seen) != 0).any(-1)
    np.testing.assert_allclose(seen[kept], whole[kept], rtol=1e-5)
    assert kept.mean() == pytest.approx(0.75, abs=0.08)


def test_dropout_of_vectors_takes_single_features_of_the_scene():
    decoder = make(values=("early",), scene_dropout=0.0)
    decoder.annotation_dropout = Dropout(0.5, 8)
    decoder.output_scene.kernel[...] = jnp.eye(3)
    many = Annotations(jnp.tile(VECTORS[:1], (400, 1, 1)))
    whole = np.asarray(decoder.memory(many).scene)
    seen = np.asarray(decoder.memory(many, jax.random.key(0)).scene)
    kept = seen != 0
    np.testing.assert_allclose(seen[kept], 2 * whole[kept], rtol=1e-5)
    np.testing.assert_allclose(kept.mean(0), 0.5, atol=0.1)
    assert (kept.any(-1) & ~kept.all(-1)).any()


def test_keys_may_come_from_a_stage_of_their_own():
    decoder = make(values=("early",), keys=("late",), scene=())
    run = jax.jit(lambda v: decoder(Annotations(v), TOKENS))
    own = run(VECTORS)
    assert decoder.memory(Annotations(VECTORS)).annotations.shape == (2, 4, 3)
    moved = run(VECTORS.at[:, :, 2:5].set(-VECTORS[:, :, 2:5]))
    assert jnp.abs(jnp.exp(moved.log_alpha) - own.alpha).max() > 1e-2


def test_dropout_takes_the_same_from_all_places_of_an_image():
    decoder = make(place_dropout=0.5, product_form=True, gate=False, output_tanh=False)
    ones = jnp.ones((2, 4, 6))
    decoder.output_z.kernel[...] = jnp.ones((6, 3))
    key = jax.random.key(3)
    embedding = jnp.zeros((6, 3)).at[:3].set(jnp.eye(3))  # word v says feature v of the term
    decoder.embed.embedding[...] = embedding
    kept = np.asarray(decoder.place_logits(ones, key))[..., :3]
    assert set(np.unique(kept).tolist()) == {0.0, 12.0}  # 6, doubled
    np.testing.assert_array_equal(kept, np.broadcast_to(kept[:, :1], kept.shape))
    assert (kept[0, 0] != kept[1, 0]).any()  # images lose their own
    np.testing.assert_allclose(decoder.place_logits(ones)[..., :3], 6.0)
    # What a step reads loses the same, so the logits stay the sum of the two terms.
    run = jax.jit(lambda v: decoder(Annotations(v), TOKENS, key))
    out = run(VECTORS)
    read = jnp.einsum("bnl,blv->bnv", jnp.exp(out.factors.log_alpha), out.factors.place)
    difference = out.logits.reshape(read.shape) - out.factors.state - read
    np.testing.assert_allclose(difference - difference.mean(-1, keepdims=True), 0.0, atol=1e-5)


def test_tanh_of_the_states_term_includes_the_scene_and_leaves_out_the_place():
    decoder = make(product_form=True, gate=False, output_tanh=False, state_tanh=True)
    rng = np.random.default_rng(0)
    embedded, h, z = (rng.normal(size=(2, 1, size)).astype(np.float32) for size in (3, 4, 6))
    scene = rng.normal(size=(2, 3)).astype(np.float32)
    weights = jax.tree.map(np.asarray, nnx.to_pure_dict(nnx.state(decoder, nnx.Param)))
    of_state = np.tanh(embedded + h @ weights["output_h"]["kernel"] + scene[:, None])
    of_place = z @ weights["output_z"]["kernel"] + weights["output_z"]["bias"]
    wanted = (of_state + of_place) @ weights["embed"]["embedding"].T
    found = decoder.output(*map(jnp.asarray, (embedded, h, z)), None, jnp.asarray(scene))
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


def test_what_a_decoder_begins_with():
    given = Annotations(VECTORS)
    zero = tiny.make_decoder(initial_state="zero").memory(Annotations(VECTORS[..., :4]))
    assert not zero.h0.any() and not zero.c0.any()
    own = make(scene=(), values=("early",), initial_from=("late",))
    late = np.asarray(jax.nn.standardize(VECTORS[..., 2:5])).mean(1)
    memory = own.memory(given)
    for layer, found in ((own.init_h, memory.h0), (own.init_c, memory.c0)):
        wanted = np.tanh(late @ np.asarray(layer.kernel[...]) + np.asarray(layer.bias[...]))
        np.testing.assert_allclose(found, wanted, atol=1e-5)
    learned = make(scene=(), initial_state="learned")
    learned.first_state[...] = jnp.array([[1.0, 0, 0, 0], [0, 2.0, 0, 0]])
    memory = learned.memory(given)
    np.testing.assert_allclose(memory.h0, np.tanh([[1.0, 0, 0, 0]] * 2), atol=1e-6)
    np.testing.assert_allclose(memory.c0, np.tanh([[0, 2.0, 0, 0]] * 2), atol=1e-6)
