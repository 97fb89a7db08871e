"""Translation with a picture: only it can tell the colour that the sentence hides."""

import dataclasses
import io
import json

import numpy as np
import pytest
import sources
from PIL import Image
from rich.console import Console

from show_attend_tell import config
from show_attend_tell.cli.parser import main
from show_attend_tell.errors import UserError
from show_attend_tell.inference.captioning import translate
from show_attend_tell.inference.ensemble import ensemble
from show_attend_tell.inference.run import load_run
from show_attend_tell.runs.build import build_picture_encoder
from show_attend_tell.runs.preparation import prepare
from show_attend_tell.training.session import train

COLOURS = {"red": ("roter", (230, 20, 20)), "green": ("grüner", (20, 200, 20))}
NAMES = {"train": 12, "val": 4, "test": 4}
SMALL = {
    "data.subwords": 60,
    "data.vocabulary": "words",
    "data.min_count": 1,
    "data.max_length": 8,
    "data.max_source_length": 8,
    "data.masked": "colours",
    "data.source": "en",
    "data.target": "de",
    "encoder.embedding": 16,
    "encoder.hidden": 16,
    "encoder.dropout": 0.0,
    "decoder.embedding": 16,
    "decoder.hidden": 32,
    "decoder.dropout": 0.0,
    "attention.units": 16,
    "picture.name": "small",
    "picture.image_size": 32,
    "picture.dropout": 0.0,
    "picture.withheld": 0.0,
    "loss.label_smoothing": 0.0,
    "optimizer.warmup_steps": 0,
    "optimizer.learning_rate": 0.02,
    "train.batch_size": 4,
    "train.buckets": 1,
    "train.epochs": 24.0,
    "train.log_every": 20,
    "decode.beam": 2,
    "decode.max_length": 8,
    "decode.batch_size": 4,
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Multi30k and Flickr8k of pictures in one colour, red and green in turn."""
    texts, flickr8k = tmp_path_factory.mktemp("multi30k"), tmp_path_factory.mktemp("flickr8k")
    names = {
        split: [f"{100 * k + i}_a.jpg" for i in range(count)]
        for k, (split, count) in enumerate(NAMES.items(), 1)
    }
    with pytest.MonkeyPatch.context() as patch:
        for split, of_split in names.items():
            patch.setitem(sources.FLICKR8K, split, of_split)
        sources.flickr8k(flickr8k)
    (texts / "image_splits").mkdir()
    for stem, split in {"train": "train", "val": "val", "test_2016_flickr": "test"}.items():
        lines = {"en": [], "de": []}
        for i, name in enumerate(names[split]):
            colour = list(COLOURS)[i % 2]
            german, rgb = COLOURS[colour]
            Image.new("RGB", (40, 30), rgb).save(flickr8k / "Flicker8k_Dataset" / name, "JPEG")
            lines["en"].append(f"a {colour} dog runs")
            lines["de"].append(f"ein {german} hund rennt")
        for language, of_language in lines.items():
            (texts / f"{stem}.{language}").write_text("\n".join(of_language) + "\n")
        (texts / "image_splits" / f"{stem}.txt").write_text("\n".join(names[split]) + "\n")
    return texts, flickr8k


@pytest.fixture(scope="module")
def run(folders, tmp_path_factory):
    """A run that has learnt its twelve sentences."""
    texts, flickr8k = folders
    folder = tmp_path_factory.mktemp("pictured")
    experiment = config.load_experiment("multi30k:pictured")
    places = {"dir": folder / "data", "manual_dir": texts, "pictures_dir": flickr8k}
    changes = SMALL | {f"data.{name}": str(path) for name, path in places.items()}
    train(config.replaced(experiment, changes), folder / "run")
    return folder / "run"


def test_only_the_right_picture_tells_what_is_hidden(run, capsys):
    main(["evaluate", "--workdir", str(run)])
    [scores] = [json.loads(path.read_text()) for path in run.glob("test-*.scores.json")]
    pictures = scores["pictures"]
    assert pictures["right"]["exact"] == 1.0
    assert pictures["wrong"]["exact"] <= 0.5
    assert pictures["none"]["BLEU"] < pictures["right"]["BLEU"]
    assert "wrong" in capsys.readouterr().out


def test_a_sentence_is_translated_beside_a_picture(run, folders, tmp_path, capsys):
    for number, german in (("200", "roter"), ("201", "grüner")):
        path = folders[1] / "Flicker8k_Dataset" / f"{number}_a.jpg"
        out = tmp_path / number
        sentence = ["a [v] dog runs", "--picture", str(path), "--out", str(out)]
        main(["translate", "--workdir", str(run), *sentence])
        assert capsys.readouterr().out.strip() == f"ein {german} hund rennt"
        maps = np.load(out / "pictures" / "sentence%201.npz")
        assert maps["alpha"].shape[0] == 5 and maps["row_centres"].shape == (4,)
    missing = ["--picture", str(tmp_path / "no.jpg")]
    assert main(["translate", "--workdir", str(run), "a dog", *missing]) == 2
    assert "no.jpg: no such file" in capsys.readouterr().err


def test_where_a_split_is_looked_at_is_drawn(run, tmp_path):
    main(["attend", "--workdir", str(run), "--num", "2", "--out", str(tmp_path)])
    words, pictures = (
        sorted(path.name for path in folder.glob("*.npz"))
        for folder in (tmp_path, tmp_path / "pictures")
    )
    assert len(words) == 2 and words == pictures
    assert len([*(tmp_path / "pictures").glob("*.png")]) == 2


def test_a_context_is_that_of_the_hard_attention(run, folders):
    loaded = load_run(run)
    decoder = loaded.model.decoder
    picture = folders[1] / "Flicker8k_Dataset" / "200_a.jpg"

    def log_prob(context, picture):
        decoding = dataclasses.replace(loaded.decoding, context=context)
        [said], _ = translate(loaded, ["a [v] dog runs"], decoding, picture)
        return said.log_prob

    decoder.sight.hard = True
    assert abs(log_prob("argmax", picture) - log_prob("expected", picture)) > 1e-4
    # Of no picture, any place reads the same; of the words, the expectation is read.
    assert log_prob("argmax", None) == pytest.approx(log_prob("expected", None), abs=1e-6)


def test_verbs_that_know_one_attention_say_so(run, capsys):
    for verb in (["gradient-variance", "--workdir", str(run)], ["explore", str(run)]):
        assert main(verb) == 2
        assert "picture" in capsys.readouterr().err


def test_a_run_keeps_the_checksum_of_its_pictures_weights(run):
    settings = load_run(run).settings
    assert settings.picture.weights_sha256 == build_picture_encoder(settings).checksum
    one, other = (
        config.replaced(settings, {"picture.weights_sha256": digit * 64, "picture.weights": digit})
        for digit in "01"
    )
    assert config.changes(one, other) == ["picture.weights_sha256"]
    assert config.changes(settings, one) == ["picture.weights"]


def test_an_ensemble_looks_at_pictures_or_does_not(run):
    loaded = load_run(run)
    plain = dataclasses.replace(loaded, settings=dataclasses.replace(loaded.settings, picture=None))
    with pytest.raises(UserError, match="only one of them looks at pictures"):
        ensemble([loaded, plain])


def test_what_training_read_is_prepared(run):
    records = prepare(load_run(run).settings, Console(file=io.StringIO()))
    assert [(one["split"], one["done"]) for one in records[:2]] == [("train", 12), ("val", 4)]
