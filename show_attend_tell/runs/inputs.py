"""A model's inputs for a split: annotation vectors, images or words, cached if costly."""

import logging
from collections.abc import Callable
from typing import cast

from show_attend_tell.data.base_task import Task, data_folder
from show_attend_tell.data.batches import Augmentation, Inputs
from show_attend_tell.data.examples import ExampleSource
from show_attend_tell.data.row_cache import RowCache
from show_attend_tell.data.vocabulary import AnyVocabulary
from show_attend_tell.models.encoders import Encoder, ImageEncoder
from show_attend_tell.models.pictured_encoder import PicturedEncoder
from show_attend_tell.runs.build import build_picture_encoder
from show_attend_tell.runs.encoding import annotation_cache, image_cache
from show_attend_tell.settings import ImageData, Settings
from show_attend_tell.settings import ImageEncoder as EncoderOptions
from show_attend_tell.tokens import UNK

_log = logging.getLogger(__name__)


def load_inputs(
    settings: Settings,
    task: Task,
    examples: ExampleSource,
    encoder: Encoder,
    source: AnyVocabulary | None = None,
    *,
    split: str = "",
    warn: Callable[[str], object] = _log.warning,
    progress: bool = True,
) -> Inputs:
    """The model's inputs for all examples of a split.

    Args:
      settings, task, encoder: of the experiment.
      examples: the split.
      source: vocabulary of the inputs, if they are text.
      split: "train" if images may change from epoch to epoch.
      warn: called with a line about inputs that were cut.
      progress: whether to show a bar while images are read.

    Raises:
      UserError: see `RowCache.load`.
    """

    def make(rows: ExampleSource) -> RowCache:
        cache = row_cache(settings, encoder, rows, split)
        if not progress:
            cache.load(progress=False)  # so that nothing is left to show
        return cache

    return task.inputs(examples, source, make, warn)


def make_augmentation(
    settings: Settings, vocabulary: AnyVocabulary | None = None
) -> Augmentation | None:
    """How training images change from epoch to epoch; None if they do not.

    Args:
      settings: of the experiment.
      vocabulary: of the captions; its words for left and right matter to a flipped image.
    """
    data = cast(ImageData, settings.data)
    if not getattr(data, "augmented", False):
        return None
    sides = vocabulary.encode_text("left right") if vocabulary else ()
    return Augmentation(
        size=cast(EncoderOptions, settings.encoder).image_size,
        crop=data.random_crop,
        flip=data.random_flip,
        sides=tuple(i for i in sides if i != UNK),
        seed=settings.seed,
    )


def row_cache(
    settings: Settings, encoder: Encoder, examples: ExampleSource, split: str
) -> RowCache:
    """The annotation vectors of a frozen encoder, or the images that a trained one reads.

    Training images to be augmented are stored large enough for the smallest random crop to fill
    the encoder's input.
    """
    folder = data_folder(settings.data) / "features"
    if isinstance(encoder, PicturedEncoder):
        encoder = build_picture_encoder(settings)
    encoder = cast(ImageEncoder, encoder)
    if not encoder.trained:
        return annotation_cache(examples, encoder, folder)
    augmentation = make_augmentation(settings) if split == "train" else None
    size = encoder.image_size if augmentation is None else augmentation.stored_size
    return image_cache(examples, size, folder)
