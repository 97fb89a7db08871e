"""What all data sets have in common: their features, and that they build without a word."""

import numpy as np
import tensorflow_datasets as tfds


class QuietBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """TFDS prints where it writes, before and after; `datasets.load` has said it in one line."""

    def _log_download_bytes(self) -> None:
        pass

    def _log_download_done(self) -> None:
        pass


def features(encoding: str) -> tfds.features.FeaturesDict:
    """Image, id, captions and, where they are known, the boxes of what the first caption names.

    Args:
      encoding: "jpeg" or "png", how images are stored.
    """
    return tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(shape=(None, None, 3), encoding_format=encoding),
            "image_id": tfds.features.Text(),
            "captions": tfds.features.Sequence(tfds.features.Text()),
            "objects": tfds.features.Sequence(
                {
                    "bbox": tfds.features.BBoxFeature(),
                    "label": tfds.features.Text(),
                    "word_index": np.int32,
                }
            ),
        }
    )


def pair_features() -> tfds.features.FeaturesDict:
    """A sentence, its translation, and an id."""
    names = ("pair_id", "source", "target")
    return tfds.features.FeaturesDict({name: tfds.features.Text() for name in names})
