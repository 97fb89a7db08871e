"""The project's experiments: each variant loads, and states only differences."""

import importlib.util
from pathlib import Path

import pytest

from show_attend_tell import config
from show_attend_tell.cli import parser, training

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
    values = dict(config.flatten(config.load_experiment(f"{path}:{variant}")))
    for name, value in variants(path)[variant].items():
        assert values[name] == value, name
    plain = next(iter(v for v, changes in variants(path).items() if not changes))
    others = dict(config.flatten(config.load_experiment(f"{path}:{plain}")))
    stated = variants(path)[variant]
    # What a plain variant lacks is of a group that only this one has.
    assert {n for n in values if n in others and values[n] != others[n]} <= stated.keys()


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_an_experiment_states_only_differences(path):
    assert config.needless(config.read_experiment(str(path))) == []


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_an_experiment_describes_its_variants(path):
    text = path.read_text().split('"""')[1]
    for variant in variants(path):
        stem = variant.split("_")[0]
        assert f"    {stem}" in text or f", {stem}" in text, variant


def test_quickstart_shows_commands_that_a_user_could_give(monkeypatch, tmp_path, capsys):
    shown = []

    def show(_verbs, _quiet, *words):
        shown.append([str(word) for word in words])

    monkeypatch.setattr(training, "_show", show)
    fewer = "--config.train.epochs=1"
    assert parser.main(["quickstart", "--workdir", str(tmp_path), fewer]) == 0
    verbs = [words[0] for words in shown]
    assert verbs == ["train", "evaluate", "attend"] * 2 + ["compare"]
    assert "minutes in all" in capsys.readouterr().out
    for verb, *words in shown:
        arguments, rest = parser.make_parser().parse_known_args([verb, *words])
        if verb == "train":
            settings = config.load_experiment(arguments.config, rest)
            assert arguments.workdir in (tmp_path / "soft", tmp_path / "hard")
            assert settings.attention.kind == arguments.workdir.name
            assert settings.train.epochs == 1.0
            assert settings.train.init_from == (
                str(tmp_path / "soft") if arguments.workdir.name == "hard" else ""
            )
        else:
            assert rest == []
