"""Where packaged encoders look: what is stored agrees with what is measured."""

import zipfile

import numpy as np
import pytest
from natural import pictures_like_photographs
from test_encoders import LITE0, make

from show_attend_tell.errors import UserError
from show_attend_tell.models.encoders.concatenated import Concatenated
from show_attend_tell.models.encoders.small import SmallEncoder
from show_attend_tell.runs.measuring import measure_centres

SLOW = pytest.mark.slow
LITES = ("efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2")


@pytest.mark.parametrize(
    "name", [LITES[0], *(pytest.param(lite, marks=SLOW) for lite in LITES[1:])]
)
def test_generated_pictures_show_the_stored_shift(name):
    encoder = make(name, 160, endpoints=("stage5",), grid_stride=16)
    measured = measure_centres(encoder, list(pictures_like_photographs(8, 176)))
    # 0.05 cells of 16 pixels; the fields' middles are 5.7 pixels off.
    assert encoder.shift == pytest.approx(measured.shift, abs=0.8)
    assert measured.correlation > 0.7


@pytest.fixture(scope="module")
def photographs(shared):
    with zipfile.ZipFile(shared / "flickr8k" / "Flickr8k_Dataset.zip") as file:
        names = [n for n in file.namelist() if n.endswith(".jpg") and "/." not in n]
        return [file.read(name) for name in names[:: len(names) // 24][:24]]


@SLOW
@pytest.mark.parametrize("name", [*LITES, "+".join(reversed(LITES))])
@pytest.mark.parametrize(("endpoint", "stride"), [("stage5", 16), ("head", 32)])
@pytest.mark.parametrize("size", [224, 260, 288])
def test_photographs_show_the_stored_shift(photographs, name, endpoint, stride, size):
    encoder = make(name, size, endpoints=(endpoint,), grid_stride=stride)
    measured = measure_centres(encoder, photographs)
    # 0.07 cells; the fields' middles are 0.25 to 0.46 cells off.
    assert encoder.shift == pytest.approx(measured.shift, abs=0.07 * stride)
    assert measured.correlation > 0.75


def test_a_trained_network_nearly_looks_at_the_regular_grid():
    encoder = make("efficientnet_lite0", 288)
    offsets = (np.array(encoder.centres) - (np.arange(9) + 0.5) / 9) * 9
    np.testing.assert_allclose(offsets, 0.03, atol=0.01)
    fields = (np.array(encoder.fields) - (np.arange(9) + 0.5) / 9) * 9
    np.testing.assert_allclose(fields, 0.484, atol=0.001)


@pytest.mark.parametrize(
    ("size", "options", "shift"),
    [
        # Means of 2x2 places of stage5, whose fields are 8 pixels left of those of stage7.
        (288, {"endpoints": ("stage5",), "grid_stride": 32}, -8 - 5.74),
        # A copy lies as far left as right of the place that it copies: 8 pixels from stage5's.
        (288, {"endpoints": ("stage7",), "grid_stride": 16}, 8 - 14.54),
        # 17 places copy the first 8 of 9 twice: their middle is 32 * 64 / 17, not 16 * 8 pixels.
        (260, {"endpoints": ("stage7",), "grid_stride": 16}, 32 * 64 / 17 - 128 - 14.54),
        # 112 channels and 1280.
        (288, {"endpoints": ("stage5", "head")}, (112 * -13.74 + 1280 * -14.54) / 1392),
    ],
)
def test_stages_on_another_grid_keep_where_they_look(size, options, shift):
    assert make("efficientnet_lite0", size, **options).shift == pytest.approx(shift, abs=0.006)


def test_only_the_packaged_weights_as_they_are_have_a_stored_shift(tmp_path):
    other = tmp_path / "other.pth"
    data = bytearray(LITE0.read_bytes())
    data[-8] ^= 1  # a number of the classifier or so
    other.write_bytes(data)
    same = tmp_path / "same.pth"
    same.write_bytes(LITE0.read_bytes())
    assert make("efficientnet_lite0", 64, weights=str(same)).shift == -14.54
    for options in (
        {"weights": str(other)},
        {"trainable_from": "stage7"},
        {"endpoints": ("stem", "head")},
    ):
        encoder = make("efficientnet_lite0", 64, **options)
        assert encoder.shift is None and encoder.centres == encoder.fields


def test_several_encoders_look_where_their_parts_do_on_average():
    names = ("efficientnet_lite2", "efficientnet_lite0")
    both = make("+".join(names), 64)
    assert both.shift == pytest.approx((-7.50 - 14.54) / 2)
    unequal = Concatenated(
        [
            make(names[0], 64, endpoints=("stage5",), grid_stride=32),
            make(names[1], 64, endpoints=("head",)),
        ]
    )
    share = 120 / (120 + 1280)
    assert unequal.shift == pytest.approx(share * (-8 - 5.50) + (1 - share) * -14.54)
    # Where one of the parts is not known, neither is the whole.
    part = make(names[0], 64)
    part.shift = None
    mixed = Concatenated([part, make(names[1], 64)])
    assert mixed.shift is None and mixed.centres == mixed.fields


def test_pooled_endpoints_look_nowhere():
    names, stride = ("efficientnet_lite2", "efficientnet_lite0"), {"grid_stride": 32}
    local, mixed = {"endpoints": ("stage5",)}, {"endpoints": ("head", "stage5")}
    for name in (names[1], "+".join(names)):
        plain = make(name, 64, **local, **stride)
        pooled = make(name, 64, **mixed, **stride, pooled=("head",))
        assert pooled.shift == pytest.approx(plain.shift)
        np.testing.assert_allclose(pooled.centres, plain.centres)
    # Nothing was measured for the stem.
    assert make(names[1], 64, endpoints=("stem", "head")).shift is None
    assert make(names[1], 64, endpoints=("stem", "head"), pooled=("stem",)).shift == -14.54
    # A scene of a larger image says nothing either.
    name = "efficientnet_lite2+efficientnet_lite0"
    ends = {"endpoints": ("head@128", "stage5@64"), "pooled": ("head@128",)}
    both = make(name, 128, sizes=(128, 64), grid_stride=64, **ends)
    np.testing.assert_allclose(
        both.centres, make(names[1], 64, **local, **stride).centres, atol=1e-6
    )
    # Local channels count, 120 of Lite2 and 1592 of Lite0; the 1280 pooled ones do not.
    parts = [
        make(names[0], 64, **mixed, **stride, pooled=("head",)),
        make(names[1], 64, endpoints=("head",)),
    ]
    share = 120 / (120 + 1280)
    assert Concatenated(parts).shift == pytest.approx(
        share * (-8 - 5.50) + (1 - share) * -14.54, abs=0.006
    )


def test_parts_must_look_at_the_same_places():
    class Elsewhere(SmallEncoder):
        def __init__(self, fields, shift):
            self.image_size, self.grid, self.features = 64, (4, 4), 4
            self.fields, self.shift = fields, shift

    near = (0.1, 0.35, 0.6, 0.85)
    far = tuple(centre + 9 / 64 for centre in near)  # more than half a cell
    for first, second in (((near, None), (far, None)), ((near, 0.0), (far, 0.0))):
        with pytest.raises(UserError, match="places look 9 pixels apart cannot"):
            Concatenated([Elsewhere(*first), Elsewhere(*second)])
    # What is measured counts; computed centres say little about measured ones.
    Concatenated([Elsewhere(near, 0.0), Elsewhere(far, -10.0)])
    whole = Concatenated([Elsewhere(near, None), Elsewhere(far, 1.0)])
    np.testing.assert_allclose(whole.fields, np.array(near) + 4.5 / 64)
