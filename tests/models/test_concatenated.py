"""Several encoders on one grid."""

import numpy as np
import PIL.Image
import pytest
from flax import nnx

from show_attend_tell import settings
from show_attend_tell.errors import UserError
from show_attend_tell.models.encoders import make_encoder

encode = nnx.jit(lambda encoder, images: encoder(images))


def make(name, size, **options):
    options = settings.ImageEncoder(name=name, image_size=size, **options)
    return make_encoder(options, rngs=nnx.Rngs(0))


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
    ],
)
def test_bad_sizes_are_named(name, size, options, message):
    with pytest.raises(UserError, match=message):
        make(name, size, **options)
