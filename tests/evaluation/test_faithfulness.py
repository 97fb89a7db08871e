"""What a run that has learnt eight scenes by heart owes to its places."""

import numpy as np
import pytest
import tiny

from show_attend_tell.data.task import ImageTask
from show_attend_tell.evaluation.faithfulness import split_faithfulness
from show_attend_tell.evaluation.given_split import GivenSplit
from show_attend_tell.evaluation.readings import nats_of_readings
from show_attend_tell.inference.run import load_run


def test_a_run_that_has_learnt_scenes_by_heart_needs_its_places(trained, monkeypatch):
    workdir, scenes = trained
    monkeypatch.setattr(ImageTask, "load", lambda task, split, training=False: scenes)
    given = GivenSplit.load(load_run(workdir), "val")
    nats = nats_of_readings(given)
    assert nats["own"] < 0.1
    assert all(nats[name] > nats["own"] for name in ("uniform", "shuffled", "other_image", "none"))
    found = split_faithfulness(given, nats)
    assert found["nll"] == nats and found["depends"] is True
    # Its encoder is trained, so that no mean vector of the training split is known.
    assert found["deletion"] is None and found["insertion"] is None
    gaze = found["gaze"]
    assert gaze["words"] > 0 and gaze["inside_minus_outside"] > 0
    assert 0 < gaze["divergence"] < np.log(2)


@pytest.mark.parametrize(("cost", "depends"), [(0.0099, False), (0.0101, True)])
def test_a_model_whose_words_do_not_change_with_the_place_is_told_apart(tmp_path, cost, depends):
    class Sentences(tiny.Scenes):
        def descriptions(self):
            return [()] * len(self)

    run = tiny.run_of(tmp_path, 3, {})
    given = GivenSplit(run, "val", Sentences(2), np.zeros((2, 3, 4), np.float32))
    found = split_faithfulness(given, {"own": 2.0, "shuffled": 2.0 + cost, "uniform": 3.0})
    assert found["depends"] is depends
    assert (found["deletion"], found["gaze"]) == (None, None)
