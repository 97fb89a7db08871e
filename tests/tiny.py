"""A tiny experiment for the tests of training, evaluation and the command line."""

import io
from pathlib import Path

import jax
import numpy as np
from flax import nnx
from ml_collections import ConfigDict
from PIL import Image

from show_attend_tell import config as configs
from show_attend_tell.data.builders.shapes import render_scene
from show_attend_tell.data.load import Box, Example
from show_attend_tell.inference import captioning as evaluate
from show_attend_tell.models.decoder import Decoder
from show_attend_tell.settings import Hard

EXPERIMENT = Path(__file__).parents[1] / "experiments" / "shapes.py"

# Pure REINFORCE with one path, whose expected gradient is exact.
PURE = Hard(soft_probability=0.0, reinforce=1.0, entropy=0.0, baseline="none")


class Scenes(list):
    """Generated examples with what `datasets.load` gives besides: ids and a fingerprint."""

    def __init__(self, count: int, seed: int = 0, copies: int = 1):
        super().__init__([self._example(seed, i) for i in range(count)] * copies)
        self.ids = [example.image_id for example in self]
        self.stored, self.left_out, self.split = count, {}, "train"
        self.splits = ("train", "val", "test")
        self.fingerprint = {"name": "scenes", "split": "all", "images": len(self), "seed": seed}

    def captions(self):
        return [example.captions for example in self]

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
    made.train.update({"batch_size": 4, "buckets": 1, "epochs": 3, "log_every": 1} | train)
    return made


def use_scenes(monkeypatch, count: int = 8, copies: int = 1) -> Scenes:
    """Makes every split the same few scenes, those for training repeated; returns the scenes."""
    splits = {"train": Scenes(count, copies=copies)}
    scenes = Scenes(count)

    def load_split(config, split, *, copies=False):
        return splits.get(split, scenes)

    monkeypatch.setattr(evaluate, "load_split", load_split)
    return scenes


def decoder(**changes):
    """The graph and the parameters of a decoder small enough for all its paths to be enumerated."""
    sizes = dict(vocabulary=6, features=4, projection=3, embedding=3, hidden=4, attention=3)
    kind = dict(dropout=0.0, annotation_dropout=0.0, output_tanh=True, gate=True, tied=False)
    graph, params = nnx.split(Decoder(**(sizes | kind | changes), rngs=nnx.Rngs(0)), nnx.Param)
    # Weights large enough for paths to differ a lot.
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    leaves = [p + 0.8 * jax.random.normal(k, p.shape) for p, k in zip(leaves, keys, strict=True)]
    return graph, jax.tree.unflatten(tree, leaves)
