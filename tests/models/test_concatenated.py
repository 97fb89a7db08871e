"""Several encoders on one grid."""

import numpy as np
import PIL.Image
import pytest
from flax import nnx

from show_attend_tell import settings
from show_attend_tell.errors import UserError
from show_attend_tell.models.encoders import Frozen, make_encoder, weights

LITES = "efficientnet_lite0+efficientnet_lite2"
encode = nnx.jit(lambda encoder, images: encoder(images))


def make(name, size, **options):
    options = settings.ImageEncoder(name=name, image_size=size, **options)
    return make_encoder(options, seed=0)


def random_images(count, size):
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 3), np.uint8)


def test_several_encoders_lie_side_by_side():
    names = ("efficientnet_lite2", "efficientnet_lite0")
    both, *apart = (make(name, 64) for name in ("+".join(names), *names))
    images = random_images(2, 64)
    assert both.grid == apart[0].grid
    np.testing.assert_allclose(both.fields, apart[0].fields)
    assert both.features == 2 * 1280
    parts = [encode(encoder, images) for encoder in apart]
    np.testing.assert_allclose(encode(both, images), np.concatenate(parts, -1), atol=1e-4)


def test_parts_of_a_smaller_size_see_the_image_scaled_down():
    images = np.kron(random_images(2, 32), np.ones((1, 4, 4, 1), np.uint8))
    both = make(
        "efficientnet_lite0+efficientnet_lite2",
        128,
        sizes=(128, 64),
        grid_stride=64,
        endpoints=("stage4@128", "stage3@64", "stage5@128"),
    )
    assert both.grid == (2, 2)
    sections = (("stage4@128", 80), ("stage5@128", 112), ("stage3@64", 48))
    assert both.sections == sections and both.features == 80 + 112 + 48
    large = make("efficientnet_lite0", 128, grid_stride=64, endpoints=("stage4", "stage5"))
    small = make("efficientnet_lite2", 64, grid_stride=32, endpoints=("stage3",))
    # Pillow rounds twice, rows after columns.
    scaled = [
        PIL.Image.fromarray(i).resize((64, 64), PIL.Image.Resampling.BILINEAR) for i in images
    ]
    found = np.asarray(encode(both, images))
    np.testing.assert_allclose(found[..., :192], encode(large, images), atol=1e-3)
    np.testing.assert_allclose(found[..., 192:], encode(small, np.stack(scaled)), atol=0.3)
    np.testing.assert_allclose(both.centres, large.centres, atol=1e-6)  # the small one: a scene
    assert abs(large.centres[0] - small.centres[0]) > 1e-3


def test_pooled_endpoints_have_their_mean_at_every_place():
    shape = {"sizes": (64, 32), "grid_stride": 16}
    shape |= {"endpoints": ("stem@64", "stem@32", "stage1@64", "stage2@64")}
    images = random_images(2, 64)
    pooled = ("stem@32", "stage1@64")
    both = make(LITES, 64, pooled=pooled, **shape)
    assert set(both.pooled) == set(pooled) and both.grid == (4, 4)
    expected = np.array(encode(make(LITES, 64, **shape), images))
    first = 0
    for name, size in both.sections:
        if name in pooled:
            section = expected[..., first : first + size]
            section[:] = section.mean(axis=1, keepdims=True)
        first += size
    assert [name in pooled for name, _ in both.sections] == [False, True, False, True]
    assert both.local_features == 32 + 24
    found = np.asarray(encode(both, images))
    np.testing.assert_allclose(found, expected, atol=1e-4)
    same = (found == found[:, :1]).all(axis=(0, 1))
    assert same[32:48].all() and same[72:].all() and not same.all()


def test_an_endpoint_is_pooled_in_every_part():
    both = make(LITES, 64, endpoints=("head", "stage7"), pooled=("head",))
    assert both.pooled == ("head",) and both.local_features == 320 + 352
    with pytest.raises(UserError, match="pooled names every endpoint"):
        make(LITES, 64, pooled=("head",))


def test_an_endpoint_of_another_part_makes_other_features():
    twice, grid = "efficientnet_lite0+efficientnet_lite0", {"sizes": (128, 64), "grid_stride": 32}
    first, second = (
        make(twice, 128, endpoints=("stage4@128", other, "stage5@64"), **grid)
        for other in ("stage3@128", "stage3@64")
    )
    assert first.fingerprint() != second.fingerprint()
    assert make("efficientnet_lite0", 64).fingerprint() != make(twice, 64).fingerprint()


def test_several_encoders_need_one_grid():
    with pytest.raises(UserError, match=r"grids of \(2, 2\) and \(8, 8\) cannot"):
        make("efficientnet_lite0+small", 64)
    with pytest.raises(UserError, match="nearest is 'efficientnet_lite0'"):
        make("efficientnet_lite2+efficientnet_light0", 64)


@pytest.mark.parametrize(
    ("name", "size", "options", "message"),
    [
        ("efficientnet_lite0", 64, {"sizes": (64,)}, "a name joined by"),
        ("vgg19+vgg19", 64, {"sizes": (64,)}, "must be 2 numbers"),
        ("vgg19+vgg19", 64, {"sizes": (96, 32)}, "the largest 64"),
        ("vgg19+vgg19", 64, {"sizes": (64, 32), "endpoints": ("conv5@16",)}, "sizes has no 16"),
        ("vgg19+vgg19", 64, {"sizes": (64, 33), "grid_stride": 32}, "33 pixels do not have"),
        (LITES, 64, {"pooled": ("stage7",)}, "pooled names 'stage7': .* are head$"),
        (
            LITES,
            64,
            {"sizes": (64, 32), "grid_stride": 16, "pooled": ("stem@32",)}
            | {"endpoints": ("stem@64", "stage1@32")},
            "pooled names 'stem@32': .* are stem@64, stage1@32$",
        ),
        ("efficientnet_lite0", 64, {"pooled": ("hed",)}, "pooled names 'hed': .* are head$"),
        ("efficientnet_lite0", 64, {"pooled": ("head",)}, "pooled names every endpoint, and"),
        (
            "small",
            64,
            {"pooled": ("head",)},
            r"pooled is \('head',\), but the encoder small has no",
        ),
    ],
)
def test_bad_sizes_and_pooled_endpoints_are_named(name, size, options, message):
    with pytest.raises(UserError, match=message) as caught:
        make(name, size, **options)
    assert "\n" not in str(caught.value)


def test_parts_with_the_same_file_share_what_they_freeze(monkeypatch):
    opened, read = [], weights.read_state_dict
    monkeypatch.setattr(weights, "read_state_dict", lambda *a: opened.append(a) or read(*a))
    name = "+".join(["efficientnet_lite0"] * 2)
    joined = make(name, 64, sizes=(64, 32), trainable_from="stage6", grid_stride=64)
    assert len(opened) == 1
    stages = zip(*(part.stages for part in joined.encoders), strict=True)
    assert [one is other for one, other in stages] == [True] * 6 + [False] * 3
    first, second = (nnx.to_flat_state(nnx.state(part)) for part in joined.encoders)
    assert [path for path, _ in first] == [path for path, _ in second]
    for (path, one), (_, other) in zip(first, second, strict=True):
        # A training step donates the buffers of what it trains, each once.
        assert (one[...] is other[...]) == isinstance(one, Frozen), path
        np.testing.assert_array_equal(one[...], other[...])
