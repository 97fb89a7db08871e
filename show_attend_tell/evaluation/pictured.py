"""Whether a translator looks at the picture: its scores with the right, a wrong and no picture.

A model that reads the sentence only scores alike with any picture (Elliott 2018, "Adversarial
evaluation of multimodal machine translation"). Where words of the source are hidden
(`config.data.masked`), only the right picture tells what they were (Caglayan et al. 2019).
"""

import math
from collections.abc import Sequence
from typing import cast

import numpy as np
from jaxtyping import Float16

from show_attend_tell.data.examples import ExampleSource
from show_attend_tell.evaluation.scoring import SCORERS
from show_attend_tell.inference.captioning import Caption, caption_examples, texts
from show_attend_tell.inference.run import Run
from show_attend_tell.models.pictured_encoder import PicturedEncoder
from show_attend_tell.settings import Decode


def with_pictures(
    inputs: Float16[np.ndarray, "N n"], picture: int, which: str
) -> Float16[np.ndarray, "N n"]:
    """A model's inputs with other pictures.

    Args:
      inputs: packed rows of `models.pictured_encoder`.
      picture: how many of a row's last numbers are those of the picture.
      which: `wrong`, that of the example before, or `none`, for which zeros stand.
    """
    words, pictures = np.split(inputs, [inputs.shape[1] - picture], axis=1)
    pictures = np.roll(pictures, 1, axis=0) if which == "wrong" else np.zeros_like(pictures)
    return np.concatenate([words, pictures], axis=1)


def scores_by_picture(
    run: Run,
    examples: ExampleSource,
    inputs: Float16[np.ndarray, "N n"],
    decoding: Decode,
    captions: Sequence[Caption],
) -> dict[str, dict[str, float | None]]:
    """The scores of a split's translations with the right, a wrong and no picture.

    Args:
      run: on sentences with pictures.
      examples, inputs: of the split.
      decoding: how to search.
      captions: the translations with the right pictures.
    """
    encoder, scorer = cast(PicturedEncoder, run.encoder), SCORERS[run.task.scorer]
    size = math.prod(encoder.places) * encoder.picture
    truth = dict(zip(examples.ids, examples.captions(), strict=True))
    told = {"right": captions}
    for which in ("wrong", "none"):
        given = with_pictures(np.asarray(inputs), size, which)
        told[which] = caption_examples(run, examples, given, decoding)
    return {
        which: scorer.score(truth, texts(examples, said)).values for which, said in told.items()
    }
