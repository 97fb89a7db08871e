"""Notes below the tables of a comparison: how its figures were found."""

import json
from typing import Any

from show_attend_tell.reports.uncertainty import MEANS


def notes(content: dict[str, Any]) -> dict[str, list[str]]:
    """The notes by table.

    Args:
      content: what `compare` returns, but for the notes.
    """
    samples, seed = content["samples"], content["seed"]
    progress = content["progress"]
    shares = ", ".join(f"{100 * target['share']:.0f} %" for target in progress["targets"])
    return {
        "runs": _on_runs(content),
        "scores": _on_scores(content),
        "tests": [
            "p: two-sided paired approximate randomisation. Its least value is "
            f"{1 / (1 + samples):.2g} ({samples:,} samples, seed {seed}). It is not corrected for "
            f"the number of pairs. It covers the choice of {content['what']} only: with other "
            "seeds a difference could still change sign."
        ],
        "progress": [
            f"Time until the first validation whose {progress['score']} reaches {shares} of the "
            "score that every run reached in the end. Validation runs once an epoch, and its time "
            "counts. Tokens exclude padding."
        ],
        "attention": [
            "Entropy is in nats; effective patches are exp(entropy). Change is the total variation "
            "between the maps of consecutive words, from 0 to 1. Share is the attention inside the "
            "named object's true box, grown by one cell, at the word that names it; uniform share "
            "is what uniform attention has there. — means that no boxes are known."
        ],
        "measured": [
            "On the annotated texts, word by word. Perplexity is of the references; ≤ marks an "
            "upper bound. Pointing: the largest α's place lies in a box of the phrase. In the "
            "boxes: share of α. Prior: α before the word; posterior: given it. Fixed map, middle "
            "and uniform know nothing of the picture. Costs are in nats a token. Deleted: fall of "
            "log p in nats at a phrase's last word when a fifth of the places go; the ratio of the "
            "two is — where deleting at random costs nothing. In brackets: 95 % intervals over "
            "images, of an experiment with one seed."
        ],
        "config": ["Only settings that differ are listed; — means that the setting is absent."],
    }


def counted(content: dict[str, Any]) -> str:
    """What was scored: how many images or sentences, in each language if there are several."""
    what, languages = content["what"], content["languages"]
    if not languages:
        return f"{content['images']:,} {what}"
    counts = ", ".join(f"{of['images']:,} {what} in {of['language']}" for of in languages)
    return f"{counts}. Only rows in the same language compare"


def _on_scores(content: dict[str, Any]) -> list[str]:
    what = content["what"]
    languages = content["languages"]
    found = [
        f"{counted(content)}. Mean ± standard deviation over seeds, where there are two "
        f"or more. In brackets: the 95 % percentile bootstrap interval over {what} "
        f"({content['samples']:,} resamples, seed {content['seed']}) of the scores averaged over "
        "seeds; for BLEU the n-gram counts are averaged. The best value of each column"
        f"{' and language' * bool(languages)} is bold."
    ]
    found += [
        f"In {of['language']}: tokenizer {of['tokenizer']}, SHA-256 of the references "
        f"{of['references'][:12]}…."
        for of in languages
    ]
    for name, mean in MEANS.items():
        if name != mean and any(mean in row["scores"] for row in content["scores"]):
            found.append(
                f"{name} of a corpus is not the mean over its {what}. The column “{mean}” is that "
                "mean; the interval and the test refer to it."
            )
    for row in content["scores"]:
        found += [f"{row['label']}: {name} {why}" for name, why in row["missing"].items()]
    return found


def _on_runs(content: dict[str, Any]) -> list[str]:
    runs = [run for group in content["groups"] for run in group["runs"]]
    found = []
    if len({json.dumps(run["device"]) for run in runs}) > 1:
        found.append("The runs used different devices, so their minutes cannot be compared.")
    found += [
        f"{run['workdir']} began with the weights of {run['init_from']}; its steps and minutes "
        "count from there."
        for run in runs
        if run["init_from"]
    ]
    return found
