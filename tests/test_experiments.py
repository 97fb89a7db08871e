"""The experiments that come with the project: each variant loads, and each of its keys is read."""

import importlib.util
import re
from pathlib import Path

import pytest

from show_attend_tell import config as configs
from show_attend_tell.cli import parser as main

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "experiments").glob("*.py"))


def variants(path: Path) -> dict:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.VARIANTS


CASES = [(path, variant) for path in FILES for variant in variants(path)]


@pytest.mark.parametrize("path, variant", CASES, ids=lambda x: getattr(x, "stem", x))
def test_a_variant_has_what_it_says(path, variant):
    plain, config = configs.from_file(str(path)), configs.from_file(f"{path}:{variant}")
    assert configs.differences(plain, config) == sorted(
        name
        for name, value in variants(path)[variant].items()
        if configs.differences(plain, with_value(plain, name, value))
    )


def with_value(config, name, value):
    changed = config.copy_and_resolve_references()
    changed.update_from_flattened_dict({name: value})
    return changed


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_no_key_is_dead(path):
    """Each key is an attribute, a parameter or a field somewhere in the package."""
    package = (ROOT / "show_attend_tell").rglob("*.py")
    used = set(re.findall(r"(?<=\.)\w+|\w+(?=:)", "\n".join(p.read_text() for p in package)))
    keys = {name.split(".")[-1] for name in configs.leaves(configs.from_file(str(path)))}
    assert keys - used == set()


def test_experiments_have_the_same_keys_but_for_data_and_encoder():
    keys = [set(configs.leaves(configs.from_file(str(path)))) for path in FILES]
    for other in keys[1:]:
        assert {k for k in keys[0] ^ other if not k.startswith(("data.", "encoder."))} == set()


def test_quickstart_shows_commands_that_a_user_could_give(monkeypatch, tmp_path, capsys):
    shown = []
    monkeypatch.setattr(main, "_show", lambda *words: shown.append([str(word) for word in words]))
    assert main.main(["quickstart", "--workdir", str(tmp_path)]) == 0
    verbs = [words[0] for words in shown]
    assert verbs == ["train", "evaluate", "attend"] * 2 + ["compare"]
    assert "minutes in all" in capsys.readouterr().out
    for verb, *words in shown:
        arguments, rest = main._parser().parse_known_args([verb, *words])
        if verb == "train":
            config = configs.from_file(arguments.config, rest)
            assert arguments.workdir in (tmp_path / "soft", tmp_path / "hard")
            assert config.attention.kind == arguments.workdir.name
            assert config.train.init_from == (
                str(tmp_path / "soft") if arguments.workdir.name == "hard" else ""
            )
        else:
            assert rest == []
