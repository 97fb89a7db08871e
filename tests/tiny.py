"""A tiny experiment for the tests of training, evaluation and the command line."""

import io
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict
from PIL import Image

from show_attend_tell import config as configs
from show_attend_tell import evaluate
from show_attend_tell.datasets import Box, Example
from show_attend_tell.datasets.shapes import render_scene

EXPERIMENT = Path(__file__).parents[1] / "experiments" / "shapes.py"


class Scenes(list):
    """Generated examples with what `datasets.load` gives besides: ids and a fingerprint."""

    def __init__(self, count: int, seed: int = 0, copies: int = 1):
        super().__init__([self._example(seed, i) for i in range(count)] * copies)
        self.image_ids = [example.image_id for example in self]
        self.fingerprint = {"name": "scenes", "split": "all", "images": len(self), "seed": seed}

    @staticmethod
    def _example(seed: int, i: int) -> Example:
        image, caption, objects = render_scene(np.random.default_rng([seed, i]))
        encoded = io.BytesIO()
        Image.fromarray(image).save(encoded, "PNG")
        boxes = tuple(Box(o["label"], o["word_index"], *map(float, o["bbox"])) for o in objects)
        return Example(f"scene {i}", encoded.getvalue(), (caption,), boxes)


def config(folder: Path, **train) -> ConfigDict:
    """The shapes experiment, small enough to train within seconds on eight scenes."""
    made = configs.from_file(str(EXPERIMENT))
    made.data.dir = str(folder)
    made.decoder.update({"embedding": 16, "hidden": 48})
    made.attention.units = 16
    made.encoder.features = 32
    made.decode.update({"beam": 2, "max_length": 30, "batch_size": 4})
    made.optimizer.update({"warmup_steps": 0, "learning_rate": 0.005})
    made.train.update({"batch_size": 4, "buckets": 2, "epochs": 3, "log_every": 1} | train)
    return made


def use_scenes(monkeypatch, count: int = 8, copies: int = 1) -> Scenes:
    """Makes every split the same few scenes, those for training repeated; returns the scenes."""
    splits = {"train": Scenes(count, copies=copies)}
    scenes = Scenes(count)
    monkeypatch.setattr(evaluate, "load_split", lambda config, split: splits.get(split, scenes))
    return scenes
