"""What scoring a split gives, for captions and translations alike, and corpus BLEU from counts.

Symbols: N captions or translations, S corpora.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float, Int

from show_attend_tell.errors import UserError


@dataclasses.dataclass(frozen=True)
class Scores:
    """Scores of a set of captions or translations.

    Attributes:
      values: corpus score by name; the scorer states the ranges. None: it could not be computed.
      missing: the reason for each None.
      per_image: scores of single captions by name, in the order of the hypotheses, for the metrics
        that have such scores.
      bleu_counts: N rows of the counts behind corpus BLEU (see `bleu_from_counts`), in the same
        order.
    """

    values: dict[str, float | None]
    missing: dict[str, str]
    per_image: dict[str, list[float]]
    bleu_counts: list[list[int]]


def check_pairs(
    references: Mapping[str, Sequence[str]], hypotheses: Mapping[str, str], what: str = "image"
) -> None:
    """Checks that every hypothesis has references, and the other way round.

    Args:
      references: texts by id.
      hypotheses: one text by id.
      what: the noun for one id in messages, "image" or "sentence".

    Raises:
      UserError: the ids differ, there are none, or one has no reference.
    """
    if references.keys() != hypotheses.keys():
        odd = sorted(references.keys() ^ hypotheses.keys(), key=str)
        raise UserError(
            f"{len(odd)} {what}s have a caption or references but not both ({odd[0]} is one); "
            "score the split that was captioned"
        )
    if not hypotheses:
        raise UserError("there are no captions to score")
    empty = [name for name, captions in references.items() if not captions]
    if empty:
        raise UserError(f"{what} {empty[0]} has no reference captions to be scored against")


def digest(references: Mapping[str, Sequence[str]]) -> str:
    """SHA-256 of references by id. Scores with different ones do not compare."""
    return hashlib.sha256(json.dumps(dict(references)).encode()).hexdigest()


def bleu_from_counts(counts: Int[np.ndarray, "N 10"]) -> dict[str, float]:
    """Corpus BLEU-1 to BLEU-4 in [0, 1], with and without brevity penalty.

    Args:
      counts: for each caption, its length, the length of the closest reference, the number of
        correct n-grams for n = 1 .. 4, and the number of all its n-grams for n = 1 .. 4.
    """
    sums = counts.sum(axis=0, keepdims=True).astype(np.float64)
    return {name: float(value[0]) for name, value in bleu_from_sums(sums).items()}


def bleu_from_sums(sums: Float[np.ndarray, "S 10"]) -> dict[str, Float[np.ndarray, " S"]]:
    """BLEU by name, as `bleu_from_counts`, of S corpora given as sums of their counts."""
    length, reference = sums[:, 0], sums[:, 1]
    # BleuScorer's own guards against 0. A corpus without a word scores 0 without the penalty, too.
    ratio = (length + 1e-15) / (reference + 1e-9)
    penalty = np.exp(np.minimum(0.0, 1.0 - 1.0 / ratio))
    precisions = (sums[:, 2:6] + 1e-15) / (sums[:, 6:] + 1e-9)
    means = np.cumprod(precisions, axis=1) ** (1.0 / np.arange(1, 5))[None]
    values = {f"BLEU-{n}": penalty * means[:, n - 1] for n in range(1, 5)}
    spoken = (length > 0).astype(np.float64)
    return values | {f"BLEU-{n} (no BP)": spoken * means[:, n - 1] for n in range(1, 5)}
