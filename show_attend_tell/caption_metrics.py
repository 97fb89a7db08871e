"""Scores of captions against references: the scorers of the COCO caption evaluation, without Java.

BLEU (Papineni et al. 2002), ROUGE-L (Lin 2004) and CIDEr (Vedantam et al. 2015; the document
frequencies come from the references given) are pycocoevalcap's own, over the tokens of
`ptb_tokenizer`. METEOR (Denkowski and Lavie 2014) is a Java program and is left out, with the
reason, where Java is not.
"""

import dataclasses
import json
import math
import os
import shutil
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

from pycocoevalcap.bleu.bleu_scorer import BleuScorer
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.meteor.meteor import Meteor
from pycocoevalcap.rouge.rouge import Rouge

from show_attend_tell.errors import UserError
from show_attend_tell.ptb_tokenizer import tokenize

METEOR_SECONDS = 600.0  # a Java process that hangs is given up


@dataclasses.dataclass(frozen=True)
class Scores:
    """Scores of a set of captions.

    Attributes:
      values: score by name, in [0, 1] but for CIDEr in [0, 10]. "BLEU-n" has the brevity penalty,
        "BLEU-n (no BP)" has not, as in Xu et al. 2015, Table 1; "exact" is the share of captions
        that equal one of their references, token for token. None: could not be computed.
      missing: why, for each None.
      per_image: the scores of single captions that have such, in the order of the hypotheses.
    """

    values: dict[str, float | None]
    missing: dict[str, str]
    per_image: dict[str, list[float]]


def score(
    references: Mapping[str, Sequence[str]], hypotheses: Mapping[str, str], *, meteor: bool = True
) -> Scores:
    """Scores one caption an image.

    Args:
      references: raw captions by image id; words outside of a vocabulary stay as they are.
      hypotheses: one caption by image id, for the same images.
      meteor: whether to run METEOR (some seconds, and Java).

    Raises:
      UserError: the images differ, there are none, or an image has no reference.
    """
    if references.keys() != hypotheses.keys():
        odd = sorted(references.keys() ^ hypotheses.keys())
        raise UserError(
            f"{len(odd)} images have a caption or references but not both ({odd[0]} is one); "
            "caption the same split as is scored"
        )
    if not hypotheses:
        raise UserError("there are no captions to score")
    empty = [image_id for image_id, captions in references.items() if not captions]
    if empty:
        raise UserError(f"image {empty[0]} has no reference captions to be scored against")
    # The scorers want lists of strings, one hypothesis each, in one order.
    said = {image_id: [_join(caption)] for image_id, caption in hypotheses.items()}
    truth = {image_id: [_join(caption) for caption in references[image_id]] for image_id in said}

    values, per_image = _bleu(truth, said)
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
    return Scores(values, missing, per_image)


def write_results(path: Path, hypotheses: Mapping[str, str]) -> None:
    """Writes captions in the COCO results format: [{"image_id": ..., "caption": ...}, ...]."""
    results = [{"image_id": image_id, "caption": text} for image_id, text in hypotheses.items()]
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    os.replace(temporary, path)


def read_results(path: Path) -> dict[str, str]:
    """Captions by image id from a COCO results file.

    Raises:
      UserError: the file is missing, of another form, or names an image twice.
    """
    try:
        results = json.loads(path.read_text())
        captions = {str(r["image_id"]): str(r["caption"]) for r in results}
    except FileNotFoundError:
        raise UserError(f"{path}: not there; `evaluate` writes it") from None
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(f"{path}: not a COCO results file ({error}); evaluate again") from error
    if len(captions) != len(results):
        raise UserError(f"{path}: names an image twice; evaluate again")
    return captions


def _join(caption: str) -> str:
    return " ".join(tokenize(caption))


def _bleu(truth, said) -> tuple[dict[str, float], dict[str, list[float]]]:
    scorer = BleuScorer(n=4)
    for image_id, (hypothesis,) in said.items():
        scorer += (hypothesis, truth[image_id])
    corpus, single = scorer.compute_score(option="closest", verbose=0)
    # Brevity penalty of the whole corpus; the scorer multiplies it in and keeps the two lengths.
    shorter = 0 < scorer._testlen < scorer._reflen
    penalty = math.exp(1 - scorer._reflen / scorer._testlen) if shorter else 1.0
    values = {f"BLEU-{n}": value for n, value in enumerate(corpus, 1)}
    values |= {f"BLEU-{n} (no BP)": value / penalty for n, value in enumerate(corpus, 1)}
    return values, {f"BLEU-{n}": list(per) for n, per in enumerate(single, 1)}


class _MeteorError(Exception):
    """METEOR cannot be had; the message says why."""


def _meteor(truth, said) -> tuple[float, list[float]]:
    if shutil.which("java") is None:
        raise _MeteorError("left out: METEOR needs Java, and there is no `java` on the PATH")
    scorer = Meteor()
    watchdog = threading.Timer(METEOR_SECONDS, scorer.meteor_p.kill)
    # Unread messages of the process would fill the pipe and stop it.
    said_wrong: list[bytes] = []
    reader = threading.Thread(
        target=lambda: said_wrong.append(scorer.meteor_p.stderr.read()), daemon=True
    )
    watchdog.start()
    reader.start()
    try:
        return scorer.compute_score(truth, said)
    except (OSError, ValueError) as error:
        # A process that died leaves a broken pipe, or an empty line where a number should be.
        scorer.meteor_p.kill()
        reader.join(timeout=10)
        lines = b"".join(said_wrong).decode(errors="replace").strip().splitlines()
        raise _MeteorError(f"left out: METEOR failed ({(lines or [error])[0]})") from error
    finally:
        watchdog.cancel()
        scorer.meteor_p.kill()
        scorer.meteor_p.wait()
