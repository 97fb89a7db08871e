"""Scores of captions against references: the scorers of the COCO caption evaluation, without Java.

BLEU (Papineni et al. 2002), ROUGE-L (Lin 2004) and CIDEr (Vedantam et al. 2015) are pycocoevalcap's
own, over the tokens of `ptb_tokenizer`. CIDEr takes its document frequencies from the references
it is given, which are those of the scored split; a single image therefore has CIDEr 0. METEOR
(Denkowski and Lavie 2014) is a Java program. Without Java it is left out, and the reason recorded.
"""

import contextlib
import shutil
import threading
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from pycocoevalcap.bleu.bleu_scorer import BleuScorer
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.meteor.meteor import Meteor
from pycocoevalcap.rouge.rouge import Rouge

from show_attend_tell.data import ptb_tokenizer
from show_attend_tell.data.examples import Example
from show_attend_tell.errors import UserError
from show_attend_tell.evaluation.scores import Scores, bleu_from_counts, check_pairs

METEOR_SECONDS = 600.0  # then a hanging Java process is killed; 1,000 images take about 20

Texts = Mapping[str, Sequence[str]]  # tokens joined by spaces, by image id


def score(
    references: Mapping[str, Sequence[str]], hypotheses: Mapping[str, str], *, meteor: bool = True
) -> Scores:
    """Scores one caption for each image.

    Args:
      references: raw captions by image id, with all their words, even those outside a vocabulary.
      hypotheses: one caption by image id, for the same images. An empty caption scores zero: an
        untrained model may produce one, and that must not end its training.
      meteor: whether to run METEOR, which takes some seconds and needs Java.

    Returns:
      Scores in [0, 1], except CIDEr in [0, 10]. "BLEU-n" includes the brevity penalty; "BLEU-n (no
      BP)" does not, as in Xu et al. 2015, Table 1. "exact" is the share of captions whose tokens
      equal those of one of their references.

    Raises:
      UserError: the images differ, there are none, an image has no reference, or no reference has
        a word.
    """
    check_pairs(references, hypotheses)
    # The scorers take lists of strings, one hypothesis each, all in the same order.
    said = {image_id: [_join(caption)] for image_id, caption in hypotheses.items()}
    truth = {image_id: [_join(caption) for caption in references[image_id]] for image_id in said}
    if not any(map(any, truth.values())):
        raise UserError("no reference caption has a word; correct the captions")

    per_image, counts = _bleu(truth, said)
    values: dict[str, float | None] = {**bleu_from_counts(np.array(counts))}
    for name, scorer in (("ROUGE-L", Rouge()), ("CIDEr", Cider())):
        value, single = scorer.compute_score(truth, said)
        values[name], per_image[name] = float(value), np.asarray(single).tolist()
    missing = {}
    if meteor:
        try:
            values["METEOR"], per_image["METEOR"] = _meteor(truth, said)
        except _MeteorError as error:
            values["METEOR"], missing["METEOR"] = None, str(error)
    exact = [float(said[image_id][0] in truth[image_id]) for image_id in said]
    values["exact"], per_image["exact"] = sum(exact) / len(exact), exact
    return Scores(values, missing, per_image, counts)


def describe(examples: Iterable[Example], hypotheses: Mapping[str, str]) -> dict[str, str]:
    """What a score file says about these metrics, whatever the captions: the tokenizer's name."""
    return {"tokenizer": ptb_tokenizer.NAME}


def _join(caption: str) -> str:
    return " ".join(ptb_tokenizer.tokenize(caption))


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


class _MeteorError(Exception):
    """METEOR is unavailable or failed; the message says why."""


class _Meteor(Meteor):
    def __del__(self):
        """Does nothing: the parent's waits forever for the lock of a failed compute_score."""


def _meteor(truth: Texts, said: Texts) -> tuple[float, list[float]]:
    """METEOR of all captions and of each.

    Raises:
      _MeteorError: there is no Java, or its process failed or took over METEOR_SECONDS.
    """
    if shutil.which("java") is None:
        raise _MeteorError("left out: METEOR needs Java, and there is no `java` on the PATH")
    try:
        scorer = _Meteor()
    except OSError as error:
        raise _MeteorError(f"left out: Java could not be started ({error})") from error
    process = scorer.meteor_p
    late = threading.Event()

    def give_up():
        late.set()
        process.kill()

    watchdog = threading.Timer(METEOR_SECONDS, give_up)
    messages: list[bytes] = []

    def read_messages():  # unread, they would fill the pipe and block the process
        if process.stderr is not None:
            with process.stderr as pipe:
                messages.append(pipe.read())

    reader = threading.Thread(target=read_messages, daemon=True)
    watchdog.start()
    reader.start()
    try:
        score, single = scorer.compute_score(truth, said)
        return float(score), [float(value) for value in single]
    except (OSError, ValueError) as error:
        # A dead process leaves a broken pipe, or an empty line where a number should be.
        process.kill()
        reader.join(timeout=10)
        lines = b"".join(messages).decode(errors="replace").splitlines()
        # Java repeats JAVA_TOOL_OPTIONS before anything else.
        lines = [line for line in lines if line.strip() and not line.startswith("Picked up")]
        reason = f"no end after {METEOR_SECONDS:g} s" if late.is_set() else (lines or [error])[0]
        raise _MeteorError(f"left out: METEOR failed ({reason})") from error
    finally:
        watchdog.cancel()
        for pipe in filter(None, (process.stdin, process.stdout)):
            with contextlib.suppress(OSError):  # of input that a dead process left unread
                pipe.close()
        process.kill()
        process.wait()
