"""The grounding of a run that has learnt eight scenes, against maps taken one by one."""

import numpy as np
import pytest

from show_attend_tell.data.task import ImageTask
from show_attend_tell.evaluation.boxes import box_cover
from show_attend_tell.evaluation.given_split import GivenSplit
from show_attend_tell.evaluation.split_grounding import captions_grounding, split_grounding
from show_attend_tell.inference.captioning import caption_split
from show_attend_tell.inference.run import load_run


@pytest.fixture
def run(trained, monkeypatch):
    workdir, scenes = trained
    monkeypatch.setattr(ImageTask, "load", lambda task, split, copies=False: scenes)
    return load_run(workdir)


def test_a_run_is_measured_at_the_nouns_of_its_scenes(run):
    summary = split_grounding(GivenSplit.load(run, "val"))
    assert summary is not None
    examples, captions = caption_split(run, "val", run.decoding)
    # It has learnt the captions by heart, so what it says is what it is forced to say.
    assert [c.text for c in captions] == [e.captions[0] for e in examples]
    centres = np.array(run.encoder.centres)
    shares = [
        caption.alpha[box.word_index] @ box_cover([box.sides], centres, centres)
        for example, caption in zip(examples, captions, strict=True)
        for box in example.boxes
    ]
    assert summary["mentions"] == len(shares) and summary["images"] == 8
    np.testing.assert_allclose(summary["prior"]["in_box"], np.mean(shares), atol=1e-3)
    assert summary["posterior"] is None and summary["untold"] == 0
    assert summary["other_image"]["in_box"] < summary["prior"]["in_box"]
    own = captions_grounding(run, examples, captions)
    assert own is not None and own["mentions"] >= len(shares)
