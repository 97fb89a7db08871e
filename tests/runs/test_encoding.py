"""Caches of annotation vectors and of images, on single-coloured images."""

import io
import json
from dataclasses import dataclass, field

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from PIL import Image

from show_attend_tell.data.examples import Example
from show_attend_tell.data.images import read_image
from show_attend_tell.errors import UserError
from show_attend_tell.models.encoders.base import ImageEncoder, Precomputed
from show_attend_tell.runs import encoding
from show_attend_tell.runs.encoding import annotation_cache, as_inputs, image_cache

SIZE = 16


@dataclass
class Colours:
    """An `ExampleSource`; `reads` lists the images in the order of requests."""

    count: int
    broken: int = -1
    reads: list = field(default_factory=list)
    name: str = "colours"
    split: str = "train"
    splits: tuple = ("train",)
    left_out: dict = field(default_factory=dict)
    drawn: str = ""
    fingerprint: dict = field(
        default_factory=lambda: {"name": "colours", "split": "train", "version": "1.0.0"}
    )

    @property
    def ids(self):
        return [f"image{i}" for i in range(self.count)]

    @property
    def stored(self):
        return self.count

    def __len__(self):
        return self.count

    def __iter__(self):
        return (self[i] for i in range(self.count))

    def __getitem__(self, index):
        self.reads.append(index)
        encoded = io.BytesIO()
        Image.new("RGB", (20, 10), (index, 2 * index, 255 - index)).save(encoded, "PNG")
        content = b"not an image" if index == self.broken else encoded.getvalue()
        return Example(f"image{index}", content, (), ())

    def captions(self):
        return [()] * self.count

    def descriptions(self):
        return [()] * self.count

    def phrase_counts(self):
        return {}


class Means(ImageEncoder):
    """Mean colour of the four quarters of an image, times a weight."""

    def __init__(self, weight=0.5):
        self.image_size, self.grid, self.features = SIZE, (2, 2), 3
        self.fields = (0.25, 0.75)
        self.weight = nnx.Param(jnp.float32(weight))

    def __call__(self, images):
        TRACED.append(images.shape)
        quarters = images.astype(jnp.float32).reshape(-1, 2, SIZE // 2, 2, SIZE // 2, 3)
        return self.weight[...] * quarters.mean(axis=(2, 4)).reshape(-1, 4, 3)

    def fingerprint(self):
        return {"name": "means", "weights": str(self.weight[...]), "image_size": SIZE}


class Pooled(Means):
    """Red and blue of each quarter, times 1 to 4, and between them the green of the image."""

    sections, pooled = (("red", 1), ("green", 1), ("blue", 1)), ("green",)

    def __call__(self, images):
        factors = np.array([[[i, 1, i] for i in (1, 2, 3, 4)]], np.float32)
        return factors * super().__call__(images)


TRACED = []


def expected(count, weight=0.5):
    colours = np.array([(i, 2 * i, 255 - i) for i in range(count)])
    return np.repeat((weight * colours).astype(np.float16)[:, None], 4, axis=1)


def annotations(examples, folder, encoder=None):
    cache = annotation_cache(examples, encoder or Means(), folder, batch_size=4)
    return cache.load(progress=False)


def only_folder(cache):
    [folder] = cache.iterdir()
    return folder


def test_annotations_are_the_encoders_in_half_precision(tmp_path):
    found = annotations(Colours(10), tmp_path)
    assert found.dtype == np.float16 and found.shape == (10, 4, 3)
    np.testing.assert_array_equal(found[:], expected(10))


def test_pooled_sections_are_kept_once(tmp_path):
    found, encoder = annotations(Colours(10), tmp_path, Pooled()), Pooled()
    assert found.dtype == np.float16 and found.shape == (10, 2 * 4 + 1)
    for i, row in enumerate(found[:]):
        red, green, blue = i / 2, i, (255 - i) / 2
        each = [(factor * red, factor * blue) for factor in (1, 2, 3, 4)]
        np.testing.assert_array_equal(row, [*np.ravel(each), green])
    precomputed = Precomputed(3, (2, 2), encoder.sections, encoder.pooled)
    vectors = precomputed.annotations(jnp.asarray(found[:])).vectors
    images = np.stack([read_image(example.image, SIZE) for example in Colours(10)])
    np.testing.assert_array_equal(vectors, encoder(images).astype(jnp.float16))
    np.testing.assert_array_equal(found[:], as_inputs(encoder, np.asarray(vectors)))


def test_last_batch_and_next_split_compile_nothing_new(tmp_path):
    TRACED.clear()
    for count in (10, 5):
        annotation_cache(Colours(count), Means(), tmp_path, batch_size=3).load(progress=False)
    assert TRACED == [(3, SIZE, SIZE, 3)]


def test_a_second_call_reads_no_image(tmp_path):
    first = annotations(Colours(10), tmp_path)[:]
    again = Colours(10)
    np.testing.assert_array_equal(annotations(again, tmp_path)[:], first)
    assert again.reads == []


def test_manifest_says_what_the_cache_holds(tmp_path):
    annotations(Colours(3), tmp_path)
    folder = only_folder(tmp_path)
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["encoder"] == {"name": "means", "weights": "0.5", "image_size": SIZE}
    assert manifest["data"]["split"] == "train"
    assert manifest["image_ids"] == ["image0", "image1", "image2"]
    assert manifest["shape"] == [3, 4, 3] and manifest["dtype"] == "float16"
    # Caches of earlier versions stay valid: the names are unchanged.
    assert folder.name == "colours-train-means-16-1d07ff55b409"
    image_cache(Colours(3), 8, tmp_path / "images").load(progress=False)
    assert only_folder(tmp_path / "images").name == "colours-train-images-8-3542bc68d4f8"


def test_other_weights_data_or_images_are_another_cache(tmp_path):
    annotations(Colours(5), tmp_path)
    np.testing.assert_array_equal(
        annotations(Colours(5), tmp_path, Means(0.25))[:], expected(5, 0.25)
    )
    later = Colours(5)
    later.fingerprint["version"] = "1.0.1"
    annotations(later, tmp_path)
    assert len(later.reads) == 5
    np.testing.assert_array_equal(annotations(Colours(6), tmp_path)[:], expected(6))
    assert len(list(tmp_path.iterdir())) == 4


def test_images_are_cached_as_they_are_read(tmp_path):
    examples = Colours(5)
    found = image_cache(examples, 8, tmp_path).load(progress=False)
    assert found.shape == (5, 8, 8, 3) and found.dtype == np.uint8
    np.testing.assert_array_equal(found[:][3], read_image(examples[3].image, 8))
    again = Colours(5)
    image_cache(again, 8, tmp_path).load(progress=False)
    assert again.reads == []


def test_copies_are_read_in_their_window_and_mirrored(tmp_path):
    class Copies(Colours):
        def __getitem__(self, index):
            values = np.arange(SIZE * SIZE * 3, dtype=np.uint8).reshape(SIZE, SIZE, 3)
            encoded = io.BytesIO()
            Image.fromarray(values).save(encoded, "PNG")
            example = Example("image", encoded.getvalue(), (), ())
            crop = example.crop(1)
            return (example, example.mirror(), crop, crop.mirror())[index]

    examples = Copies(4)
    found = image_cache(examples, SIZE, tmp_path).load(progress=False)
    plain, mirrored, cropped, both = found[:]
    np.testing.assert_array_equal(plain, read_image(examples[0].image, SIZE))
    np.testing.assert_array_equal(plain[:, ::-1], mirrored)
    np.testing.assert_array_equal(cropped, read_image(examples[2].image, SIZE, examples[2].window))
    np.testing.assert_array_equal(cropped[:, ::-1], both)
    assert len(np.unique(found[:], axis=0)) == 4


def test_unreadable_image_is_named_and_the_rest_is_kept(tmp_path):
    with pytest.raises(UserError, match="image9 of colours-train cannot be read") as raised:
        annotations(Colours(20, broken=9), tmp_path)
    assert "\n" not in str(raised.value)
    folder = only_folder(tmp_path)
    assert not (folder / "rows-0000000.npy").exists()
    rows = json.loads((folder / "progress-0000000.json").read_text())["rows"]
    assert rows == 4  # the second whole batch before it was still on the device
    mended = Colours(20)
    np.testing.assert_array_equal(annotations(mended, tmp_path)[:], expected(20))
    assert min(mended.reads) == rows


@pytest.mark.parametrize("error", [KeyError("a bug"), UserError("data/shapes: damaged")])
def test_other_errors_do_not_blame_the_image(tmp_path, error):
    class Failing(Colours):
        def __getitem__(self, index):
            raise error

    with pytest.raises(type(error)) as raised:
        annotations(Failing(3), tmp_path)
    assert "image" not in str(raised.value)


@pytest.mark.parametrize("weight", [np.nan, np.inf, 1e6])
def test_values_beyond_half_precision_are_an_error(tmp_path, weight):
    with pytest.raises(UserError, match="image0: the encoder's output is not finite"):
        annotations(Colours(6), tmp_path, Means(weight))


def test_processes_of_a_job_share_the_files(tmp_path, monkeypatch):
    monkeypatch.setattr(encoding.jax, "process_count", lambda: 2)
    monkeypatch.setattr(encoding.jax, "process_index", lambda: 1)
    for cache in (
        annotation_cache(Colours(3), Means(), tmp_path),
        image_cache(Colours(3), 8, tmp_path),
    ):
        assert (cache.process, cache.processes) == (1, 2)
