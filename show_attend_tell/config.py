"""Reads `Settings` from files and the command line. No other module handles a ConfigDict.

An experiment is a Python file whose `get_config(variant)` returns a ConfigDict with only what
differs from the defaults. A run keeps all settings in its `config.json`.
"""

import dataclasses
import difflib
import hashlib
import inspect
import json
import os
import traceback
import types
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from absl import flags
from ml_collections import ConfigDict, config_flags

from show_attend_tell import files
from show_attend_tell.errors import UserError
from show_attend_tell.files import listed, parse_json, within
from show_attend_tell.schema import Group, Meaning
from show_attend_tell.settings import COMMON, GROUPS, PAIR_SETS, Settings

MOST_SHOWN = 200  # characters of a name in a message
# Folders of experiments: inside the installed package, or at the top of a checkout.
FOLDERS = (Path(__file__).parent / "experiments", Path(__file__).parents[1] / "experiments")
# Paths of data and weights on disk, and whether to fetch them. They change no result: the checksum
# identifies the weights.
_FOLDERS_OF_DATA = ("data.dir", "data.manual_dir", "data.captions_dir", "data.pictures_dir")
PLACES = (*_FOLDERS_OF_DATA, "data.download", "encoder.weights", "picture.weights")
# What other runs made, with the value that names none. It changes results; what identifies it is
# in the run's record.
ORIGINS = {"train.init_from": "", "data.further_dir": "", "loss.teachers": ()}
# Where `~` means the home folder. A repository may also be a folder.
PATHS = (*_FOLDERS_OF_DATA, "data.repo", "encoder.weights", "picture.weights", *ORIGINS)


def load_experiment(reference: str, overrides: Sequence[str] = ()) -> Settings:
    """The settings of an experiment.

    Args:
      reference: `NAME[:VARIANT]` of an installed experiment, or `FILE.py[:VARIANT]`.
      overrides: `--config.a.b=value` (or `--config.a.b value`), typed as the settings are.

    Raises:
      UserError: no such experiment or variant, an unknown key, or a value out of range.
    """
    return _settings(read_experiment(reference), overrides)


def read_experiment(reference: str) -> dict[str, Any]:
    """What an experiment states, as nested dictionaries. See `load_experiment` for the errors."""
    path, variant = find_experiment(reference)
    content = _run(path)
    variants, get_config = content.get("VARIANTS", {}), content.get("get_config")
    listed = isinstance(variants, Mapping | Sequence) and len(variants) > 0
    if variant and listed and variant not in variants:
        known = ", ".join(map(str, variants))
        raise UserError(f"{path}: has no variant {variant!r}; choose one of {known}")
    if not callable(get_config):
        raise UserError(f"{path}: has no get_config(); see the experiments of the project")
    try:
        config = get_config(variant) if variant else get_config()
    except (Exception, SystemExit) as error:  # the user's own code
        raise UserError(
            f"{_place(path, error, reference)}: get_config() fails ({_last_line(error)}); fix it"
        ) from error
    if not isinstance(config, ConfigDict):
        shown = " ".join(repr(config).split())[:80]
        raise UserError(f"{path}: get_config() must return a ConfigDict, not {shown}")
    return config.to_dict()


def variant_of(reference: str) -> str:
    """The variant that a reference names, else the experiment's default; "" if it has none."""
    path, variant = find_experiment(reference)
    get_config = _run(path).get("get_config")
    if variant or not callable(get_config):
        return variant
    first = next(iter(inspect.signature(get_config).parameters.values()), None)
    return first.default if first and isinstance(first.default, str) else ""


def _run(path: Path) -> dict[str, Any]:
    """What the Python file of an experiment defines, by name.

    Raises:
      UserError: it cannot be read, is not Python, or fails.
    """
    try:
        source = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check the file") from error
    if b"\0" in source:
        raise UserError(f"{path}: a binary file, not Python; name an experiment")
    if not source.strip():
        raise UserError(f"{path}: is empty; write a get_config() into it")
    module = types.ModuleType(path.stem)
    module.__file__ = str(path)
    try:
        exec(compile(source, str(path), "exec", dont_inherit=True), module.__dict__)
    except (Exception, SystemExit) as error:  # the user's own code
        why = error.msg if isinstance(error, SyntaxError) else _last_line(error)
        raise UserError(
            f"{_place(path, error, str(path))}: does not load ({why}); fix it"
        ) from error
    return module.__dict__


def _place(path: Path, error: BaseException, otherwise: str) -> str:
    """The line of an experiment file at which it fails, if it is known."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == str(path)]
    line = frames[-1].lineno if frames else None
    if isinstance(error, SyntaxError) and error.filename == str(path):
        line = error.lineno
    return f"{path}, line {line}" if line else otherwise


def find_experiment(reference: str) -> tuple[Path, str]:
    """The file and the variant ("" for the file's default) that a reference names.

    Raises:
      UserError: there is no such file.
    """
    name, _, variant = reference.partition(":")
    path = files.user_path(name)
    if os.path.isfile(path):  # False for a name that is too long
        return path, variant
    name = name if len(name) <= MOST_SHOWN else f"{name[:MOST_SHOWN]}..."
    reference = name + reference[len(reference.partition(":")[0]) :]
    known = {path.stem: path for folder in FOLDERS for path in sorted(folder.glob("*.py"))}
    known.pop("__init__", None)
    if name in known:
        return known[name], variant
    if not known:
        raise UserError(f"--config={reference}: there is no file {name}")
    near = difflib.get_close_matches(Path(name).stem, known, n=1, cutoff=0.0)[0]
    raise UserError(
        f"--config={reference}: there is no file {name}; the nearest installed experiment is "
        f"{near} (all: {', '.join(sorted(known))})"
    )


def is_installed(reference: str) -> bool:
    """Whether an experiment comes with the package; see `find_experiment` for errors."""
    return find_experiment(reference)[0].resolve().parent in (f.resolve() for f in FOLDERS)


def needless(content: Mapping[str, Any]) -> list[str]:
    """The keys that an experiment sets to their default value."""
    defaults = dict(flatten(_defaults(content)))
    return [
        name
        for name, value in flatten(content)
        if name in defaults and _plain(value) == _plain(defaults[name]) and name != "data.name"
    ]


def load_run(path: Path, overrides: Sequence[str] = ()) -> Settings:
    """The settings that `save` wrote to a run's `config.json`, of this version or of 0.1.

    Raises:
      UserError: the file is missing or damaged; or as `load_experiment`.
    """
    try:
        content = parse_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: not there; --workdir must name the folder of a run") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not a readable config ({error}); train again") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: not a readable config (no JSON object); train again")
    content = _migrated(content)
    try:
        from_dict(content)
    except UserError as error:
        raise UserError(
            f"{path}: {error} (if another version of this program wrote it, use the commit that "
            "run.json names)"
        ) from error
    return _settings(content, overrides)


def _migrated(content: dict[str, Any]) -> dict[str, Any]:
    """A run's config with the current keys. Most missing keys behaved like today's defaults."""
    encoder = content.get("encoder")
    if isinstance(encoder, dict) and "trainable" in encoder:  # before 0.1
        encoder["trainable_from"] = "all" if encoder.pop("trainable") else ""
    data = content.get("data")
    if isinstance(data, dict) and data.get("name") in PAIR_SETS:
        data.setdefault("vocabulary", "ptb")
    decoder = content.get("decoder")
    if isinstance(decoder, dict):
        decoder.setdefault("dropout_bits", 32)
        decoder.setdefault("dtype", "float32")
    return content


def save(settings: Settings, path: Path) -> None:
    """Writes all settings as JSON."""
    files.write_text(path, json.dumps(to_dict(settings), indent=2) + "\n")


def to_dict(settings: Settings) -> dict[str, Any]:
    """Nested dictionaries of plain values, `seed` first."""
    content = {k: v for k, v in dataclasses.asdict(settings).items() if v is not None}
    return {"seed": content.pop("seed"), **content}


def from_dict(content: Mapping[str, Any]) -> Settings:
    """Settings from nested dictionaries; missing keys get their defaults.

    Raises:
      UserError: an unknown key, or a value that is out of range.
    """
    classes = _classes(content)
    _stated(content, classes)
    content = _with_home(content)
    groups = {name: group(**content.get(name, {})) for name, group in classes.items()}
    return Settings(seed=content.get("seed", 0), **cast(dict[str, Any], groups))


def _with_home(content: Mapping[str, Any]) -> dict[str, Any]:
    """The content with home folders in place of `~`. What is no path, such as a hub's name, stays.

    A wrong type stays, too, for the settings to reject.
    """
    changed = dict(content)
    for name in PATHS:
        group, _, key = name.partition(".")
        value = changed.get(group, {}).get(key)
        if isinstance(value, str):
            changed[group] = {**changed[group], key: _at_home(value)}
        elif isinstance(value, list | tuple):
            named = [_at_home(one) if isinstance(one, str) else one for one in value]
            changed[group] = {**changed[group], key: type(value)(named)}
    return changed


def _at_home(path: str) -> str:
    return str(files.user_path(path)) if path.startswith("~") else path


def flatten(content: Mapping[str, Any] | Settings, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted names and values. An empty mapping is a value, so that its name is not overlooked."""
    if isinstance(content, Settings):
        content = to_dict(content)
    for key, value in content.items():
        if isinstance(value, Mapping) and value:
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def described(settings: Settings) -> Iterator[tuple[str, Any, Any, Meaning]]:
    """Dotted name, value, default and meaning of every setting, in order."""
    for name in _classes(to_dict(settings)):
        group: Group = getattr(settings, name)
        for field in dataclasses.fields(group):
            value = getattr(group, field.name)
            yield f"{name}.{field.name}", value, field.default, field.metadata["meaning"]
    seed = next(field for field in dataclasses.fields(settings) if field.name == "seed")
    yield "seed", settings.seed, seed.default, seed.metadata["meaning"]


def differences(a: Settings, b: Settings) -> list[str]:
    """The dotted names that differ between two experiments, or exist in only one of them."""
    first, second = dict(flatten(a)), dict(flatten(b))
    missing = object()
    names = sorted({*first, *second})
    return [name for name in names if first.get(name, missing) != second.get(name, missing)]


def changes(saved: Settings, wanted: Settings) -> list[str]:
    """The `differences` between a run's saved settings and the wanted ones that change results.

    Where data lie changes none: a run records what they contain (`RunFolder.check_data`). Where
    weights lie changes none if both checksums are known; an empty checksum matches any. The same
    holds for teachers, of whom a run records the weights. Two spellings of one path are the same.
    """
    values = [dict(flatten(settings)) for settings in (saved, wanted)]
    same, weights = {*_FOLDERS_OF_DATA, "data.download"}, ("encoder.weights", "picture.weights")
    for name in weights:
        known = all(value.get(f"{name}_sha256") for value in values)
        same.add(name if known else f"{name}_sha256")
    for name in (*weights, "train.init_from"):
        paths = [value.get(name) for value in values]
        if all(paths) and len({os.path.abspath(str(path)) for path in paths}) == 1:
            same.add(name)
    if all(value.get("data.further_dir") for value in values):
        same.add("data.further_dir")
    if len({len(value.get("loss.teachers", ())) for value in values}) == 1:
        same.add("loss.teachers")
    return [name for name in differences(saved, wanted) if name not in same]


def digest(settings: Settings) -> str:
    """Ten hexadecimal digits that identify an experiment, wherever its data are stored."""
    settings = without_places(settings)
    content = to_dict(settings)
    for name, value, default, meaning in described(settings):
        if meaning.later and value == default:
            group, _, key = name.rpartition(".")
            del content[group][key]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:10]


def replaced(settings: Settings, values: Mapping[str, Any]) -> Settings:
    """A copy of the settings with new values, given by dotted name."""
    content = to_dict(settings)
    for name, value in values.items():
        group, _, key = name.rpartition(".")
        (content[group] if group else content)[key] = value
    return from_dict(content)


def without_places(settings: Settings) -> Settings:
    """Settings without the paths of data and weights."""
    values = dict(flatten(settings))
    return replaced(settings, {n: type(values[n])() for n in PLACES if n in values})


def without_origins(settings: Settings, kept: Collection[str] = ()) -> Settings:
    """Settings without the paths of what other runs made, see `ORIGINS`; but for those `kept`."""
    there = dict(flatten(settings)).keys() - set(kept)
    return replaced(settings, {name: none for name, none in ORIGINS.items() if name in there})


def experiment(settings: Settings, record: Mapping[str, Any] | None = None) -> Settings:
    """Settings without what differs between runs of one experiment: the seed and the paths.

    Args:
      settings: of a run.
      record: its run.json. What it says of earlier runs replaces their paths, since each seed may
        start from a run with that seed, or learn from one. What is damaged there is not known.
    """
    values = dict[str, Any](seed=0)
    if source := within(record, "init_from", "experiment"):
        values["train.init_from"] = f"a run of experiment {source}"
    if teachers := listed(record, "teachers"):
        sources = [within(teacher, "experiment") for teacher in teachers]
        values["loss.teachers"] = tuple(f"a run of experiment {source}" for source in sources)
    if further := within(record, "data", "train", "further"):
        values["data.further_dir"] = f"pairs {further}"
    return replaced(without_places(settings), values)


def _settings(content: Mapping[str, Any], overrides: Sequence[str]) -> Settings:
    """Fills in defaults, then applies the overrides, each parsed as its setting's type."""
    classes = _classes(content)
    stated = _stated(content, classes)
    if not overrides:
        return from_dict(content)
    whole = _defaults(content)
    for name, value in stated.items():
        group, _, key = name.rpartition(".")
        target = whole[group] if group else whole
        # A whole number is a value of a real setting, too, and JSON has lists only.
        if type(target[key]) is float and type(value) is int:
            value = float(value)
        target[key] = tuple(value) if isinstance(value, list) else value
    changed = _overridden(whole, overrides, classes)
    if _classes(changed) != classes:
        raise UserError(
            f"config.data.name {changed['data']['name']!r} needs other settings than "
            f"{content['data']['name']!r}: choose another experiment"
        )
    return from_dict(changed)


def _overridden(
    content: dict[str, Any], overrides: Sequence[str], classes: Mapping[str, type[Group]]
) -> dict[str, Any]:
    for argument in overrides:
        name = argument.split("=")[0]
        if name.startswith(("--config.", "-config.")):
            _check_keys([name.lstrip("-").removeprefix("config.")], classes, option=True)
    values = flags.FlagValues()
    try:
        config_flags.DEFINE_config_dict(
            "config", ConfigDict(content), flag_values=values, sys_argv=list(overrides)
        )
        rest = values(["show-attend-tell", *overrides])[1:]
    except flags.UnrecognizedFlagError as error:
        raise UserError(f"--{error.flagname}: no such option") from error
    except (flags.Error, ValueError, TypeError, AttributeError, KeyError) as error:
        raise UserError(
            f"{' '.join(overrides)}: {_last_line(error)}; give values of the settings' types, as "
            "`show-attend-tell config` shows them"
        ) from error
    if rest:
        raise UserError(f"{rest[0]}: not understood; write overrides as --config.key=value")
    return values.config.to_dict()


def _classes(content: Mapping[str, Any]) -> dict[str, type[Group]]:
    """The class of each group of settings; the data set decides."""
    data = content.get("data")
    name = data.get("name", "") if isinstance(data, Mapping) else ""
    if not isinstance(name, str) or name not in GROUPS:
        near = difflib.get_close_matches(str(name), GROUPS, n=1, cutoff=0.0)[0]
        raise UserError(
            f"config.data.name is {name!r}: the nearest data set is {near!r} "
            f"(all: {', '.join(GROUPS)})"
        )
    return {**GROUPS[name], **COMMON}


def _defaults(content: Mapping[str, Any]) -> dict[str, Any]:
    """All defaults of an experiment on this data set, as nested dictionaries."""
    groups = {name: dataclasses.asdict(group()) for name, group in _classes(content).items()}
    return {"seed": 0, **groups}


def _stated(content: Mapping[str, Any], classes: Mapping[str, type[Group]]) -> dict[str, Any]:
    """What is stated by dotted name, all of known names; an empty group states nothing."""
    stated = {k: v for k, v in flatten(content) if not (k in classes and isinstance(v, Mapping))}
    _check_keys(stated, classes)
    return stated


def _check_keys(
    names: Iterable[str],
    classes: Mapping[str, type[Group]],
    *,
    option: bool = False,
) -> None:
    """Rejects an unknown key and names the nearest known one."""
    known = ["seed"]
    for name, group in classes.items():
        known += [f"{name}.{field.name}" for field in dataclasses.fields(group)]
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.0)[0]
            dashes = "--" if option else ""
            raise UserError(f"{dashes}config.{name}: no such key; the nearest is --config.{near}")


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _last_line(error: BaseException) -> str:
    """The last line of an error's message, which says why an experiment file fails."""
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]
