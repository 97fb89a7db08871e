"""A folder in which every verb that writes has something to do, within about a second."""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

PICTURES = 14
CONFIG = """
from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    return ConfigDict({
        "data": {"name": "folder", "min_count": 1, "dir": ROOT + "/data",
                 "manual_dir": ROOT + "/pictures"},
        "encoder": {"name": "small", "image_size": 32, "features": 16, "trainable_from": "",
                    "endpoints": (), "grid_stride": 0},
        "attention": {"units": 16},
        "decoder": {"projection": 0, "embedding": 16, "hidden": 16, "dtype": "float32"},
        "optimizer": {"warmup_steps": 0, "learning_rate": 0.01},
        "train": {"batch_size": 4, "buckets": 1, "rows": 1, "epochs": 4.0, "log_every": 1,
                  "checkpoint_every": 1},
        "decode": {"beam": 2, "max_length": 8, "batch_size": 2},
    })
"""
# What differs between two runs of the same: times, and where a run was resumed.
VARYING = (
    *("seconds", "tokens_per_second", "data_wait_share", "resumed", "command", "commit"),
    *("captions_per_second", "time", "date", "download_size", "dataset_size", "waited"),
)
# Written by libraries in a form of their own, and compared by content where it matters; and the
# comparison of a sweep, which has minutes in it. The weights show whether records are the same.
LEFT_OUT = re.compile(
    r"(^|/)(events|checkpoints|best|last|logs|\.config)/|\.array_record-|^sweep/compare/|\.lock$|/lock$|^cache/|^home/|^prints/"
)
UNFINISHED = re.compile(r"\.tmp$|orbax-checkpoint-tmp|(^|/)incomplete\.|(^|/)(partial|progress)-")


@dataclass(frozen=True)
class Verb:
    """A verb, its arguments with {root}, and the verbs that must have run before.

    Attributes:
      writes: folders that hold what it is for, below the root.
    """

    name: str
    words: tuple[str, ...]
    after: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()
    checkpoints: tuple[str, ...] = field(default=())


def verbs() -> dict[str, Verb]:
    """All verbs that write, in an order in which they can run."""
    config = ("--config", "{root}/tiny.py")
    run = ("--workdir", "{root}/run")
    split = ("--split", "val")
    evaluated = ("train", "evaluate", "attend")
    listed = [
        Verb("prepare", ("prepare", *config), (), ("data",)),
        Verb("train", ("train", *config, *run), (), ("data", "run"), ("run",)),
        Verb("evaluate", ("evaluate", *run, *split), ("train",), ("run",)),
        Verb("attend", ("attend", *run, *split, "--num", "2"), ("train",), ("run",)),
        Verb(
            "caption",
            ("caption", *run, "{root}/pictures/p00.png", "--out", "{root}/captions"),
            ("train",),
            ("captions",),
        ),
        Verb("inspect", ("inspect", *config, "--out", "{root}/sheet"), (), ("data", "sheet")),
        Verb(
            "score",
            (
                *("score", "{root}/run/val-expected-beam2-lp0.7.captions.json", "--references"),
                *("{root}/references.json", "--per-image", "{root}/each.csv"),
            ),
            ("train", "evaluate"),
            ("each.csv",),
        ),
        Verb(
            "compare",
            ("compare", "{root}/run", *split, "--out", "{root}/compare"),
            evaluated,
            ("compare",),
        ),
        Verb("export", ("export", *run, "--out", "{root}/exported"), ("train",), ("exported",)),
        Verb(
            "publish", ("publish", "{root}/run", "--out", "{root}/records"), evaluated, ("records",)
        ),
        Verb(
            "explore",
            ("explore", "{root}/run", *split, "--num", "2", "--export", "{root}/page.html"),
            ("train",),
            ("page.html",),
        ),
        Verb(
            "sweep",
            ("sweep", "{root}/tiny.py", "--seeds", "1,2", "--workdir", "{root}/sweep", *split),
            (),
            ("data", "sweep"),
            ("sweep/seed=1", "sweep/seed=2"),
        ),
    ]
    return {verb.name: verb for verb in listed}


def words_of(verb: Verb, root: Path) -> list[str]:
    """The command line of a verb."""
    return [word.replace("{root}", str(root)) for word in verb.words]


def make(root: Path) -> None:
    """Pictures, their captions, those of val as COCO has them, and an experiment."""
    (root / "pictures").mkdir(parents=True)
    (root / "home").mkdir()
    lines, annotations = ["file_name,caption,split"], []
    for k in range(PICTURES):
        values = np.random.default_rng(k).integers(0, 256, (32, 40, 3), np.uint8)
        values[:, :20] = (k % 3 * 120, 60, 200 - k % 2 * 150)
        Image.fromarray(values).save(root / "pictures" / f"p{k:02}.png")
        split = "train" if k < 8 else "val" if k < 11 else "test"
        colour, thing = ("red", "green", "blue")[k % 3], ("dog", "cat")[k % 2]
        lines.append(f"p{k:02}.png,a {colour} {thing} on noise,{split}")
        if split == "val":
            caption = f"a {colour} {thing} on noise"
            annotations.append({"image_id": f"p{k:02}.png", "caption": caption})
    (root / "references.json").write_text(json.dumps({"annotations": annotations}))
    (root / "pictures" / "metadata.csv").write_text("\n".join(lines) + "\n")
    (root / "tiny.py").write_text(f"ROOT = {str(root)!r}\n{CONFIG}")


def restore(template: Path, root: Path) -> None:
    """Makes a folder what it was; links what can be linked is too clever, so it copies."""
    shutil.rmtree(root, ignore_errors=True)
    shutil.copytree(template, root, symlinks=True)


def files_below(root: Path) -> Iterator[str]:
    for folder, _, names in os.walk(root):
        for name in names:
            yield os.path.relpath(os.path.join(folder, name), root)


def unfinished(root: Path) -> list[str]:
    """What a killed process left, files and folders."""
    found = {name for name in files_below(root) if UNFINISHED.search(name)}
    for folder, names, _ in os.walk(root):
        found |= {
            os.path.relpath(os.path.join(folder, n), root) for n in names if UNFINISHED.search(n)
        }
    return sorted(name for name in found if not name.startswith("cache/"))


def contents(root: Path, below: tuple[str, ...] = ("",)) -> dict[str, str]:
    """A digest of each file's content, without what varies between two runs of the same."""
    found = {}
    for name in sorted(files_below(root)):
        inside = any(name == b or name.startswith(f"{b}/") or not b for b in below)
        if inside and not LEFT_OUT.search(name) and not UNFINISHED.search(name):
            found[name] = hashlib.sha256(_stable(root / name)).hexdigest()[:12]
    return found


def _stable(path: Path) -> bytes:
    content = path.read_bytes()
    if path.name.startswith("index-"):  # the first line has times of change
        content = content.partition(b"\n")[2]
    if path.suffix in (".json", ".jsonl"):
        lines = content.splitlines() if path.suffix == ".jsonl" else [content]
        content = b"\n".join(json.dumps(_without(json.loads(line))).encode() for line in lines)
    if path.name == "run.json" or path.suffix in (".html", ".md"):
        content = re.sub(rb"\d+(\.\d+)?(?= ?(s|min|minutes)\b)", b"N", content)
        content = re.sub(rb'("seconds":|&quot;seconds&quot;:)[0-9.e-]+', rb"\1N", content)
    return content


def _without(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without(v) for k, v in value.items() if k not in VARYING}
    return [_without(v) for v in value] if isinstance(value, list) else value


def weights_of(workdir: Path) -> dict[str, str]:
    """A digest of all arrays of the newest checkpoint in each folder of a run.

    Computes with JAX, so it belongs into a process of its own.
    """
    import jax
    import orbax.checkpoint as ocp

    found = {}
    for which in ("checkpoints", "best", "last"):
        steps = [int(p.name) for p in (workdir / which).glob("[0-9]*") if p.name.isdigit()]
        if not steps:
            found[which] = "none"
            continue
        place = workdir / which / str(max(steps))
        place = place / ("arrays" if (place / "arrays").is_dir() else "default")
        restored = ocp.StandardCheckpointer().restore(place.absolute())
        digest = hashlib.sha256()
        for path, leaf in jax.tree_util.tree_leaves_with_path(restored):
            digest.update(jax.tree_util.keystr(path).encode() + np.asarray(leaf).tobytes())
        found[which] = f"{max(steps)}:{digest.hexdigest()[:16]}"
    return found
