"""A generated task of sentences: say the source's words in reverse order."""

from collections.abc import Iterator

import numpy as np
import tensorflow_datasets as tfds

from show_attend_tell.datasets.common import QuietBuilder, pair_features

SPLITS = {"train": 12000, "val": 500, "test": 1000}
LENGTHS = {"train": (2, 10), "val": (2, 10), "test": (2, 20)}  # of a sentence, in words
_CONSONANTS, _VOWELS = "bdfgklmnprst", "aeiou"
WORDS = tuple(c + v for c in _CONSONANTS for v in _VOWELS)  # 60


class Reversal(QuietBuilder):
    """Sentences of different made-up words, to be said the other way round.

    12,000 train and 500 val of 2 to 10 words; 1,000 test of 2 to 20, so that half of them are
    longer than any that was trained on. One vector has to hold a whole sentence; attention finds
    each word by the one that was said before. Generated, so there is nothing to get; pair i of a
    split depends on the split and i alone.

    Build and train:

        ./launch.sh train --config experiments/reversal.py:bahdanau --workdir runs/reversal

    Load: `datasets.load("reversal", "train", data_dir=Path(...))`.

    Version 1.0.0. Citation: this project.
    """

    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="Sentences of made-up words and their reversals.",
            features=pair_features(),
        )

    def _split_generators(self, dl_manager) -> dict[str, Iterator]:
        return {split: self._generate_examples(split, count) for split, count in SPLITS.items()}

    def _generate_examples(self, split: str, count: int) -> Iterator:
        number = list(SPLITS).index(split)
        for i in range(count):
            source, target = make_pair(np.random.default_rng([number, i]), *LENGTHS[split])
            pair_id = f"{split}-{i:05}"
            yield pair_id, {"pair_id": pair_id, "source": source, "target": target}


def make_pair(rng: np.random.Generator, shortest: int, longest: int) -> tuple[str, str]:
    """A sentence of `shortest` to `longest` different words, and its reversal."""
    length = rng.integers(shortest, longest + 1)
    words = [WORDS[i] for i in rng.permutation(len(WORDS))[:length]]
    return " ".join(words), " ".join(reversed(words))
