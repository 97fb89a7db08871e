"""Scores of captions against references: the scorers of the COCO caption evaluation, without Java.

BLEU (Papineni et al. 2002), ROUGE-L (Lin 2004) and CIDEr (Vedantam et al. 2015) are pycocoevalcap's
own, over the tokens of `ptb_tokenizer`. CIDEr's document frequencies come from the references
given, that is of the split scored, so that one image alone has CIDEr 0. METEOR (Denkowski and Lavie
2014) is a Java program and is left out, with the reason, where Java is not.
"""

import contextlib
import dataclasses
import json
import shutil
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int
from pycocoevalcap.bleu.bleu_scorer import BleuScorer
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.meteor.meteor import Meteor
from pycocoevalcap.rouge.rouge import Rouge

from show_attend_tell import files
from show_attend_tell.data.ptb_tokenizer import tokenize
from show_attend_tell.errors import UserError

METEOR_SECONDS = 600.0  # a Java process that hangs is given up; 1,000 images take about 20


@dataclasses.dataclass(frozen=True)
class Scores:
    """Scores of a set of captions.

    Attributes:
      values: score by name, in [0, 1] but for CIDEr in [0, 10]. "BLEU-n" has the brevity penalty,
        "BLEU-n (no BP)" has not, as in Xu et al. 2015, Table 1; "exact" is the share of captions
        that equal one of their references, token for token. None: could not be computed.
      missing: why, for each None.
      per_image: the scores of single captions that have such, in the order of the hypotheses.
      bleu_counts: what corpus BLEU is made of (see `bleu_from_counts`), in the same order.
    """

    values: dict[str, float | None]
    missing: dict[str, str]
    per_image: dict[str, list[float]]
    bleu_counts: list[list[int]]


def score(
    references: Mapping[str, Sequence[str]], hypotheses: Mapping[str, str], *, meteor: bool = True
) -> Scores:
    """Scores one caption an image.

    Args:
      references: raw captions by image id; words outside of a vocabulary stay as they are.
      hypotheses: one caption by image id, for the same images. An empty one scores zero: an
        untrained model says nothing at times, and that must not end its training.
      meteor: whether to run METEOR (some seconds, and Java).

    Raises:
      UserError: the images differ, there are none, or an image has no reference.
    """
    check_pairs(references, hypotheses)
    # The scorers want lists of strings, one hypothesis each, in one order.
    said = {image_id: [_join(caption)] for image_id, caption in hypotheses.items()}
    truth = {image_id: [_join(caption) for caption in references[image_id]] for image_id in said}

    per_image, counts = _bleu(truth, said)
    values = bleu_from_counts(np.array(counts))
    values["ROUGE-L"], rouge = Rouge().compute_score(truth, said)
    values["CIDEr"], cider = Cider().compute_score(truth, said)
    per_image |= {"ROUGE-L": rouge.tolist(), "CIDEr": cider.tolist()}
    missing = {}
    if meteor:
        try:
            values["METEOR"], per_image["METEOR"] = _meteor(truth, said)
        except _MeteorError as error:
            values["METEOR"], missing["METEOR"] = None, str(error)
    exact = [float(said[image_id][0] in truth[image_id]) for image_id in said]
    values["exact"], per_image["exact"] = sum(exact) / len(exact), exact
    values = {name: None if v is None else float(v) for name, v in values.items()}
    return Scores(values, missing, per_image, counts)


def check_pairs(
    references: Mapping[str, Sequence[str]], hypotheses: Mapping[str, str], what: str = "image"
) -> None:
    """Refuses to score what does not belong together.

    Raises:
      UserError: the ids differ, there are none, or one has no reference.
    """
    if references.keys() != hypotheses.keys():
        odd = sorted(references.keys() ^ hypotheses.keys(), key=str)
        raise UserError(
            f"{len(odd)} {what}s have a caption or references but not both ({odd[0]} is one); "
            "caption the same split as is scored"
        )
    if not hypotheses:
        raise UserError("there are no captions to score")
    empty = [name for name, captions in references.items() if not captions]
    if empty:
        raise UserError(f"{what} {empty[0]} has no reference captions to be scored against")


def bleu_from_counts(counts: Int[np.ndarray, "N 10"]) -> dict[str, float]:
    """Corpus BLEU-1 .. BLEU-4, with and without brevity penalty, of N captions.

    Args:
      counts: of each caption its length, the length of the closest reference, then its n-grams that
        are right for n = 1 .. 4, then all its n-grams for n = 1 .. 4.
    """
    sums = counts.sum(axis=0, keepdims=True).astype(np.float64)
    return {name: float(value[0]) for name, value in bleu_from_sums(sums).items()}


def bleu_from_sums(sums: Float[np.ndarray, "S 10"]) -> dict[str, Float[np.ndarray, " S"]]:
    """BLEU by name, as `bleu_from_counts`, of S corpora whose counts are summed already."""
    length, reference = sums[:, 0], sums[:, 1]
    # BleuScorer's own guards against 0; silence is 0 without the penalty too.
    ratio = (length + 1e-15) / (reference + 1e-9)
    penalty = np.exp(np.minimum(0.0, 1.0 - 1.0 / ratio))
    precisions = (sums[:, 2:6] + 1e-15) / (sums[:, 6:] + 1e-9)
    means = np.cumprod(precisions, axis=1) ** (1.0 / np.arange(1, 5))[None]
    values = {f"BLEU-{n}": penalty * means[:, n - 1] for n in range(1, 5)}
    spoken = (length > 0).astype(np.float64)
    return values | {f"BLEU-{n} (no BP)": spoken * means[:, n - 1] for n in range(1, 5)}


def write_results(path: Path, hypotheses: Mapping[str, str]) -> None:
    """Writes captions in the COCO results format: [{"image_id": ..., "caption": ...}, ...]."""
    results = [{"image_id": image_id, "caption": text} for image_id, text in hypotheses.items()]
    files.write_text(path, json.dumps(results, indent=1, ensure_ascii=False) + "\n")


def read_results(path: Path) -> dict[str, str]:
    """Captions by image id from a COCO results file; ids that are numbers become strings.

    Raises:
      UserError: the file is missing, of another form, or names an image twice.
    """
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
        captions = {_image_id(r["image_id"]): _caption(r["caption"]) for r in results}
    except FileNotFoundError:
        raise UserError(f"{path}: not there; `evaluate` writes it") from None
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise UserError(f"{path}: not a COCO results file ({error}); evaluate again") from error
    if len(captions) != len(results):
        raise UserError(f"{path}: names an image twice; evaluate again")
    return captions


def _image_id(value: object) -> str:
    if not isinstance(value, str | int) or isinstance(value, bool):
        raise TypeError(f"image_id {value!r} is no string or whole number")
    return str(value)


def _caption(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"caption {value!r} is no string")
    return value


def _join(caption: str) -> str:
    return " ".join(tokenize(caption))


def _bleu(truth, said) -> tuple[dict[str, list[float]], list[list[int]]]:
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
    """METEOR cannot be had; the message says why."""


class _Meteor(Meteor):
    def __del__(self):
        """Nothing: the parent's waits forever for the lock that a failed compute_score holds."""


def _meteor(truth, said) -> tuple[float, list[float]]:
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

    def read_messages():  # unread, they would fill the pipe and stop the process
        with process.stderr:
            messages.append(process.stderr.read())

    reader = threading.Thread(target=read_messages, daemon=True)
    watchdog.start()
    reader.start()
    try:
        score, single = scorer.compute_score(truth, said)
        return float(score), [float(value) for value in single]
    except (OSError, ValueError) as error:
        # A process that died leaves a broken pipe, or an empty line where a number should be.
        process.kill()
        reader.join(timeout=10)
        lines = b"".join(messages).decode(errors="replace").splitlines()
        # Java repeats JAVA_TOOL_OPTIONS before anything else.
        lines = [line for line in lines if line.strip() and not line.startswith("Picked up")]
        reason = f"no end after {METEOR_SECONDS:g} s" if late.is_set() else (lines or [error])[0]
        raise _MeteorError(f"left out: METEOR failed ({reason})") from error
    finally:
        watchdog.cancel()
        for pipe in (process.stdin, process.stdout):
            with contextlib.suppress(OSError):  # what a dead process left unread
                pipe.close()
        process.kill()
        process.wait()
