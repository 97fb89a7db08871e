"""Folders of finished runs made by hand, for the tests of reports."""

import html
import json
import re
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from records import record, sentence

from show_attend_tell import config as configs
from show_attend_tell.data.vocabulary import Vocabulary
from show_attend_tell.evaluation import translation_metrics
from show_attend_tell.evaluation.grounding import attention_statistics, write_statistics
from show_attend_tell.evaluation.results_file import write_results
from show_attend_tell.evaluation.scores import Scores
from show_attend_tell.evaluation.scoring import SCORERS
from show_attend_tell.inference.attention_record import safe_name, save_attention
from show_attend_tell.reports.attention_pictures import draw_attention

COLOURS = ("red", "green", "blue", "yellow", "purple")
SHAPES = ("square", "circle", "triangle", "star")
TRUTH = {
    f"val/{c}-{s}.png": [f"a {c} {s} on a white ground", f"one {c} {s}"]
    for c in COLOURS
    for s in SHAPES
}
RIGHT = {image_id: captions[0] for image_id, captions in TRUTH.items()}
WRONG = {image_id: "a dog runs over the green grass" for image_id in TRUTH}
HARD = {"attention.kind": "hard", "hard.baseline": "learned"}


def half_right(shift: int = 0) -> dict[str, str]:
    """Every second caption is right."""
    return {k: (RIGHT if i % 2 == shift else WRONG)[k] for i, k in enumerate(TRUTH)}


def write_json(path: Path, content) -> None:
    path.write_text(json.dumps(content))


def edit(path: Path, **changes) -> None:
    """Changes entries of a JSON file."""
    write_json(path, json.loads(path.read_text()) | changes)


def scores_of(run: Path, split: str = "val") -> Path:
    """The score file of the expected context."""
    return run / f"{split}-expected-beam2-lp0.7.scores.json"


def write_run(
    workdir: Path,
    said: dict[str, str],
    *,
    settings: Mapping[str, Any] | None = None,
    progress=(0.4, 0.8, 1.0),
    contexts=("expected",),
    maps=3,
    data="shapes",
    split="val",
) -> Path:
    """A finished run's folder, as training, `evaluate` and `attend` leave it.

    Args:
      workdir: to make.
      said: captions by id.
      settings: that differ from the defaults, by dotted name.
      progress: the validation score after each epoch.
      contexts: that the split was evaluated with.
      maps: the captions that there are attention maps of.
      data: name of the data set; translations for "multi30k".
      split: that was evaluated and attended.
    """
    workdir.mkdir(parents=True)
    scorer, watched = ("translations", "BLEU") if data == "multi30k" else ("captions", "CIDEr")
    _write_config(workdir, data, settings or {})
    facts = {"device": "1 x cpu, 2 cores", "commit": "abc", "command": ["train"]}
    facts |= {"finished": True, "seconds": 360.0, "tokens": 9e5, "best_step": 300}
    write_json(workdir / "run.json", facts)
    Vocabulary.from_captions([["a", "dog"]], 1).save(workdir / "vocabulary.json")
    _write_metrics(workdir / "metrics.jsonl", progress, watched)
    for context in contexts:
        _write_scores(workdir, said, split, context, scorer)
    mapped = dict(list(said.items())[:maps])
    _write_maps(workdir / "attention" / split, mapped, contexts[-1], scorer == "translations")
    return workdir


def pair(root: Path, said=WRONG, **changes) -> list[Path]:
    """Two runs that differ in a setting; the first says what is right."""
    other = {"settings": HARD} | changes
    return [write_run(root / "a", RIGHT), write_run(root / "b", said, **other)]


def without_pictures(*runs: Path) -> None:
    """Leaves what `attend` of earlier versions wrote: no images beside their maps."""
    for run in runs:
        for path in (run / "attention").rglob("*.jpg"):
            path.unlink()


def viewed(page: str) -> dict[str, Any] | None:
    """What the view in a page of `compare` answers from; None: the page has no view."""
    frames = re.findall(r'<iframe srcdoc="([^"]*)" sandbox="allow-scripts" ', page)
    if not frames:
        return None
    [frame] = frames
    block = r'<script type="application/json" id="data">(.*?)</script>'
    [data] = re.findall(block, html.unescape(frame), re.DOTALL)
    return json.loads(data)


def _write_config(workdir: Path, data: str, changed: Mapping[str, Any]) -> None:
    content = {"data": {"name": data, "dir": str(workdir / "data")}}
    settings = configs.replaced(configs.from_dict(content), changed)
    configs.save(settings, workdir / "config.json")


def _write_metrics(path: Path, progress, watched: str) -> None:
    records = []
    for epoch, score in enumerate(progress, 1):
        step = {"step": 100 * epoch}
        records.append(step | {"kind": "train", "loss": 3 / epoch, "nll": 3 / epoch})
        spent = {"seconds": 120.0 * epoch, "tokens": 3e5 * epoch}
        records.append(step | {"kind": "val", watched: score, "BLEU-4": score / 4} | spent)
    path.write_text("".join(json.dumps(r) + "\n" for r in records))


# Many tests want the same runs: they are scored and drawn once.
@cache
def _scored(said: tuple[tuple[str, str], ...], scorer: str) -> Scores:
    truth = {image_id: TRUTH[image_id] for image_id, _ in said}
    return SCORERS[scorer].score(truth, dict(said), meteor=False)


@cache
def _drawn(said: tuple[tuple[str, str], ...], context: str, sentences: bool) -> dict[str, bytes]:
    """The files of a folder of maps, by name."""
    with tempfile.TemporaryDirectory() as folder:
        _draw_maps(Path(folder), dict(said), context, sentences)
        return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def _write_scores(
    workdir: Path, said: dict[str, str], split: str, context: str, scorer: str
) -> None:
    truth = {image_id: TRUTH[image_id] for image_id in said}
    scores = _scored(tuple(said.items()), scorer)
    values, per_image = dict(scores.values), dict(scores.per_image)
    record = {"tokenizer": "ptb 1"}
    if scorer == "captions":
        # METEOR of a corpus is not the mean over its images.
        values["METEOR"] = 0.5 * scores.values["exact"]
        per_image["METEOR"] = [0.1 + 0.3 * exact for exact in scores.per_image["exact"]]
    else:
        record["by_length"] = translation_metrics.scores_by_length(
            [3 + i % 2 for i in range(len(said))], [t[0] for t in truth.values()], [*said.values()]
        )
    record |= {
        "scores": values,
        "missing": {},
        "split": split,
        "images": len(said),
        "decoding": {"beam": 2, "length_penalty": 0.7, "context": context, "batch_size": 4},
        "references": "ab" * 32,
        "step": 300,
        "per_image": per_image,
        "bleu_counts": scores.bleu_counts,
    }
    stem = f"{split}-{context}-beam2-lp0.7"
    write_results(workdir / f"{stem}.captions.json", said)
    write_json(workdir / f"{stem}.scores.json", record)


def _write_maps(folder: Path, said: dict[str, str], context: str, sentences: bool) -> None:
    folder.mkdir(parents=True)
    for name, content in _drawn(tuple(said.items()), context, sentences).items():
        (folder / name).write_bytes(content)


def _draw_maps(folder: Path, said: dict[str, str], context: str, sentences: bool) -> None:
    generator = np.random.default_rng(0)
    attention = []
    for image_id, caption in said.items():
        tokens = (*caption.split(), "<eos>")
        alpha = generator.dirichlet(np.full(16, 0.3), len(tokens))
        facts = {"image_id": image_id, "context": context}
        if sentences:
            made, picture = sentence(alpha, ("w",) * 16, tokens, **facts), None
        else:
            made = record(alpha, tokens, (4, 4), **facts)
            picture = np.full((64, 64, 3), 200, np.uint8)
        save_attention(folder / f"{safe_name(image_id)}.npz", made)
        draw_attention(folder / f"{safe_name(image_id)}.png", picture, made)
        if picture is not None:
            Image.fromarray(picture).save(folder / f"{safe_name(image_id)}.jpg")
        attention.append(made)
    if attention:
        found = attention_statistics(attention)
        found |= {"step": 300, "decoding": {"context": context}}
        write_statistics(folder / "statistics.json", found)


def measured(bound: bool = False, random: float = 0.1) -> dict[str, Any]:
    """What a score file holds of likelihood, grounding and faithfulness."""
    names = ("prior", "posterior", "fixed_map", "middle", "uniform")
    ends = {name: {"pointing": [0.4, 0.6], "in_box": [0.2, 0.5]} for name in names}
    return {
        "likelihood": {"perplexity": 15.5, "kind": "bound" if bound else "exact"},
        "grounding": {
            "prior": {"pointing": 0.62, "in_box": 0.41},
            "posterior": None,
            "fixed_map": {"pointing": 0.55, "in_box": 0.36},
            "middle": {"pointing": 0.54},
            "uniform": {"in_box": 0.31},
            "intervals": ends,
        },
        "faithfulness": {
            "nll": {"own": 2.0, "uniform": 2.25, "shuffled": 2.5},
            "deletion": {"ordered": 0.4, "random": random},
        },
    }
