"""Scores of captions against references: the scorers of the COCO caption evaluation, without Java.

BLEU (Papineni et al. 2002), ROUGE-L (Lin 2004) and CIDEr (Vedantam et al. 2015) are pycocoevalcap's
own, over the tokens of `ptb_tokenizer`, or for other languages than English those of
`data.splitting`. CIDEr takes its document frequencies from the references
it is given, which are those of the scored split; a single image therefore has CIDEr 0. METEOR
(Denkowski and Lavie 2014) is `evaluation.meteor`, with the scores of pycocoevalcap's Java program;
it knows English only.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
from pycocoevalcap.bleu.bleu_scorer import BleuScorer
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.rouge.rouge import Rouge

from show_attend_tell.data.examples import Example
from show_attend_tell.data.splitting import tokenizer_of
from show_attend_tell.errors import UserError
from show_attend_tell.evaluation import meteor as meteor_metric
from show_attend_tell.evaluation.scores import Scores, bleu_from_counts, check_pairs

Texts = Mapping[str, Sequence[str]]  # tokens joined by spaces, by image id


def score(
    references: Mapping[str, Sequence[str]],
    hypotheses: Mapping[str, str],
    *,
    meteor: bool = True,
    language: str = "en",
) -> Scores:
    """Scores one caption for each image.

    Args:
      references: raw captions by image id, with all their words, even those outside a vocabulary.
      hypotheses: one caption by image id, for the same images. An empty caption scores zero: an
        untrained model may produce one, and that must not end its training.
      meteor: whether to run METEOR, which takes some seconds for 1,000 images.
      language: of all captions; all but English are treated alike.

    Returns:
      Scores in [0, 1], except CIDEr in [0, 10]. "BLEU-n" includes the brevity penalty; "BLEU-n (no
      BP)" does not, as in Xu et al. 2015, Table 1. "exact" is the share of captions whose tokens
      equal those of one of their references.

    Raises:
      UserError: the images differ, there are none, an image has no reference, or no reference has
        a word.
    """
    check_pairs(references, hypotheses)
    truth, said = tokenized(references, hypotheses, language)
    if not any(map(any, truth.values())):
        raise UserError("no reference caption has a word; correct the captions")

    per_image, counts = _bleu(truth, said)
    values: dict[str, float | None] = {**bleu_from_counts(np.array(counts))}
    # ROUGE-L would give an empty caption 1 against a reference without a word: both are "".
    spoken = np.array([bool(caption) for (caption,) in said.values()], float)
    for name, scorer in (("ROUGE-L", Rouge()), ("CIDEr", Cider())):
        _, single = scorer.compute_score(truth, said)
        single = spoken * single
        values[name], per_image[name] = float(np.mean(single)), single.tolist()
    missing = {}
    if meteor and language != "en":
        values["METEOR"], missing["METEOR"] = None, "left out: its tables are of English words"
    elif meteor:
        texts = {image_id: caption for image_id, (caption,) in said.items()}
        try:
            values["METEOR"], per_image["METEOR"] = meteor_metric.score(truth, texts)
        except UserError as error:  # its tables are missing; the other scores stand
            values["METEOR"], missing["METEOR"] = None, f"left out: {error}"
    exact = [float(caption in truth[name] and caption != "") for name, (caption,) in said.items()]
    values["exact"], per_image["exact"] = sum(exact) / len(exact), exact
    return Scores(values, missing, per_image, counts)


def describe(
    references: Mapping[str, Sequence[str]],
    hypotheses: Mapping[str, str],
    examples: Iterable[Example] | None = None,
    *,
    language: str = "en",
) -> dict[str, str]:
    """What a score file says about these metrics, whatever the captions: the tokenizer's name."""
    return {"tokenizer": tokenizer_of(language)[0]}


def tokenized(
    references: Mapping[str, Sequence[str]], hypotheses: Mapping[str, str], language: str = "en"
) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """Tokens, joined by spaces, of references and of captions, in pycocoevalcap's form.

    Both are lists by image id, in the order of the captions; of captions each list has one.
    """
    tokenize = tokenizer_of(language)[1]
    said = {image_id: [_join(tokenize, text)] for image_id, text in hypotheses.items()}
    return {name: [_join(tokenize, text) for text in references[name]] for name in said}, said


def _join(tokenize: Callable[[str], list[str]], caption: str) -> str:
    return " ".join(tokenize(caption))


def _bleu(truth: Texts, said: Texts) -> tuple[dict[str, list[float]], list[list[int]]]:
    """BLEU of single captions, and the counts of `bleu_from_counts`."""
    scorer = BleuScorer(n=4)
    for image_id, (hypothesis,) in said.items():
        scorer += (hypothesis, truth[image_id])
    _, single = scorer.compute_score(option="closest", verbose=0)
    counts = []
    for parts in scorer.ctest:
        closest = min(parts["reflen"], key=lambda n: (abs(n - parts["testlen"]), n))
        counts.append([parts["testlen"], closest, *parts["correct"], *parts["guess"]])
    return {f"BLEU-{n}": list(per) for n, per in enumerate(single, 1)}, counts
