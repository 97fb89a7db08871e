"""Multi30k from small files in its format, from bad files, and from the real ones."""

import gzip

import pytest

from show_attend_tell import config
from show_attend_tell.data.builders.multi30k import Multi30k
from show_attend_tell.data.further_pairs import read_further
from show_attend_tell.data.load import load_pairs
from show_attend_tell.data.task import task_of
from show_attend_tell.errors import UserError

LINES = {
    "train": {
        "en": "Two dogs run.\nA man sits .\nThe end",
        "de": "Zwei Hunde laufen.\nEin  Mann.\nAus",
    },
    "val": {"en": "One.\n", "de": "Eins.\n"},
    "test_2016_flickr": {"en": "A café.\r\n", "de": "Ein Café.\n"},
}


@pytest.fixture
def files(tmp_path):
    """A folder with the six files, some of them gzipped."""
    folder = tmp_path / "files"
    folder.mkdir()
    for stem, texts in LINES.items():
        for language, text in texts.items():
            if stem == "train":
                (folder / f"{stem}.{language}.gz").write_bytes(gzip.compress(text.encode()))
            else:
                (folder / f"{stem}.{language}").write_bytes(text.encode())
    return folder


def read(tmp_path, files, split, languages=("en", "de")):
    data = tmp_path / "data"
    return load_pairs("multi30k", split, data_dir=data, manual_dir=files, languages=languages)


def test_pairs_match_line_by_line_in_either_direction(tmp_path, files):
    train = read(tmp_path, files, "train")
    pairs = {pair.pair_id: (pair.source, pair.target) for pair in train}
    assert pairs == {
        "train-00001": ("Two dogs run.", "Zwei Hunde laufen."),
        "train-00002": ("A man sits .", "Ein Mann."),
        "train-00003": ("The end", "Aus"),
    }
    assert train.captions() == [(pair.target,) for pair in train]
    back = read(tmp_path, files, "test", ("de", "en"))
    assert [(pair.source, pair.target) for pair in back] == [("Ein Café.", "A café.")]
    assert back.fingerprint != read(tmp_path, files, "test").fingerprint


def test_other_files_make_a_data_set_beside_the_built_one(tmp_path, files):
    first = list(read(tmp_path, files, "val"))
    (files / "val.en").rename(tmp_path / "val.en")
    assert list(read(tmp_path, files, "val")) == first  # incomplete files change nothing
    (files / "val.en").write_text("Two.")
    assert [pair.source for pair in read(tmp_path, files, "val")] == ["Two."]
    assert list(read(tmp_path, None, "val")) == first
    (files / "val.en").unlink()
    (files / "val.en.gz").write_bytes(gzip.compress((tmp_path / "val.en").read_bytes()))
    assert list(read(tmp_path, files, "val")) == first


def test_a_data_set_of_which_the_files_are_not_known_is_taken(tmp_path, files):
    first = list(read(tmp_path, files, "val"))
    for path in tmp_path.rglob("metadata.json"):  # version 0.2 wrote none
        path.unlink()
    (files / "val.en").write_text("Two.")
    assert list(read(tmp_path, files, "val")) == first


@pytest.mark.parametrize(
    "name, content, message",
    [
        (
            "val.de",
            b"Eins.\nZwei.\n",
            r"val.en has 1 lines, .*val.de has 2: they are not",
        ),
        ("val.de", b"\n", r"val.de, line 1: empty; remove the line"),
        ("val.de", b"", r"val.de: no sentence in it"),
        ("val.de", "Grün.\n".encode("latin-1"), r"val.de, line 1: not UTF-8 .*; convert the file"),
        ("train.de.gz", b"Zwei Hunde laufen.\n", r"train.de.gz: cannot be read .*; get the file"),
        (
            "train.de.gz",
            gzip.compress(b"Zwei", mtime=0)[:-9],
            r"train.de.gz: cannot be read .*; get the file",
        ),
    ],
)
def test_a_bad_file_is_named_with_its_line_and_builds_nothing(
    tmp_path, files, name, content, message
):
    (files / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        read(tmp_path, files, "val")
    assert not list((tmp_path / "data").rglob("*.array_record*"))


def test_absent_languages_and_folders_are_named(tmp_path, files):
    with pytest.raises(UserError, match=r"no train.fr.gz or train.fr \(there is de, en\)"):
        read(tmp_path, files, "val", ("en", "fr"))
    for languages in (None, ("", ""), ("en", "")):
        with pytest.raises(UserError, match="multi30k: name its languages, config.data.source and"):
            read(tmp_path, files, "val", languages)
    with pytest.raises(UserError, match="nowhere: no such folder"):
        read(tmp_path, tmp_path / "nowhere", "val")
    with pytest.raises(UserError, match="no folder to build it from is set"):
        read(tmp_path, None, "val")


@pytest.mark.parametrize("every", [pytest.param(1, marks=pytest.mark.slow), 50])
def test_the_real_files_have_their_published_sizes(tmp_path, shared, monkeypatch, every):
    """Of which some pairs stand for the others."""
    read_pairs, sizes = Multi30k._read, {}

    def read_some(builder, folder, stem):
        pairs = read_pairs(builder, folder, stem)
        sizes[stem] = len(pairs)
        return pairs[::every]

    monkeypatch.setattr(Multi30k, "_read", read_some)
    splits = {s: read(tmp_path, shared / "multi30k", s) for s in ("train", "val", "test")}
    assert sizes == {"train": 29000, "val": 1014, "test_2016_flickr": 1000}
    assert [len(split) for split in splits.values()] == [-(-n // every) for n in sizes.values()]
    pairs = {pair.pair_id: pair for pair in splits["train"]}
    assert pairs["train-00001"].source == "Two young, White males are outside near many bushes."
    assert pairs["train-00001"].target.startswith("Zwei junge weiße Männer sind im Freien")


@pytest.fixture
def further(tmp_path):
    folder = tmp_path / "further"
    folder.mkdir()
    (folder / "train.de").write_text("Drei  Katzen .\nZwei Vögel\nEin Baum\n")
    (folder / "train.en").write_text("three cats .\n\na tree\n")
    return folder


def test_further_pairs_follow_and_are_not_counted_for_the_vocabulary(
    tmp_path, files, further, caplog
):
    data = {"dir": str(tmp_path / "data"), "manual_dir": str(files), "further_dir": str(further)}
    overrides = [f"--config.data.{name}={value}" for name, value in data.items()]
    overrides += ["--config.data.vocabulary=words", "--config.data.min_count=1"]
    task = task_of(config.load_experiment("multi30k:bahdanau", overrides).data)
    train = task.load("train", training=True)
    assert "1 of 3 pairs have an empty line; left out" in caplog.text
    assert [(pair.pair_id, pair.source, pair.target) for pair in train][3:] == [
        ("further-000001", "three cats .", "Drei Katzen ."),
        ("further-000003", "a tree", "Ein Baum"),
    ]
    own = task.load("train")
    assert (len(train), train.stored, len(own)) == (5, 3, 3)
    assert own.fingerprint == read(tmp_path, files, "train").fingerprint != train.fingerprint
    vocabulary = task.source_vocabulary(train)
    assert vocabulary is not None and "cats" not in vocabulary.words
    assert vocabulary.words == task.source_vocabulary(own).words
    assert len(task.load("val", training=True)) == 1
    (further / "train.en").write_text("three dogs .\n\na tree\n")
    assert task.load("train", training=True).fingerprint != train.fingerprint


@pytest.mark.parametrize(
    "remove, add, languages, message",
    [
        ("train.en", "", ("en", "de"), r"no train.en.gz or train.en .*data.further_dir"),
        ("", "more\n", ("en", "de"), r"train.en has 4 lines, .*train.de has 3: .*make both again"),
        ("", "", None, r"further_dir needs the names of the languages"),
    ],
)
def test_further_pairs_that_cannot_be_used(further, remove, add, languages, message):
    if add:
        with (further / "train.en").open("a") as file:
            file.write(add)
    if remove:
        (further / remove).unlink()
    with pytest.raises(UserError, match=message):
        read_further(further, languages)
