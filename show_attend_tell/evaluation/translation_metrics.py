"""Scores of translations: sacrebleu's, over texts as they are written.

BLEU (Papineni et al. 2002) and chrF (Popović 2015) are sacrebleu's own (Post 2018), on its scale
of 0 to 100. Report them with its signatures. Data sets have one reference for each sentence.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import zip_longest
from typing import Any

import numpy as np
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF

from show_attend_tell.data.examples import Pair
from show_attend_tell.evaluation.scores import Scores, bleu_from_counts, check_pairs

LOWER_CASE = "BLEU (lower case)"


def score(
    references: Mapping[str, Sequence[str]], hypotheses: Mapping[str, str], *, meteor: bool = True
) -> Scores:
    """Scores one translation for each sentence.

    Args:
      references: raw translations by id.
      hypotheses: one translation by id, for the same ids.
      meteor: no effect, since METEOR scores captions only; all scorers share this signature.

    Returns:
      "BLEU", "BLEU (lower case)" and "chrF" from 0 to 100; "BLEU-1" to "BLEU-4", from the counts
      of "BLEU", in [0, 1]; "exact", the share of translations that equal one of their references,
      of which an empty one equals none.

    Raises:
      UserError: the ids differ, there are none, or one has no reference.
    """
    check_pairs(references, hypotheses, "sentence")
    said = list(hypotheses.values())
    truth = [references[name] for name in hypotheses]
    pairs = [*zip(said, truth, strict=True)]
    streams = _streams(truth)
    counts, sentences = _counts(truth, said)
    exact = [float(one in of and one != "") for one, of in pairs]
    chrf = CHRF()
    values = bleu_from_counts(np.array(counts)) | {
        "BLEU": BLEU().corpus_score(said, streams).score,
        LOWER_CASE: BLEU(lowercase=True).corpus_score(said, streams).score,
        "chrF": chrf.corpus_score(said, streams).score,
        "exact": sum(exact) / len(exact),
    }
    per_image = {
        "BLEU": sentences,
        "chrF": [chrf.sentence_score(one, of).score for one, of in pairs],
        "exact": exact,
    }
    return Scores({k: float(v) for k, v in values.items()}, {}, per_image, counts)


def describe(
    references: Mapping[str, Sequence[str]],
    hypotheses: Mapping[str, str],
    examples: Iterable[Pair] | None = None,
) -> dict[str, Any]:
    """What a score file says about these metrics.

    Args:
      references, hypotheses: what was scored.
      examples: of the split, if the sources are known.

    Returns:
      `tokenizer`, sacrebleu's signature of BLEU; `signatures` of all metrics; and, of a split,
      `by_length` from `scores_by_length`.
    """
    found = signatures({len(of) for of in references.values()})
    described = {"tokenizer": found["BLEU"], "signatures": found}
    if examples is None:
        return described
    pairs = list(examples)
    return described | {
        "by_length": scores_by_length(
            [len(pair.source.split()) for pair in pairs],
            [pair.target for pair in pairs],
            [hypotheses[pair.pair_id] for pair in pairs],
        ),
    }


def signatures(counts: Iterable[int] = (1,)) -> dict[str, str]:
    """sacrebleu's description of each metric: references, tokenizer, case, smoothing, version.

    Args:
      counts: the different numbers of references of a sentence.
    """
    found = {}
    truth = [["a"] * count for count in counts]
    for name, metric in (
        ("BLEU", BLEU()),
        (LOWER_CASE, BLEU(lowercase=True)),
        ("chrF", CHRF()),
    ):
        metric.corpus_score(["a"] * len(truth), _streams(truth))  # it counts the references
        found[name] = str(metric.get_signature())
    return found


def _streams(truth: Sequence[Sequence[str]]) -> Any:  # sacrebleu's types lack the None
    """sacrebleu's order: all first references, all second ones; None where a sentence has fewer."""
    return list(zip_longest(*truth))


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
                "exact": float(np.mean([a == b != "" for a, b in zip(said, truth, strict=True)])),
            }
        )
    return rows


def _counts(truth: list[Sequence[str]], said: list[str]) -> tuple[list[list[int]], list[float]]:
    """The counts behind corpus BLEU (see `bleu_from_counts`), and the BLEU of each sentence."""
    metric = BLEU(effective_order=True)
    singles = [metric.sentence_score(a, of) for a, of in zip(said, truth, strict=True)]
    counts = [[s.sys_len, s.ref_len, *s.counts, *s.totals] for s in singles]
    return counts, [s.score for s in singles]
