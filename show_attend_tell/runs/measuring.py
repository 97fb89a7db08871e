"""Measures where an image encoder looks, on pictures of its user."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from flax import nnx
from jaxtyping import Float16, UInt8

from show_attend_tell import devices
from show_attend_tell.data.examples import Example, ExampleSource
from show_attend_tell.data.images import Picture, read_image
from show_attend_tell.models.encoders import ImageEncoder
from show_attend_tell.models.encoders.measured_centres import (
    COLUMNS,
    NotMeasurable,
    measure_offset,
)
from show_attend_tell.models.encoders.pooling import only_local
from show_attend_tell.runs.encoding import annotate
from show_attend_tell.runs.folder import RunFolder

PICTURES, _BATCH = 24, 8


@dataclass(frozen=True)
class Measured:
    """A measurement, as a run's `centres.json` records it.

    Attributes:
      shift: in pixels, see `ImageEncoder.shift`.
      offset: in cells from the mirror-symmetric grid.
      correlation: see `measured_centres.Offset`.
      images: the number of pictures.
    """

    shift: float
    offset: float
    correlation: float
    images: int


def measure_centres(
    encoder: ImageEncoder, pictures: Sequence[Picture], axis: int = COLUMNS
) -> Measured:
    """Measures where an encoder looks.

    Args:
      encoder: frozen, or with the weights that training gave it.
      pictures: photographs like those that it will see; `PICTURES` of them are plenty.
      axis: see `measure_offset`.

    Raises:
      NotMeasurable: see `measure_offset`.
      UserError: a picture cannot be read.
    """
    cell, size = round(encoder.cell), encoder.image_size
    read = [read_image(picture, size + cell) for picture in pictures]
    images = np.stack(read) if read else np.empty((0, size + cell, size + cell, 3), np.uint8)
    graph, state = nnx.split(encoder)

    def encode(images: UInt8[np.ndarray, "N S S 3"]) -> Float16[np.ndarray, "N L D"]:
        # The last batch gets the shape of the others, so that nothing compiles twice.
        batch = min(_BATCH, len(images))
        padded = np.resize(images, (-(-len(images) // batch) * batch, *images.shape[1:]))
        parts = [
            np.asarray(annotate(graph, state, padded[i : i + batch])[0])
            for i in range(0, len(padded), batch)
        ]
        # Pooled sections say nothing of where a place looks: they would agree at every lag.
        return only_local(np.concatenate(parts)[: len(images)], encoder.sections, encoder.pooled)

    offset = measure_offset(encode, images, size, cell, axis)
    return Measured(
        shift=round(encoder.shift_of(offset.cells), 2),
        offset=round(offset.cells, 4),
        correlation=round(offset.correlation, 3),
        images=len(images),
    )


def record_centres(
    folder: RunFolder,
    encoder: ImageEncoder,
    examples: ExampleSource[Example],
    say: Callable[[str], object],
) -> None:
    """Measures where a run's encoder looks and writes it to the run's folder.

    It does nothing if that is known: from the folder, or for packaged weights. Without a
    measurement, attention is drawn at the computed middles of receptive fields.

    Args:
      folder: of the run.
      encoder: with the run's weights.
      examples: pictures to measure on; `PICTURES` of them are taken, evenly spaced.
      say: called with a line about the result.
    """
    if encoder.shift is not None or folder.centres() is not None or not devices.is_first():
        return
    count = min(PICTURES, len(examples))
    chosen = [examples[i * len(examples) // count] for i in range(count)]
    try:
        measured = measure_centres(encoder, [example.image for example in chosen])
    except NotMeasurable as error:
        say(f"where the encoder looks cannot be measured ({error}): its centres are computed")
        return
    folder.record_centres(asdict(measured))
    say(
        f"the encoder looks {measured.offset:+.2f} cells from the regular grid, measured on "
        f"{count} images (correlation {measured.correlation:.2f})"
    )
