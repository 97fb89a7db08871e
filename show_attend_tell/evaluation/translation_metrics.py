"""Scores of translations: sacrebleu's, over texts as they are written.

BLEU (Papineni et al. 2002) and chrF (Popović 2015) are sacrebleu's own (Post 2018), against one
reference each and on its scale of 0 to 100. Report them with its signatures.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF

from show_attend_tell.data.examples import Pair
from show_attend_tell.evaluation.scores import Scores, bleu_from_counts, check_pairs


def score(
    references: Mapping[str, Sequence[str]], hypotheses: Mapping[str, str], *, meteor: bool = True
) -> Scores:
    """Scores one translation for each sentence.

    Args:
      references: raw translations by id; only the first of each counts.
      hypotheses: one translation by id, for the same ids.
      meteor: no effect, since METEOR scores captions only; all scorers share this signature.

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


def describe(examples: Iterable[Pair], hypotheses: Mapping[str, str]) -> dict[str, Any]:
    """What a score file says about these metrics.

    Args:
      examples: the split.
      hypotheses: one translation by id.

    Returns:
      `tokenizer`, sacrebleu's signature of BLEU; `signatures` of both metrics; and `by_length`
      from `scores_by_length`.
    """
    pairs = list(examples)
    found = signatures()
    return {
        "tokenizer": found["BLEU"],
        "signatures": found,
        "by_length": scores_by_length(
            [len(pair.source.split()) for pair in pairs],
            [pair.target for pair in pairs],
            [hypotheses[pair.pair_id] for pair in pairs],
        ),
    }


def signatures() -> dict[str, str]:
    """sacrebleu's description of each metric: tokenizer, case, smoothing, version."""
    found = {}
    for name, metric in (("BLEU", BLEU()), ("chrF", CHRF())):
        metric.corpus_score(["a"], [["a"]])  # the signature includes the number of references
        found[name] = str(metric.get_signature())
    return found


def scores_by_length(
    lengths: Sequence[int],
    references: Sequence[str],
    hypotheses: Sequence[str],
    *,
    buckets: int = 6,
) -> list[dict[str, Any]]:
    """Scores of sentences grouped by source length (Bahdanau et al. 2015, Fig. 2).

    Args:
      lengths: number of words in each source sentence.
      references, hypotheses: the true translation and the one found, for each sentence.
      buckets: the most groups; they hold about equally many sentences.

    Returns:
      For each bucket, from short to long: the `least`, the `most` and the `mean` number of source
      words; the number of `sentences`; `BLEU` and `chrF` from 0 to 100, `exact` in [0, 1]. The BLEU
      of a bucket is 0 if its sentences have fewer than four tokens.
    """
    words = np.asarray(lengths)
    edges = np.quantile(words, np.linspace(0, 1, buckets + 1)[1:-1], method="higher")
    places = np.searchsorted(np.unique(edges), words, side="right")
    rows = []
    for place in np.unique(places):
        members = np.flatnonzero(places == place).tolist()
        said, truth = ([texts[i] for i in members] for texts in (hypotheses, references))
        rows.append(
            {
                "least": int(words[members].min()),
                "most": int(words[members].max()),
                "mean": float(words[members].mean()),
                "sentences": len(members),
                "BLEU": BLEU().corpus_score(said, [truth]).score,
                "chrF": CHRF().corpus_score(said, [truth]).score,
                "exact": float(np.mean([a == b for a, b in zip(said, truth, strict=True)])),
            }
        )
    return rows


def _counts(truth: list[str], said: list[str]) -> tuple[list[list[int]], list[float]]:
    """The counts behind corpus BLEU (see `bleu_from_counts`), and the BLEU of each sentence."""
    metric = BLEU(effective_order=True)
    singles = [metric.sentence_score(a, [b]) for a, b in zip(said, truth, strict=True)]
    counts = [[s.sys_len, s.ref_len, *s.counts, *s.totals] for s in singles]
    return counts, [s.score for s in singles]
