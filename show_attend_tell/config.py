"""Configs: from an experiment file or a saved run, with overrides from the command line."""

import difflib
import hashlib
import importlib.metadata
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from absl import flags
from ml_collections import ConfigDict, config_flags

from show_attend_tell import files
from show_attend_tell.errors import UserError


def from_file(path: str, overrides: Sequence[str] = ()) -> ConfigDict:
    """The config of an experiment file, `file.py` or `file.py:variant`.

    Args:
      path: the file; what follows a colon is handed to its `get_config`.
      overrides: `--config.a.b=value` (or `--config.a.b value`), typed as the file's own values.

    Raises:
      UserError: no such file or variant, an unknown key, a value of another type.
    """
    if not Path(path.split(":")[0]).is_file():
        raise UserError(f"--config={path}: there is no file {path.split(':')[0]}")
    return _parse(
        lambda values, argv: config_flags.DEFINE_config_file(
            "config", flag_values=values, sys_argv=argv
        ),
        [f"--config={path}", *overrides],
    )


def from_dict(content: Mapping[str, Any], overrides: Sequence[str] = ()) -> ConfigDict:
    """A config of given content with overrides, as `from_file`."""
    return _parse(
        lambda values, argv: config_flags.DEFINE_config_dict(
            "config", ConfigDict(content), flag_values=values, sys_argv=argv
        ),
        list(overrides),
        keys=list(leaves(ConfigDict(content))),
    )


# Of weights the checksum tells which they are.
PLACES = ("data.dir", "data.manual_dir", "encoder.weights")
# Settings that came later, and what a config without them did.
ADDED = {
    "attention.score": "additive",
    "attention.window": "global",
    "attention.reach": 2,
    "attention.order": "previous",
    "decoder.self_attention": False,
}


def load(path: Path, overrides: Sequence[str] = ()) -> ConfigDict:
    """The config that `save` wrote, with overrides; of an earlier version with `ADDED`.

    Raises:
      UserError: the file is missing or damaged; or as `from_file`.
    """
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        raise UserError(f"{path}: not there; --workdir must name the folder of a run") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not a readable config ({error}); train again") from error
    if isinstance(content, dict):
        _bring_up_to_date(content)
    return from_dict(content, overrides)


def _bring_up_to_date(content: dict[str, Any]) -> None:
    for name, value in ADDED.items():
        group, _, key = name.partition(".")
        if isinstance(content.get(group), dict):
            content[group].setdefault(key, value)
    encoder = content.get("encoder")
    if isinstance(encoder, dict) and "trainable" in encoder:
        encoder["trainable_from"] = "all" if encoder.pop("trainable") else ""
        content.get("data", {}).update({"random_crop": 1.0, "random_flip": "off"})
        if encoder.get("name") != "small":
            encoder.update({"checkpointing": False, "learning_rate": 0.0})


def save(config: ConfigDict, path: Path) -> None:
    """Writes the resolved config as JSON."""
    files.write_text(path, json.dumps(config.to_dict(), indent=2) + "\n")


def leaves(config: ConfigDict, prefix: str = "") -> Iterator[str]:
    """The dotted names of all values."""
    for key, value in config.items():
        if isinstance(value, ConfigDict):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


def differences(a: ConfigDict, b: ConfigDict) -> list[str]:
    """The dotted names that differ between two configs, or stand in only one of them."""
    names = sorted({*leaves(a), *leaves(b)})
    missing = object()

    def get(config: ConfigDict, name: str) -> Any:
        for part in name.split("."):
            if not isinstance(config, ConfigDict) or part not in config:
                return missing
            config = config[part]
        return tuple(config) if isinstance(config, list) else config

    return [name for name in names if get(a, name) != get(b, name)]


def changes(saved: ConfigDict, wanted: ConfigDict) -> list[str]:
    """The `differences` of a run's config from the one it is asked for with.

    A checksum that is left open there fits what the run had.
    """
    names = differences(saved, wanted)
    if wanted.encoder.get("weights_sha256") == "":
        names = [name for name in names if name != "encoder.weights_sha256"]
    return names


def digest(config: ConfigDict) -> str:
    """Ten hexadecimal digits that tell configs apart. Where data lie on disk does not count."""
    content = config.to_dict()
    for name in PLACES:
        group, _, key = name.partition(".")
        content.get(group, {}).pop(key, None)
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:10]


def without_places(config: ConfigDict) -> ConfigDict:
    """A copy that does not say where data and weights lie on disk."""
    same = ConfigDict(config.to_dict())
    for name in PLACES:
        group, _, key = name.partition(".")
        if group in same and key in same[group]:
            same[group][key] = ""
    return same


def experiment(config: ConfigDict, source: Mapping[str, Any] | None = None) -> ConfigDict:
    """A copy without what only tells apart the runs of one experiment: seed and places of data.

    `source` is what run.json notes of the run that `train.init_from` names: seeds may each go on
    from the run of their own seed.
    """
    same = without_places(config)
    same.seed = 0
    if source:
        same.train.init_from = f"a run of experiment {source['experiment']}"
    return same


def provenance(config: ConfigDict) -> dict[str, Any]:
    """What a figure must carry with it: config, seed, commit, versions, command."""
    packages = ("jax", "flax", "optax", "grain", "orbax-checkpoint", "tensorflow-datasets", "numpy")
    packages += ("sacrebleu", "sentencepiece")
    return {
        "config_digest": digest(config),
        "seed": config.seed,
        "commit": _commit(),
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "python": sys.version.split()[0],
        "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}, {os.cpu_count()} cores",
        "packages": {name: importlib.metadata.version(name) for name in packages},
    }


def _commit() -> str | None:
    """The commit of the source tree, "-dirty" where it was changed; None outside of git."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None


def _parse(define, argv: list[str], keys: list[str] | None = None) -> ConfigDict:
    values = flags.FlagValues()
    try:
        define(values, argv)
        rest = values(["show-attend-tell", *argv])[1:]
    except flags.UnrecognizedFlagError as error:
        raise UserError(f"--{error.flagname}: no such option") from error
    except (AttributeError, KeyError) as error:
        raise UserError(_unknown_key(argv, error, keys)) from error
    except (flags.Error, ValueError, TypeError) as error:
        # Where the experiment file itself fails, the last line of many says why.
        raise UserError(f"{' '.join(argv)}: {str(error).strip().splitlines()[-1]}") from error
    if rest:
        raise UserError(f"{rest[0]}: not understood; overrides are --config.key=value")
    return values.config


def _unknown_key(argv: list[str], error: Exception, keys: list[str] | None) -> str:
    if keys is None:
        # The file itself is sound where it loads without its overrides.
        try:
            keys = list(leaves(from_file(argv[0].removeprefix("--config="))))
        except Exception:
            return " ".join(str(error).split())
    for argument in argv:
        name = argument.split("=")[0].lstrip("-").removeprefix("config.")
        if argument.startswith(("--config.", "-config.")) and name not in keys:
            near = difflib.get_close_matches(name, keys, n=1, cutoff=0.0)
            return f"--config.{name}: no such key; the nearest is --config.{near[0]}"
    return " ".join(str(error).split())
