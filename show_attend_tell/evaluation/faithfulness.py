"""Does what a run says depend on where it looked?

A model may point at a dog and say "dog" because its state told it so. Three questions: what the
references cost when steps read something else (`readings`), whether a word goes with the places
that it looked at (`deletion`), and whether it changes with the place that its step reads
(`forced_gaze`).
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from flax import nnx
from jaxtyping import Float

from show_attend_tell.data.images import read_image
from show_attend_tell.evaluation.deletion import curves
from show_attend_tell.evaluation.forced_gaze import forced_gaze
from show_attend_tell.evaluation.given_split import GivenSplit
from show_attend_tell.runs.encoding import annotate

MEAN_OF = 100  # training images; each has many places
# Nats a token. Where shuffling the places of an image costs less, perplexity moves by less than
# 1 %: the words are as good wherever the model looks.
LEAST_WORTH = 0.01


def split_faithfulness(given: GivenSplit, nats: Mapping[str, float]) -> dict[str, Any]:
    """Measures on a split whether a run's words depend on where it looked.

    Args:
      given: a split.
      nats: what `readings.nats_of_readings` returned.

    Returns:
      `nll` (the nats), `depends` (whether the words depend on the place, see `LEAST_WORTH`),
      `deletion`, `insertion` and `gaze`. `deletion` and `insertion` are None where no phrase has
      boxes, or the encoder is trained; `gaze` where no phrase has boxes.
    """
    found: dict[str, Any] = {
        "nll": dict(nats),
        "depends": nats["shuffled"] - nats["own"] >= LEAST_WORTH,
        "deletion": None,
        "insertion": None,
        "gaze": None,
    }
    run, phrases = given.run, given.phrases
    if phrases.mentions:
        found["gaze"] = forced_gaze(run, given.words, phrases.mentions, given.places)
        if not run.encoder.trained:
            found |= curves(run, given.words, _mean_annotation(given))
    return found


def _mean_annotation(given: GivenSplit) -> Float[np.ndarray, " F"]:
    """The mean annotation vector of the first images of the training split."""
    run, train = given.run, given.train
    graph, state = nnx.split(run.encoder)
    total, count = np.zeros(run.encoder.features), min(MEAN_OF, len(train))
    for i in range(count):
        image = read_image(train[i].image, run.image_size)
        total += np.asarray(annotate(graph, state, image[None])[0], np.float64)[0].mean(0)
    return (total / count).astype(np.float32)
