"""SPICE with a stand-in for Java: what it is given, what is read, and clear lines otherwise."""

import json
import sys

import pytest

from show_attend_tell.errors import UserError
from show_attend_tell.evaluation import spice
from show_attend_tell.evaluation.scores import Scores

TRUTH = {"x": ["A dog runs.", "Dogs"], "y": ["Two cats"], "z": ["..."]}
SAID = {"z": "a", "y": "Two cats.", "x": "a dog"}
# Notes what it is called with, and scores a caption by the number of its words.
JAVA = """#!{python}
import json, pathlib, sys
given = json.loads(pathlib.Path(sys.argv[4]).read_text())
pathlib.Path({folder!r}, "called.json").write_text(json.dumps([sys.argv[1:], given]))
scores = [
    dict(image_id=one["image_id"], scores=dict(All=dict(f=(None, 0.5, 1.0)[one["image_id"]])))
    for one in reversed(given)
]
pathlib.Path(sys.argv[sys.argv.index("-out") + 1]).write_text(json.dumps(scores))
"""


@pytest.fixture
def java(tmp_path, monkeypatch):
    """Puts a program that is called java on the PATH, and the files of SPICE into a folder."""
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr(spice, "FOLDER", tmp_path)
    (tmp_path / "lib").mkdir()
    (tmp_path / "bin").mkdir()
    for name in ("spice-1.0.jar", *spice._PARSER):
        (tmp_path / name).touch()

    def install(text):
        path = tmp_path / "bin" / "java"
        path.write_text(text.format(python=sys.executable, folder=str(tmp_path)))
        path.chmod(0o755)

    install(JAVA)
    return install


def score():
    scores = Scores({"CIDEr": 1.0}, {}, {}, [])
    spice.add_spice(scores, TRUTH, SAID)
    return scores


def test_scores_are_added_in_the_order_of_the_captions(java, tmp_path):
    scores = score()
    assert scores.per_image == {"SPICE": [0.0, 0.5, 1.0]}
    assert scores.values == {"CIDEr": 1.0, "SPICE": 0.5}
    words, given = json.loads((tmp_path / "called.json").read_text())
    assert words[:3] == ["-Xmx8G", "-jar", str(tmp_path / "spice-1.0.jar")]
    # The tokens that the other scores see.
    assert given[2] == {"image_id": 2, "test": "a dog", "refs": ["a dog runs", "dogs"]}


def test_what_is_missing_is_named(java, tmp_path):
    (tmp_path / "lib" / "stanford-corenlp-3.6.0-models.jar").unlink()
    with pytest.raises(UserError, match=r"SPICE needs .*3.6.0-models.jar, 0.4 GB: get it with"):
        spice.check_spice()
    (tmp_path / "spice-1.0.jar").unlink()
    with pytest.raises(UserError, match=r"SPICE needs .*spice-1.0.jar: install pycocoevalcap"):
        spice.check_spice()
    (tmp_path / "bin" / "java").unlink()
    with pytest.raises(UserError, match="there is no java on the PATH; install one"):
        spice.check_spice()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "#!/bin/sh\necho 'in the way' >&2\necho 'java.lang.XError: no' >&2\nexit 1\n",
            "java.lang.X",
        ),
        ("#!/bin/sh\nexit 3\n", "exit status 3"),
        ("#!/bin/sh\n", "wrote no scores"),
        ("#!/nowhere/sh\n", "wrote no scores"),
        ("#!/bin/sh\necho '[{{\"image_id\": 0}}]' > $6\n", "wrote no scores"),
    ],
)
def test_a_java_that_fails_is_one_line(java, text, message):
    java(text)
    with pytest.raises(UserError, match=f"SPICE .*{message}.*Java 8: put that one first") as raised:
        score()
    assert "\n" not in str(raised.value)
