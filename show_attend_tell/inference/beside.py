"""What a translator reads that has a picture beside its sentences."""

import numpy as np
from jaxtyping import Float16, Int

from show_attend_tell.data.batches import pack_words
from show_attend_tell.data.images import Picture, read_image
from show_attend_tell.errors import UserError
from show_attend_tell.inference.run import Run
from show_attend_tell.runs.build import build_picture_encoder
from show_attend_tell.runs.encoding import annotate_one


def beside_picture(
    run: Run, words: Int[np.ndarray, "N S"], picture: Picture | None
) -> Float16[np.ndarray, "N n"]:
    """Source words and one picture as a run on sentences with pictures reads them.

    Args:
      run: that reads them.
      words: of each sentence.
      picture: that all sentences describe; None: there is none, which is read as zeros.

    Raises:
      UserError: the picture cannot be read, or the run reads none.
    """
    if run.settings.picture is None:
        raise UserError(
            f"{run.workdir}: this run reads sentences only; leave --picture out, or train with "
            "multi30k:pictured"
        )
    encoder = build_picture_encoder(run.settings)
    if picture is None:
        seen = np.zeros((1, len(encoder.centres) ** 2 * encoder.features), np.float16)
    else:
        image = read_image(picture, encoder.image_size)
        seen = np.asarray(annotate_one(encoder, image), np.float16).reshape(1, -1)
    return np.concatenate([pack_words(words), np.repeat(seen, len(words), axis=0)], axis=1)
