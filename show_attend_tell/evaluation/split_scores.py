"""Scores of a captioned split, written beside the captions that they were computed from."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from show_attend_tell import files
from show_attend_tell.data.examples import ExampleSource
from show_attend_tell.data.in_languages import InLanguages
from show_attend_tell.evaluation.clip_score import NAMES, ClipScorer
from show_attend_tell.evaluation.results_file import write_results
from show_attend_tell.evaluation.scores import digest
from show_attend_tell.evaluation.scoring import SCORERS
from show_attend_tell.evaluation.split_grounding import captions_grounding
from show_attend_tell.inference.captioning import Caption, texts
from show_attend_tell.inference.ensemble import described as ensembled
from show_attend_tell.inference.run import Run, mark_of
from show_attend_tell.settings import Decode, Settings


def references(examples: ExampleSource, language: str = "") -> dict[str, list[str]]:
    """Id of an example to its raw captions or translations; with `language`, to those in it.

    Examples without a caption in that language are left out.
    """
    captions = map(list, examples.captions())
    if language:
        assert isinstance(examples, InLanguages)
        number = examples.languages.index(language)
        captions = (
            [text for text, of in zip(*of_one, strict=True) if of == number]
            for of_one in zip(captions, examples.language_numbers(), strict=True)
        )
    return {
        name: of_one
        for name, of_one in zip(examples.ids, captions, strict=True)
        if of_one or not language
    }


def reported_contexts(settings: Settings) -> tuple[str, ...]:
    """The contexts that a run's scores are reported for.

    Papers and code disagree, often silently, on what a hard model reads at test time. So a hard run
    is scored with `expected` and `argmax`, and with its own context where that is another. One that
    was trained on the likelihood with places summed out, or a bound of it, is scored with
    `mixture`, which it was trained for, in place of `expected`, if its output allows it.
    """
    own = settings.decode.context
    if not settings.draws_places:
        return (own,)
    summed = settings.hard.objective in ("marginal", "top_k", "variational")
    whole = "mixture" if summed and settings.decoder.product_form else "expected"
    return tuple(dict.fromkeys((whole, "argmax", own)))


# What the table of scores and names of files state anyhow, or what changes no best caption. The
# largest length is no way of searching; experiments set it by the length of what they describe.
_STATED = ("beam", "length_penalty", "context", "max_length", "batch_size", "n_best")


def further_options(decoding: Decode) -> dict[str, Any]:
    """The ways of searching that are not the default, by name."""
    plain = dataclasses.asdict(Decode())
    changed = {k: v for k, v in dataclasses.asdict(decoding).items() if v != plain[k]}
    return {k: v for k, v in changed.items() if k not in _STATED}


def in_words(options: Mapping[str, Any]) -> str:
    """Such options after others: ", no repeat 2"; empty for none."""
    return "".join(f", {name.replace('_', ' ')} {value}" for name, value in options.items())


def score_stem(
    split: str,
    decoding: Decode,
    language: str = "",
    usual_length: int | None = None,
    overridden: Mapping[str, Any] = MappingProxyType({}),
) -> str:
    """How the names of a split's caption and score files begin.

    Args:
      split: that was captioned.
      decoding: how.
      language: of the captions, unless it is the run's first.
      usual_length: a largest length that goes without saying; None: any does.
      overridden: other settings than the run's own, see `inference.run.mark_of`.
    """
    split += f".{language}" if language else ""
    penalty = f"{decoding.length_penalty:g}"
    options = further_options(decoding)
    if usual_length not in (None, decoding.max_length):
        options["max_length"] = decoding.max_length
    further = "".join(f"-{k}={v}" for k, v in options.items()) + mark_of(overridden)
    return f"{split}-{decoding.context}-beam{decoding.beam}-lp{penalty}{further}"


def score_split(
    run: Run,
    split: str,
    decoding: Decode,
    examples: ExampleSource,
    captions: Sequence[Caption],
    measured: Mapping[str, dict[str, Any] | None] = MappingProxyType({}),
    clip: ClipScorer | None = None,
) -> dict[str, Any]:
    """Writes the captions of a split, then scores them and writes the scores.

    Args:
      run, split, decoding, examples, captions: what was captioned, and how.
      measured: what else was measured on the split and belongs into the file, by name; None: it
        could not be. What the maps of the captions show is added to `grounding`.
      clip: adds CLIPScore and RefCLIPScore to English captions; others lack both.

    Returns:
      What the score file holds: the scores and every setting that they depend on.
    """
    other = run.language != next(iter(run.task.languages), "")
    language = run.language if other else ""
    stem = score_stem(split, decoding, language, run.usual_length, run.changes)
    grounding = measured.get("grounding")
    if grounding is not None:
        own = captions_grounding(run, examples, captions)
        measured = {**measured, "grounding": grounding | {"captions": own}}
    run.workdir.mkdir(parents=True, exist_ok=True)  # a packaged model has none yet
    truth, hypotheses = references(examples), texts(examples, captions)
    write_results(run.workdir / f"{stem}.captions.json", hypotheses)
    if decoding.n_best > 1:
        _write_n_best(run.workdir / f"{stem}.n_best.json", examples, captions)
    scorer = SCORERS[run.task.scorer]
    scores = scorer.score(truth, hypotheses)
    described = scorer.describe(truth, hypotheses, examples)
    if clip is not None and run.task.scorer == "captions":
        clip.add(scores, examples, truth, hypotheses)
        described["clip"] = clip.describe()
    elif clip is not None:
        scores.values.update(dict.fromkeys(NAMES))
        scores.missing.update(dict.fromkeys(NAMES, "left out: CLIP reads English"))
    record = {
        "scores": scores.values,
        **measured,
        "missing": scores.missing,
        "split": split,
        "images": len(captions),
        "noun": run.task.noun,
        **({"language": run.language} if run.language else {}),
        "unfinished": sum(caption.tokens[-1:] != ("<eos>",) for caption in captions),
        "decoding": dataclasses.asdict(decoding),
        **described,
        "references": digest(truth),
        "step": run.step,
        **run.provenance(),
        **ensembled(run, decoding),
        "per_image": scores.per_image,
        "bleu_counts": scores.bleu_counts,
    }
    files.write_text(run.workdir / f"{stem}.scores.json", json.dumps(record, indent=2) + "\n")
    return record


def _write_n_best(path: Path, examples: ExampleSource, captions: Sequence[Caption]) -> None:
    """Writes [{"image_id": ..., "captions": [{"caption", "log_prob", "score"}, ...]}, ...]."""
    content = [
        {
            "image_id": name,
            "captions": [
                {"caption": one.text, "log_prob": one.log_prob, "score": one.score}
                for one in caption.n_best
            ],
        }
        for name, caption in zip(examples.ids, captions, strict=True)
    ]
    files.write_text(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
