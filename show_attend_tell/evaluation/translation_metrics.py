"""Scores of translations: sacrebleu's, over texts as they are written.

BLEU (Papineni et al. 2002) and chrF (Popović 2015) are sacrebleu's own (Post 2018), of one
reference each, on its scale of 0 to 100, and are told with its signature.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from sacrebleu.metrics import BLEU, CHRF

from show_attend_tell.evaluation.caption_metrics import Scores, bleu_from_counts, check_pairs


def score(references: Mapping[str, Sequence[str]], hypotheses: Mapping[str, str]) -> Scores:
    """Scores one translation a sentence.

    Args:
      references: the raw translations by id; their first is taken.
      hypotheses: one by id, for the same ids.

    Returns:
      "BLEU" and "chrF" from 0 to 100; "BLEU-1" to "BLEU-4", from the same counts, in [0, 1];
      "exact", the share of translations that equal their reference.

    Raises:
      UserError: the ids differ, there are none, or one has no reference.
    """
    check_pairs(references, hypotheses, "sentence")
    said = list(hypotheses.values())
    truth = [references[name][0] for name in hypotheses]
    counts, sentences = _counts(truth, said)
    exact = [float(a == b) for a, b in zip(said, truth, strict=True)]
    chrf = CHRF()
    values = bleu_from_counts(np.array(counts)) | {
        "BLEU": BLEU().corpus_score(said, [truth]).score,
        "chrF": chrf.corpus_score(said, [truth]).score,
        "exact": sum(exact) / len(exact),
    }
    per_image = {
        "BLEU": sentences,
        "chrF": [chrf.sentence_score(a, [b]).score for a, b in zip(said, truth, strict=True)],
        "exact": exact,
    }
    return Scores({k: float(v) for k, v in values.items()}, {}, per_image, counts)


def signatures() -> dict[str, str]:
    """sacrebleu's own descriptions of how it scored: tokenizer, case, smoothing, version."""
    found = {}
    for name, metric in (("BLEU", BLEU()), ("chrF", CHRF())):
        metric.corpus_score(["a"], [["a"]])  # the number of references is a part of it
        found[name] = str(metric.get_signature())
    return found


def scores_by_length(
    lengths: Sequence[int],
    references: Sequence[str],
    hypotheses: Sequence[str],
    *,
    buckets: int = 6,
) -> list[dict[str, Any]]:
    """Scores of the sentences of similar source length (Bahdanau et al. 2015, Fig. 2).

    Args:
      lengths: words of each source sentence.
      references, hypotheses: the true and the found translation of each.
      buckets: the most groups of lengths; each has about as many sentences.

    Returns:
      For each bucket, from short to long: `least` and `most` source words, `mean` of them,
      `sentences`; `BLEU` and `chrF` from 0 to 100, `exact` in [0, 1]. BLEU of sentences of fewer
      than four tokens is 0.
    """
    lengths = np.asarray(lengths)
    edges = np.quantile(lengths, np.linspace(0, 1, buckets + 1)[1:-1], method="higher")
    places = np.searchsorted(np.unique(edges), lengths, side="right")
    rows = []
    for place in np.unique(places):
        members = np.flatnonzero(places == place)
        said, truth = ([texts[i] for i in members] for texts in (hypotheses, references))
        rows.append(
            {
                "least": int(lengths[members].min()),
                "most": int(lengths[members].max()),
                "mean": float(lengths[members].mean()),
                "sentences": len(members),
                "BLEU": BLEU().corpus_score(said, [truth]).score,
                "chrF": CHRF().corpus_score(said, [truth]).score,
                "exact": float(np.mean([a == b for a, b in zip(said, truth, strict=True)])),
            }
        )
    return rows


def _counts(truth: list[str], said: list[str]) -> tuple[list[list[int]], list[float]]:
    """What corpus BLEU is made of (see `bleu_from_counts`), and BLEU of each sentence."""
    metric = BLEU(effective_order=True)
    singles = [metric.sentence_score(a, [b]) for a, b in zip(said, truth, strict=True)]
    counts = [[s.sys_len, s.ref_len, *s.counts, *s.totals] for s in singles]
    return counts, [s.score for s in singles]
