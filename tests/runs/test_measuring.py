"""A run's record of where its encoder looks: measured once, said, and read again."""

import io

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from natural import pictures_like_photographs
from PIL import Image

from show_attend_tell.data.examples import Example
from show_attend_tell.errors import UserError
from show_attend_tell.models.encoders.base import Frozen, ImageEncoder
from show_attend_tell.models.encoders.measured_centres import ROWS, NotMeasurable
from show_attend_tell.runs.folder import RunFolder
from show_attend_tell.runs.measuring import measure_centres, record_centres

SIZE, CELL, SIDE = 48, 8, 6


class Squares(ImageEncoder):
    """Mean colours of 8x8 pixels, of which the first are `left` and `top` pixels in.

    Fields are those of the regular grid, so `shift` is the distance of the squares from it.
    """

    def __init__(self, left=3, top=1, factor=1.0):
        self.image_size, self.grid, self.features = SIZE, (SIDE, SIDE), 3
        self.fields = tuple(((np.arange(SIDE) + 0.5) / SIDE).tolist())
        self.moves = (top, left)
        self.factor = Frozen(jnp.float32(factor))

    def __call__(self, images):
        pads = [(0, 0), *((0, move) for move in self.moves), (0, 0)]
        x = jnp.pad(images.astype(jnp.float32), pads, mode="edge")
        x = x[:, self.moves[0] :, self.moves[1] :]
        x = x.reshape(-1, SIDE, CELL, SIDE, CELL, 3).mean(axis=(2, 4))
        return self.factor[...] * x.reshape(-1, SIDE**2, 3)

    def fingerprint(self):
        return {"name": "squares"}


class WithScene(Squares):
    """Before the colours of squares, the mean colours of the whole picture, ten times as strong."""

    def __init__(self):
        super().__init__()
        self.features, self.sections, self.pooled = 6, (("scene", 3), ("squares", 3)), ("scene",)

    def __call__(self, images):
        squares = super().__call__(images)
        scene = jnp.broadcast_to(10 * squares.mean(axis=1, keepdims=True), squares.shape)
        return jnp.concatenate([scene, squares], axis=-1)


class Pictures(list):
    """An `ExampleSource` of the pictures of `tests/natural.py`; `reads` lists those taken."""

    name, split, splits, left_out, fingerprint = "natural", "val", ("val",), {}, {}
    drawn = ""

    def __init__(self, count):
        self.reads, self.ids, self.stored = [], [str(i) for i in range(count)], count
        for i, picture in enumerate(pictures_like_photographs(count, 60)):
            file = io.BytesIO()
            Image.fromarray(picture).save(file, "PNG")
            self.append(Example(f"{i}", file.getvalue(), (), ()))

    def captions(self):
        return [()] * len(self)

    def descriptions(self):
        return [()] * len(self)

    def phrase_counts(self):
        return {}

    def __getitem__(self, index):
        self.reads.append(index)
        return super().__getitem__(index)


def test_the_shift_is_in_pixels_from_the_fields():
    images = [example.image for example in Pictures(11)]  # not a multiple of the batch
    measured = measure_centres(Squares(), images)
    assert measured.shift == pytest.approx(3, abs=0.3)
    assert measured.offset == pytest.approx(3 / CELL, abs=0.04)
    assert measured.images == 11 and measured.correlation > 0.9
    assert measure_centres(Squares(), images, ROWS).shift == pytest.approx(1, abs=0.3)
    moved = Squares()
    moved.fields = tuple(field + 2 / SIZE for field in moved.fields)
    assert measure_centres(moved, images).shift == pytest.approx(1, abs=0.3)
    assert measure_centres(WithScene(), images) == measured
    with pytest.raises(NotMeasurable, match="0 pictures are too few"):
        measure_centres(Squares(), [])


def test_a_run_records_it_once(tmp_path):
    folder, pictures, said = RunFolder(tmp_path), Pictures(30), []
    record_centres(folder, Squares(), pictures, said.append)
    content = folder.centres()
    assert content["shift"] == pytest.approx(3, abs=0.3)
    assert content["images"] == 24 and content["correlation"] > 0.9
    # Evenly spaced over all of them.
    assert pictures.reads == [i * 30 // 24 for i in range(24)]
    assert len(said) == 1 and "looks +0.3" in said[0] and "24 images" in said[0]
    record_centres(folder, Squares(left=0), pictures, said.append)
    assert folder.centres() == content and len(said) == 1


def test_what_is_known_is_not_measured(tmp_path):
    known = Squares()
    known.shift = 0.0
    record_centres(RunFolder(tmp_path), known, Pictures(8), pytest.fail)
    assert RunFolder(tmp_path).centres() is None


@pytest.mark.parametrize(
    ("count", "factor", "reason"),
    [(3, 1.0, "3 pictures are too few"), (8, 0.0, "0.00 only"), (8, 1e9, "not finite")],
)
def test_a_failure_is_said_and_nothing_recorded(tmp_path, count, factor, reason):
    said = []
    record_centres(RunFolder(tmp_path), Squares(factor=factor), Pictures(count), said.append)
    assert RunFolder(tmp_path).centres() is None
    assert len(said) == 1 and reason in said[0] and "centres are computed" in said[0]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"shift": null}', '{"shift": NaN}'])
def test_a_damaged_record_is_named(tmp_path, text):
    (tmp_path / "centres.json").write_text(text)
    with pytest.raises(UserError, match=r"centres\.json: damaged"):
        RunFolder(tmp_path).centres()


def test_an_encoder_within_a_model_is_measured_alike():
    # As at the end of training: split, and merged with other weights.
    graph, state = nnx.split(Squares(factor=0.0))
    state = nnx.to_pure_dict(state) | {"factor": jnp.float32(2.0)}
    images = [example.image for example in Pictures(8)]
    assert measure_centres(nnx.merge(graph, state), images).shift == pytest.approx(3, abs=0.3)
