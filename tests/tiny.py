"""A tiny experiment for the tests of training, evaluation and the command line."""

import dataclasses
import io
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jax
import numpy as np
from flax import nnx
from PIL import Image

from show_attend_tell import config
from show_attend_tell.data.examples import Box, Example
from show_attend_tell.data.in_languages import InLanguages
from show_attend_tell.data.scenes import in_german, render_scene
from show_attend_tell.data.task import ImageTask, task_of
from show_attend_tell.data.vocabulary import Vocabulary
from show_attend_tell.inference.run import Run
from show_attend_tell.models.captioner import Captioner, trained_weights
from show_attend_tell.models.decoder import Decoder
from show_attend_tell.models.encoders import Precomputed
from show_attend_tell.models.packed import BOS_ONLY
from show_attend_tell.settings import Attention, Hard, Settings
from show_attend_tell.settings import Decoder as DecoderSizes

# Pure REINFORCE with one path, whose expected gradient is exact.
PURE = Hard(soft_probability=0.0, entropy=0.0, baseline="none")


# Sizes so small that all paths of attention can be enumerated; no dropout.
DECODER = DecoderSizes(
    projection=3, embedding=3, hidden=4, dropout=0.0, annotation_dropout=0.0, tied=False
)
ATTENTION = Attention(units=3)


class Scenes(list):
    """Generated examples with what `ImageSource` has besides: ids and a fingerprint."""

    def __init__(self, count: int, seed: int = 0, copies: int = 1):
        super().__init__([self._example(seed, i) for i in range(count)] * copies)
        self.ids = [example.image_id for example in self]
        self.stored, self.left_out, self.drawn = count, {}, "drawn for a test"
        self.rounds = [False] * copies
        self.name, self.split = "scenes", "train"
        self.splits = ("train", "val", "test")
        self.fingerprint = {"name": "scenes", "split": "all", "images": len(self), "seed": seed}

    def captions(self):
        return [example.captions for example in self]

    def descriptions(self):
        return [(example.description(),) for example in self]

    def phrase_counts(self):
        return {}

    @staticmethod
    def _example(seed: int, i: int) -> Example:
        image, caption, objects = render_scene(np.random.default_rng([seed, i]))
        encoded = io.BytesIO()
        Image.fromarray(image).save(encoded, "PNG")
        boxes = tuple(Box(o["label"], o["word_index"], *map(float, o["bbox"])) for o in objects)
        return Example(f"scene {i}", encoded.getvalue(), (caption,), boxes)


SIZES = {
    "decoder.embedding": 16,
    "decoder.hidden": 48,
    "attention.units": 16,
    "encoder.features": 32,
    "decode.beam": 2,
    "decode.max_length": 30,
    "decode.batch_size": 4,
    "optimizer.warmup_steps": 0,
    "optimizer.learning_rate": 0.005,
    "train.batch_size": 4,
    "train.buckets": 1,
    "train.epochs": 3.0,
    "train.log_every": 1,
}


def settings(folder: Path, changes: Mapping[str, Any] = MappingProxyType({})) -> Settings:
    """The shapes experiment, small enough to train within seconds on eight scenes.

    `changes` are values by dotted name.
    """
    changed = {"data.dir": str(folder), **SIZES, **changes}
    return config.replaced(config.load_experiment("shapes"), changed)


def use_scenes(monkeypatch, count: int = 8, copies: int = 1) -> Scenes:
    """Makes every split the same few scenes, those for training repeated; returns the scenes."""
    splits = {"train": Scenes(count, copies=copies)}
    scenes = Scenes(count)

    def load(task, split, *, training=False):
        return splits.get(split, scenes)

    monkeypatch.setattr(ImageTask, "load", load)
    return scenes


def use_bilingual_scenes(monkeypatch, count: int = 8) -> Scenes:
    """The same scenes with captions in English and German, in every split; returns the scenes."""
    scenes = Scenes(count)
    english = [example.captions for example in scenes]
    captions = {"en": english, "de": [list(map(in_german, of_one)) for of_one in english]}

    def load(task, split, *, training=False):
        chosen = (task.language,) if task.language else task.data.languages
        return InLanguages(scenes, [captions[name] for name in chosen], chosen)

    monkeypatch.setattr(ImageTask, "load", load)
    return scenes


def make_decoder(
    *,
    vocabulary=6,
    features=4,
    grid=None,
    sections=(),
    starts=BOS_ONLY,
    picture=None,
    seed=0,
    **changes,
) -> Decoder:
    """A freshly initialised decoder; `changes` are to `DECODER` and `ATTENTION`."""
    names = {field.name for field in dataclasses.fields(Attention)}
    of_attention = {name: changes.pop(name) for name in names & changes.keys()}
    return Decoder(
        dataclasses.replace(DECODER, **changes),
        dataclasses.replace(ATTENTION, **of_attention),
        vocabulary=vocabulary,
        features=features,
        grid=grid,
        sections=sections,
        starts=starts,
        picture=picture,
        rngs=nnx.Rngs(seed),
    )


def decoder(**changes):
    """The graph and the parameters of `make_decoder`, with weights that make paths differ a lot."""
    graph, params = nnx.split(make_decoder(**changes), nnx.Param)
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    leaves = [p + 0.8 * jax.random.normal(k, p.shape) for p, k in zip(leaves, keys, strict=True)]
    return graph, jax.tree.unflatten(tree, leaves)


def run_of(folder: Path, places: int, changes: Mapping[str, Any], **of_decoder) -> Run:
    """A run of `decoder(**of_decoder)` over vectors of a row of places; never trained.

    `changes` are to its settings, by dotted name.
    """
    graph, params = decoder(**of_decoder)
    model = Captioner(Precomputed(4, (1, places)), nnx.merge(graph, params))
    made = settings(folder, changes)
    return Run(
        workdir=folder,
        settings=made,
        task=task_of(made.data),
        vocabulary=Vocabulary.from_captions([["cat", "dog"]], 1),
        source_vocabulary=None,
        encoder=model.encoder,
        model=model,
        params=trained_weights(model),
        step=0,
    )
