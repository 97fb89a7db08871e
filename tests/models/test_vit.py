"""Vision transformers and ConvNeXt with random weights, tiny ones: names, numbers, settings."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
import vits
from flax import nnx

from show_attend_tell import settings
from show_attend_tell.errors import UserError
from show_attend_tell.models.encoders import make_encoder, vit
from show_attend_tell.models.encoders.resizing import bicubic
from show_attend_tell.runs.encoding import annotate, annotate_one, row_shape

STORED = Path(__file__).parents[1] / "reference" / "vits.npz"
CLIP, SIGLIP, DINO, REGISTERS = (
    *("clip_vit_b32", "siglip_vit_b16"),
    *("dinov2_vit_s14", "dinov2_vit_s14_reg4"),
)
NAMES = (CLIP, SIGLIP, DINO, REGISTERS, vits.CONVNEXT)
encode = nnx.jit(lambda encoder, images: encoder(images))


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    vits.make_tiny(monkeypatch)


def make(name, size=32, **options):
    options = settings.ImageEncoder(name=name, image_size=size, **options)
    return make_encoder(options, seed=0)


def test_every_architecture_agrees_with_the_libraries_numbers_for_it(monkeypatch):
    monkeypatch.undo()
    shapes = {}
    for name, kind in vit.ARCHITECTURES.items():
        shapes[name] = (kind.patch, kind.shape.width, kind.blocks, kind.shape.heads)
    assert shapes == {
        "clip_vit_b32": (32, 768, 12, 12),
        "clip_vit_b16": (16, 768, 12, 12),
        "clip_vit_l14": (14, 1024, 24, 16),
        "siglip_vit_b16": (16, 768, 12, 12),
        "dinov2_vit_s14": (14, 384, 12, 6),
        "dinov2_vit_b14": (14, 768, 12, 12),
        "dinov2_vit_s14_reg4": (14, 384, 12, 6),
        "dinov2_vit_b14_reg4": (14, 768, 12, 12),
    }
    for name, kind in vit.ARCHITECTURES.items():
        assert kind.registers == (4 if name.endswith("reg4") else 0)
        assert kind.has_class == (not name.startswith("siglip"))
        assert kind.norm_first == name.startswith("clip")
        assert kind.shape.scaled == name.startswith("dinov2")
        pixels = np.array([0, 128, 255], np.float32).reshape(3, 1, 1, 1)
        found = (pixels - kind.pixel_mean) / np.array(kind.pixel_deviation)
        wanted = {"clip": (-1.7923, 2.0749), "siglip": (-1.0, 1.0), "dinov2": (-2.1179, 2.64)}
        low, high = wanted[name.split("_")[0]]
        assert found[0, 0, 0, 0] == pytest.approx(low, abs=1e-4)
        assert found[2, 0, 0, 2] == pytest.approx(high if low != -1.7923 else 2.1459, abs=1e-4)


@pytest.mark.parametrize(
    ("name", "size"), [(name, size) for name in NAMES for size in vits.SIZES[name]]
)
def test_agrees_with_stored_numbers_of_the_libraries(tmp_path, name, size):
    stored = np.load(STORED)
    for library in vits.LIBRARIES:
        weights, expected = str(vits.save(tmp_path, name, library)), {}
        for endpoint in vits.ENDPOINTS[name]:
            key = f"{name}/{library}/{size}/{endpoint}"
            values = np.full(stored[f"{key}/shape"], np.nan, np.float32)
            values.ravel()[stored[f"{key}/places"]] = stored[f"{key}/values"]
            expected[endpoint] = values
        assert vits.difference(weights, name, size, expected) < 1e-4, library


@pytest.mark.parametrize("library", vits.LIBRARIES)
@pytest.mark.parametrize("name", NAMES)
def test_agrees_with_the_library(tmp_path, name, library):
    pytest.importorskip("torch", reason="PyTorch is absent")
    pytest.importorskip(library, reason=f"{library} is absent")
    weights = str(vits.save(tmp_path, name, library))
    for size in vits.SIZES[name]:
        expected = vits.in_library(tmp_path, name, library, size)
        assert vits.difference(weights, name, size, expected) < 1e-4, size


def test_resizing_by_hand():
    # a = -0.75, borders repeated: at a quarter between two places.
    line = np.array([1.0, 3.0, 2.0, 5.0])
    grid = np.broadcast_to(line[None, :, None], (4, 4, 1)).astype(np.float32)
    t, a = 0.25, -0.75

    def outer(x):
        return a * (x**3 - 5 * x**2 + 8 * x - 4)

    def inner(x):
        return (a + 2) * x**3 - (a + 3) * x**2 + 1

    finer = bicubic(grid, 8, antialias=False)[0, :, 0]
    weights = [outer(1 + t), inner(t), inner(1 - t), outer(2 - t)]
    assert finer[3] == pytest.approx(np.dot(weights, line), rel=1e-5)
    # At the edge, half a place beyond the first: the first one repeats.
    t = 0.75
    weights = [outer(1 + t), inner(t), inner(1 - t), outer(2 - t)]
    assert finer[0] == pytest.approx(np.dot(weights, [1, 1, 1, 3]), rel=1e-5)
    whole = bicubic(grid, 1, antialias=True)[0, 0, 0]
    assert whole == pytest.approx(2.7, abs=0.2)  # all four places count ...
    assert bicubic(grid, 1, antialias=False)[0, 0, 0] == pytest.approx(2.375 + 0.1875, abs=0.2)
    assert bicubic(grid, 4, antialias=True) is grid


def test_places_are_patches_and_look_at_their_middles(tmp_path):
    encoder = make(CLIP, 48, weights=str(vits.save(tmp_path, CLIP, vits.TIMM)))
    assert encoder.grid == (6, 6) and encoder.features == 32
    np.testing.assert_allclose(encoder.centres, (4 + 8 * np.arange(6)) / 48)
    assert encoder.shift == 0 and encoder.cell == pytest.approx(8)
    # In reading order: what is embedded at a place is its patch's.
    images = np.zeros((2, 48, 48, 3), np.uint8)
    images[1, 8:16, 32:40] = 255
    embedded = encoder.stages[0](jnp.asarray(images, jnp.float32))
    differs = np.abs(np.asarray(embedded[1] - embedded[0])).max(-1) > 1e-3
    assert np.flatnonzero(differs).tolist() == [1 + 6 + 4]


def test_the_class_token_is_the_same_everywhere_and_stored_once(tmp_path):
    weights = str(vits.save(tmp_path, REGISTERS, vits.TIMM))
    encoder = make(REGISTERS, weights=weights, endpoints=("norm", "class", "block1"))
    assert encoder.sections == (("norm", 32), ("class", 32), ("block1", 32))
    assert encoder.pooled == ("class",) and encoder.local_features == 64
    assert row_shape(encoder) == (16 * 64 + 32,)
    image = vits.images(32)
    vectors = np.asarray(encode(encoder, image))[0]
    np.testing.assert_array_equal(vectors[:, 32:64], vectors[:1, 32:64].repeat(16, 0))
    whole, finite = annotate(*nnx.split(encoder), image)
    assert finite.all()
    np.testing.assert_allclose(annotate_one(encoder, image[0]), whole, atol=2e-3)
    mean = make(REGISTERS, weights=weights, endpoints=("norm", "block1"), pooled=("norm",))
    means = np.asarray(encode(mean, image))[0]
    np.testing.assert_allclose(means[3, :32], vectors[:, :32].mean(0), atol=1e-5)
    np.testing.assert_allclose(means[:, 32:], vectors[:, 64:], atol=1e-5)
    prints = {str(e.fingerprint()) for e in (encoder, mean, make(REGISTERS, weights=weights))}
    assert len(prints) == 3


def test_bfloat16_changes_little_and_only_products(tmp_path):
    weights = str(vits.save(tmp_path, DINO, vits.TIMM))
    exact, rough = (make(DINO, weights=weights, dtype=d) for d in ("float32", "bfloat16"))
    found, wanted = (np.asarray(encode(e, vits.images(32))) for e in (rough, exact))
    assert found.dtype == np.float32
    assert 1e-4 < np.abs(found - wanted).max() < 0.06 * np.abs(wanted).max()
    assert rough.fingerprint() != exact.fingerprint()


def test_training_begins_at_a_block(tmp_path):
    options = {"weights": str(vits.save(tmp_path, CLIP, vits.TIMM)), "endpoints": ("norm", "class")}
    encoder = make(CLIP, trainable_from="block2", **options)
    graph, state = nnx.split(encoder)
    images = jnp.asarray(vits.images(32))
    direction = jax.random.normal(jax.random.key(0), (16, encoder.features))

    @jax.jit
    @jax.grad
    def gradient(state):
        return (nnx.merge(graph, state)(images)[0] * direction).sum()

    moved = {path[1] for path, g in nnx.to_flat_state(gradient(state)) if np.abs(g[...]).max() > 0}
    assert moved == {2, 3}  # the last block and the norm
    params = {path[1] for path, _ in nnx.to_flat_state(nnx.state(encoder, nnx.Param))}
    assert params == {2, 3} and encoder.shift == 0
    with pytest.raises(UserError, match="trainable_from .* one of .*'block2', 'norm'"):
        make(CLIP, trainable_from="class", **options)


def test_weights_of_transformers_must_fit_by_name_both_ways(tmp_path):
    path = tmp_path / "w.safetensors"

    def made(name, change, **options):
        safetensors.numpy.save_file(change, path)
        return make(name, weights=str(path), **options)

    for library, missing in (
        (vits.TIMM, "blocks.1.attn.qkv.bias"),
        (vits.TRANSFORMERS, "vision_model.encoder.layers.1.self_attn.v_proj.bias"),
    ):
        arrays = vits.random_weights(CLIP, library)
        with pytest.raises(UserError, match=r"unknown to the network: .*odd\.weight"):
            made(CLIP, arrays | {"odd.weight": np.zeros(3)})
        left = {name: array for name, array in arrays.items() if name != missing}
        with pytest.raises(UserError, match=rf"w\.safetensors lacks the weights .*{missing[-20:]}"):
            made(CLIP, left)
    arrays = vits.random_weights(CLIP, vits.TIMM)
    made(CLIP, arrays | {"head.weight": np.zeros((2, 3))})  # the projection is not used
    with pytest.raises(UserError, match="pos_embed has shape .* no square of patches"):
        made(CLIP, arrays | {"pos_embed": np.zeros((1, 19, 32))})
    with pytest.raises(UserError, match="shape"):
        made(CLIP, arrays | {"cls_token": np.zeros((1, 1, 31))})
    with pytest.raises(UserError, match="lacks the weights blocks.0.ls1.gamma"):
        made(DINO, arrays | {"patch_embed.proj.bias": np.zeros(32)})
    with pytest.raises(UserError, match="holds no vision transformer by the names of timm or"):
        made(CLIP, vits.random_weights(vits.CONVNEXT, vits.TIMM))
    with pytest.raises(UserError, match="holds no ConvNeXt by the names of timm or"):
        made(vits.CONVNEXT, arrays)


@pytest.mark.parametrize(
    ("name", "size", "options", "message"),
    [
        (CLIP, 36, {}, "image_size is 36: it must be a multiple of 8 for clip_vit_b32"),
        (CLIP, 32, {"grid_stride": 16}, "grid_stride is 16, but the encoder clip_vit_b32 has no"),
        (CLIP, 32, {"endpoints": ("class",)}, "attention needs one that differs"),
        (SIGLIP, 32, {"endpoints": ("norm", "class")}, "must be different names of .*'norm'\\]"),
        (CLIP, 32, {"endpoints": ("stage1",)}, "must be different names of .*'block1'"),
        (CLIP, 32, {"weights_sha256": "0" * 64}, "not the wanted 00"),
        ("clip_vit_b33", 32, {}, "nearest is 'clip_vit_b32'"),
        (vits.CONVNEXT, 31, {}, "at least 32 for convnext_tiny"),
    ],
)
def test_bad_settings_of_transformers(tmp_path, name, size, options, message):
    known = name if name in NAMES else CLIP
    with pytest.raises(UserError, match=message):
        make(name, size, weights=str(vits.save(tmp_path, known, vits.TIMM)), **options)


def test_the_default_weights_follow_the_images_size(monkeypatch):
    asked = []
    monkeypatch.setattr(
        "show_attend_tell.models.encoders.stored.find_weights",
        lambda name: asked.append(name) or Path("gone.safetensors"),
    )
    for name, size in ((SIGLIP, 224), (SIGLIP, 256), (SIGLIP, 240), (CLIP, 224), (DINO, 224)):
        with pytest.raises(UserError, match="cannot read"):
            make(name, size)
    assert asked == [
        "timm/vit_base_patch16_siglip_224.webli",
        "timm/vit_base_patch16_siglip_256.webli",
        "timm/vit_base_patch16_siglip_224.webli",
        "timm/vit_base_patch32_clip_224.openai",
        "timm/vit_small_patch14_dinov2.lvd142m",
    ]


def test_a_transformer_stands_beside_a_cnn_of_the_same_grid(tmp_path):
    files = [vits.save(tmp_path, name, vits.TIMM) for name in (CLIP, vits.CONVNEXT)]
    both = make(
        f"{CLIP}+{vits.CONVNEXT}",
        128,
        sizes=(32, 128),
        weights="+".join(map(str, files)),
    )
    assert both.grid == (4, 4) and both.sections == (("norm", 32), ("stage4", 32))
    shape = jax.eval_shape(encode, both, jnp.zeros((2, 128, 128, 3), jnp.uint8)).shape
    assert shape == (2, 16, 64)
