"""The table of a split, against the runs' own captions and scores."""

import time
from types import SimpleNamespace

import numpy as np
import pytest

from show_attend_tell.data.task import ImageTask
from show_attend_tell.evaluation import caption_metrics
from show_attend_tell.evaluation.boxes import Places, box_cover
from show_attend_tell.explorer.answers import Grid, Reading, Row, RunSummary
from show_attend_tell.explorer.browsing import Browsing, disagreement
from show_attend_tell.explorer.respondent import Respondent
from show_attend_tell.explorer.turns import Turns
from show_attend_tell.settings import ImageData


@pytest.fixture(scope="module")
def table(explorer):
    explorer.browsing.start()
    explorer.browsing.wait()
    return explorer.browsing.table()


def test_every_run_captions_the_first_pictures(explorer, table, trained):
    scenes = trained[1]
    assert (table.split, table.total, table.ready) == ("val", 6, 6)
    assert [row.name for row in table.rows] == scenes.ids[:6]
    for row, scene in zip(table.rows, scenes, strict=False):
        assert row.runs.keys() == {"one", "latent"}
        both = [summary.caption for summary in row.runs.values()]
        assert row.disagreement == disagreement([both]) > 0
        assert row.runs["one"].caption == scene.captions[0]
        assert row.references == list(scene.captions)


def test_figures_of_a_row_are_those_of_its_caption(explorer, table):
    row = table.rows[2]
    respondent = explorer.respondents["one"]
    kept = explorer.pictures[row.picture]
    reading = respondent.caption(respondent.see_picture("again", kept.picture))
    words = [step for step in reading.steps if step.word != "<eos>"]
    summary = row.runs["one"]
    assert summary.entropy == pytest.approx(sum(s.entropy for s in words) / len(words), abs=1e-4)
    places = Places(np.array(reading.grid.rows), np.array(reading.grid.columns))
    shares, hits = [], []
    for box in kept.mentions:  # every noun of a scene is said once, or names all of its kind
        steps = [step for step in words if step.word == box.noun]
        boxes = [b for m in kept.mentions if m.noun == box.noun for b in m.boxes]
        for step in steps[:1]:
            cover = box_cover(boxes, places.rows, places.columns)
            shares.append(float(np.dot(step.prior, cover)))
            y, x = places.centres[int(np.argmax(step.prior))]
            hits.append(any(a <= y <= c and b <= x <= d for a, b, c, d in boxes))
    if len({m.noun for m in kept.mentions}) == len(kept.mentions):
        assert summary.in_box == pytest.approx(np.mean(shares), abs=1e-4)
        assert summary.pointing == pytest.approx(np.mean(hits))


def test_scores_are_those_of_the_metrics(table):
    hypotheses = {row.picture: row.runs["latent"].caption for row in table.rows}
    references = {row.picture: row.references for row in table.rows}
    found = caption_metrics.score(references, hypotheses, meteor=False)
    assert len(set(found.per_image["ROUGE-L"])) > 1
    for k, row in enumerate(table.rows):
        scores = row.runs["latent"].scores
        assert scores["ROUGE-L"] == pytest.approx(found.per_image["ROUGE-L"][k])
        assert scores["CIDEr"] == pytest.approx(found.per_image["CIDEr"][k])
        assert scores["BLEU-4"] == pytest.approx(found.per_image["BLEU-4"][k])


class Speaker(Respondent):
    """A run that only has a language."""

    def __init__(self, name, task):
        settings = SimpleNamespace(data=task.data)
        self.name = name
        self.run = SimpleNamespace(task=task, language=task.language, settings=settings)


def test_captions_in_another_language_than_the_references_have_no_scores(explorer):
    data = ImageData(name="shapes", languages=("de", "en"), vocabulary="13a")
    speakers = [Speaker(name, ImageTask(data).speaking(name)) for name in ("de", "en")]
    ids, turns = explorer.pictures.split[:2], Turns()
    browsing = Browsing("val", explorer.pictures, ids, speakers, turns.background)
    for key, text in zip(ids, ("Ein Kreis, blau", "Zwei Sterne"), strict=True):
        runs = {
            name: RunSummary(caption=text, entropy=0.0, pointing=None, in_box=None, scores={})
            for name in ("de", "en")
        }
        row = Row(picture=key, name=key, references=[text], runs=runs, disagreement=None)
        browsing._rows[key] = row
    browsing._score()
    for row in browsing.table().rows:
        assert row.runs["de"].scores["exact"] == 1 and row.runs["en"].scores == {}


def test_people_come_first_and_a_stop_is_heeded(explorer):
    turns = Turns()
    browsing = Browsing(
        "val",
        explorer.pictures,
        explorer.pictures.split,
        [explorer.respondents["one"]],
        turns.background,
    )
    with turns.person():
        browsing.start()
        time.sleep(0.2)
        assert browsing.table().rows == []
    browsing.stop()
    assert browsing.table().ready < 8


def test_what_stops_the_table_is_said(explorer, caplog):
    class Failing(Speaker):
        def see_picture(self, key, picture):
            raise OSError(f"{key}: the disk is gone")

    ids = explorer.pictures.split[:1]
    failing = Failing("one", ImageTask(ImageData(name="shapes")))
    browsing = Browsing("val", explorer.pictures, ids, [failing], Turns().background)
    browsing.start()
    browsing.wait()
    table = browsing.table()
    assert (table.ready, table.message) == (0, f"Stopped: {ids[0]}: the disk is gone")
    assert "The table of val is not finished." in caplog.text


class Reciting(Speaker):
    """A run that says the same of every picture."""

    def __init__(self, name, task, text):
        super().__init__(name, task)
        self.text = text

    def see_picture(self, key, picture):
        return None

    def captions(self, seen):
        grid = Grid(rows=[0.5], columns=[0.5], measured=True)
        facts = {"log_prob": 0, "score": 0, "context": "expected", "seconds": 0, "source": []}
        said = {"run": self.name, "text": self.text, "steps": [], "finished": True, "hard": False}
        return [Reading(grid=grid, **facts, **said)] * len(seen)


@pytest.mark.parametrize(
    ("texts", "apart"),
    [
        ({"en": ["a dog", "a dog"], "de": ["ein Hund"]}, 0),
        ({"en": ["a dog"], "de": ["ein Hund"]}, None),
        ({"en": ["a dog", "a cat"], "de": ["ein Hund", "ein Hund"]}, 1 / 3),
    ],
)
def test_captions_disagree_within_a_language(explorer, texts, apart):
    data = ImageData(name="shapes", languages=("en", "de"), vocabulary="13a")
    speakers = [
        Reciting(f"{number} ({language})", ImageTask(data).speaking(language), text)
        for language, said in texts.items()
        for number, text in enumerate(said)
    ]
    ids, turns = explorer.pictures.split[:2], Turns()
    browsing = Browsing("val", explorer.pictures, ids, speakers, turns.background)
    browsing.start()
    browsing.wait()
    for row in browsing.table().rows:
        assert row.disagreement == (None if apart is None else pytest.approx(apart))
    assert browsing.table().ready == 2 and not browsing.table().message


def test_disagreement_is_one_minus_the_mean_jaccard_index():
    assert disagreement([["a dog"]]) is None
    assert disagreement([["a dog", "a dog"]]) == 0
    assert disagreement([["a dog", "the cat"]]) == 1
    assert disagreement([["小狗跑", "小狗坐"]]) == 0.5
    three = ["a dog runs", "a dog sits", "a cat sits"]
    assert disagreement([three]) == pytest.approx(1 - (2 / 4 + 1 / 5 + 2 / 4) / 3)
