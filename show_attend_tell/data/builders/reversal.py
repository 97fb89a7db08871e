"""Generated sentences, to be said backwards from one of their words."""

from collections.abc import Callable, Iterator

import numpy as np
import tensorflow_datasets as tfds

from show_attend_tell.data.builders.common import Builder, pair_features, read_pair
from show_attend_tell.data.examples import Pair
from show_attend_tell.data.records import Record
from show_attend_tell.data.terms import Terms

SPLITS = {"train": 30000, "val": 500, "test": 1000}
LENGTHS = {"train": (2, 10), "val": (2, 20), "test": (2, 20)}  # of a sentence, in words
_CONSONANTS, _VOWELS = "bdfgklmnprst", "aeiou"
WORDS = tuple(c + v for c in _CONSONANTS for v in _VOWELS)  # 60
COLON = ":"


class Reversal(Builder):
    """Sentences of distinct made-up words, to be said backwards from a given one.

    The given word comes first, then a colon: the target of `ti : ka mo ti lu` is `ti mo ka`. 30,000
    train of 2 to 10 words; 500 val and 1,000 test of 2 to 20, so that half of these are longer than
    any sentence of training. A single vector must hold the whole sentence, while attention finds
    each word by the one said before it. (Saying a sentence backwards from its end can be learnt by
    counting, which fails beyond the trained length.) Generated, so there is nothing to get; pair i
    of a split depends only on the split and i.

    Build and train:

        ./launch.sh train --config experiments/reversal.py:luong --workdir runs/reversal

    Load: `load_pairs("reversal", "train", data_dir=Path(...))`.

    Version 2.0.0. Citation: this project.
    """

    VERSION = tfds.core.Version("2.0.0")
    TERMS = Terms(
        "generated sentences of made-up words",
        "A program made them, and they carry no terms.",
        generated=True,
    )

    def __init__(self, *, languages: tuple[str, str] | None = None, **kwargs):
        """Takes what every data set of sentences takes; there is one pair of languages only."""
        super().__init__(**kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="Sentences of made-up words, and how they run backwards from a word.",
            features=pair_features(),
        )

    def reader(self) -> Callable[[Record], Pair]:
        return read_pair

    def _split_generators(self, dl_manager) -> dict[str, Iterator[tuple[str, Record]]]:
        return {split: self._generate_examples(split, count) for split, count in SPLITS.items()}

    def _generate_examples(self, split: str, count: int) -> Iterator[tuple[str, Record]]:
        number = list(SPLITS).index(split)
        for i in range(count):
            source, target = make_pair(np.random.default_rng([number, i]), *LENGTHS[split])
            pair_id = f"{split}-{i:05}"
            yield pair_id, {"pair_id": pair_id, "source": source, "target": target}


def make_pair(rng: np.random.Generator, shortest: int, longest: int) -> tuple[str, str]:
    """Source and target of a sentence of `shortest` to `longest` distinct words."""
    length = rng.integers(shortest, longest + 1)
    words = [WORDS[i] for i in rng.permutation(len(WORDS))[:length]]
    last = rng.integers(length)
    return " ".join([words[last], COLON, *words]), " ".join(words[last::-1])
