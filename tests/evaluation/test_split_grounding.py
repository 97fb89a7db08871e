"""The grounding of a run that has learnt eight scenes, against maps taken one by one."""

import dataclasses

import numpy as np
import pytest
import tiny

from show_attend_tell.data.task import ImageTask
from show_attend_tell.evaluation.boxes import box_cover
from show_attend_tell.evaluation.given_split import GivenSplit
from show_attend_tell.evaluation.split_grounding import captions_grounding, split_grounding
from show_attend_tell.inference.captioning import caption_split
from show_attend_tell.inference.run import load_run

TRAIN = tiny.Scenes(5, seed=9)


@pytest.fixture
def run(trained, monkeypatch):
    workdir, scenes = trained
    splits = {"train": TRAIN}
    monkeypatch.setattr(
        ImageTask, "load", lambda task, split, training=False: splits.get(split, scenes)
    )
    return load_run(workdir)


def test_a_run_is_measured_at_the_nouns_of_its_scenes(run):
    summary = split_grounding(GivenSplit.load(run, "val"))
    assert summary is not None
    examples, captions = caption_split(run, "val", run.decoding)
    # It has learnt the captions by heart, so what it says is what it is forced to say.
    assert [c.text for c in captions] == [e.captions[0] for e in examples]
    centres = np.array(run.encoder.centres)

    def cover(box):
        return box_cover([box.sides], centres, centres)

    shares = [
        caption.alpha[box.word_index] @ cover(box)
        for example, caption in zip(examples, captions, strict=True)
        for box in example.boxes
    ]
    assert summary["mentions"] == len(shares) and summary["images"] == 8
    np.testing.assert_allclose(summary["prior"]["in_box"], np.mean(shares), atol=1e-3)
    fixed = np.sum([cover(box) for example in TRAIN for box in example.boxes], axis=0)
    fixed /= fixed.sum()
    expected = np.mean([fixed @ cover(box) for example in examples for box in example.boxes])
    assert summary["fixed_map"]["in_box"] == pytest.approx(expected, abs=1e-5)
    assert summary["posterior"] is None and summary["untold"] == 0
    assert summary["other_image"]["in_box"] < summary["prior"]["in_box"]


def test_captions_are_measured_at_the_words_that_name_something(run):
    """Maps made by hand: at such a word in its box, at all others outside of every box."""
    examples, captions = caption_split(run, "val", run.decoding)
    centres, made = np.array(run.encoder.centres), []
    for example, caption in zip(examples, captions, strict=True):
        covers = [box_cover([box.sides], centres, centres) for box in example.boxes]
        alpha = np.zeros_like(caption.alpha)
        alpha[:, np.sum(covers, axis=0).argmin()] = 1
        for box, cover in zip(example.boxes, covers, strict=True):
            alpha[box.word_index] = np.eye(len(cover))[cover.argmax()]
        made.append(dataclasses.replace(caption, alpha=alpha))
    found = captions_grounding(run, examples, made)
    assert found is not None and found["prior"]["in_box"] > 0.8
    assert found["mentions"] == sum(len(example.boxes) for example in examples)
