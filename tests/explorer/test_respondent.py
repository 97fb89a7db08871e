"""What a run answers, against its own captions and the decoder's passes."""

import dataclasses

import numpy as np
import pytest

from show_attend_tell.data.images import read_image
from show_attend_tell.errors import UserError
from show_attend_tell.explorer.answers import GivenStep
from show_attend_tell.explorer.respondent import Respondent, masked
from show_attend_tell.inference.captioning import caption_images
from show_attend_tell.inference.run import load_run


@pytest.fixture(scope="module")
def scenes(trained):
    return trained[1]


@pytest.fixture(scope="module")
def respondent(trained):
    return Respondent("tiny", load_run(trained[0]))


def see(respondent, scenes, number=0, masks=()):
    return respondent.see_picture(f"scene {number}", scenes[number].image, masks)


def words(text):
    return [GivenStep(word=word) for word in text.split()]


def test_without_given_steps_it_is_the_runs_caption(respondent, scenes):
    run = respondent.run
    for number in (0, 3):
        seen = see(respondent, scenes, number)
        reading = respondent.caption(seen)
        assert reading.text == scenes[number].captions[0]
        [expected] = caption_images(run, [_image(run, scenes, number)], run.decoding)
        assert [step.word for step in reading.steps] == list(expected.tokens)
        assert reading.log_prob == pytest.approx(expected.log_prob, abs=1e-4)
        assert sum(s.log_p for s in reading.steps) == pytest.approx(expected.log_prob, abs=1e-3)
        for t, step in enumerate(reading.steps):
            np.testing.assert_allclose(step.prior, expected.alpha[t], atol=1e-5)
            assert step.beta == pytest.approx(float(expected.beta[t]), abs=1e-5)
            assert step.location == np.argmax(step.prior) and step.gaze is None
            entropy = -sum(a * np.log(a) for a in step.prior if a > 0)
            assert step.entropy == pytest.approx(entropy, abs=1e-3)
            assert [c.p for c in step.top] == sorted((c.p for c in step.top), reverse=True)
            assert step.top[0].p >= np.exp(step.log_p) - 1e-6
        assert reading.finished and not reading.hard and reading.source == []


def _image(run, scenes, number):
    return read_image(scenes[number].image, run.image_size)


def test_given_words_begin_the_caption_and_a_given_place_decides_the_word(respondent, scenes):
    seen = see(respondent, scenes)
    free = respondent.caption(seen)
    start = [step.word for step in free.steps[:2]]
    around = respondent.gaze(seen, words(" ".join(start)))
    assert len(around.map) == len(around.cells) == 64
    likeliest = int(np.argmax([cell[0].p for cell in around.cells]))
    unlike = [i for i in range(64) if around.cells[i][0].word != around.cells[likeliest][0].word]
    for place in [likeliest, *unlike[:1]]:
        reading = respondent.caption(seen, [*words(" ".join(start)), GivenStep(gaze=place)], beam=1)
        step = reading.steps[2]
        assert [s.word for s in reading.steps[:2]] == start
        assert step.gaze == place and step.location == place
        assert step.word == around.cells[place][0].word  # greedy
        assert step.log_p == pytest.approx(np.log(around.cells[place][0].p), abs=1e-4)
        # What the place is before it is read does not depend on it.
        np.testing.assert_allclose(step.prior, free.steps[2].prior, atol=1e-5)
    chosen = respondent.gaze(seen, words(" ".join(start)), "red")
    for i in range(64):
        among = {c.word: c.p for c in chosen.cells[i]}
        if "red" in among:
            assert chosen.map[i] == pytest.approx(among["red"], abs=1e-5)
    assert chosen.word == "red"
    top = {c.word: c.p for c in free.steps[2].top}
    assert chosen.own == pytest.approx(top.get("red", chosen.own), abs=1e-5)
    assert around.own == pytest.approx(free.steps[2].top[0].p, abs=1e-5)


def test_all_gazes_of_a_caption_are_those_asked_one_by_one(respondent, scenes):
    seen = see(respondent, scenes, 1)
    reading = respondent.caption(seen)
    found = respondent.gazes_of(seen, reading)
    assert len(found) == len(reading.steps)
    for t in (0, 3):
        before = [GivenStep(word=step.word) for step in reading.steps[:t]]
        one = respondent.gaze(seen, before).cells
        assert [[c.word for c in cell] for cell in found[t]] == [
            [c.word for c in cell] for cell in one
        ]
        np.testing.assert_allclose(
            [[c.p for c in cell] for cell in found[t]],
            [[c.p for c in cell] for cell in one],
            atol=1e-5,
        )


def test_several_pictures_at_once_are_answered_as_one_by_one(respondent, scenes):
    seen = [see(respondent, scenes, number) for number in (0, 1, 2)]
    together = respondent.captions(seen)
    for one, reading in zip(seen, together, strict=True):
        alone = respondent.caption(one)
        assert reading.text == alone.text
        assert reading.log_prob == pytest.approx(alone.log_prob, abs=1e-4)


def test_a_mask_paints_over_what_the_model_sees(respondent, scenes):
    image = np.full((8, 8, 3), 200, np.uint8)
    found = masked(image, [(0.25, 0.5, 0.75, 1.0)])
    grey = np.zeros((8, 8), bool)
    grey[2:6, 4:8] = True
    assert (found[grey] == 127).all() and (found[~grey] == 200).all()
    assert (image == 200).all()
    whole = respondent.caption(see(respondent, scenes, 0, [(0.0, 0.0, 1.0, 1.0)]))
    other = respondent.caption(see(respondent, scenes, 3, [(0.0, 0.0, 1.0, 1.0)]))
    assert whole.text == other.text  # nothing of either picture is left
    assert whole.text != respondent.caption(see(respondent, scenes, 0)).text


@pytest.mark.parametrize(
    ("steps", "error"),
    [
        ([GivenStep(gaze=64)], "gaze 64: there is no such place; they are numbered 0 to 63"),
        ([GivenStep(word="zebra")], "'zebra': not a word of tiny"),
        ([GivenStep(word="<pad>")], "'<pad>': not a word of tiny"),
        ([GivenStep()] * 31, "31 steps: captions of tiny have at most 30"),
    ],
)
def test_what_cannot_be_given_is_an_error(respondent, scenes, steps, error):
    with pytest.raises(UserError, match=error.replace("<", "[<]")):
        respondent.caption(see(respondent, scenes), steps)


def test_the_last_inputs_are_kept(respondent, scenes, monkeypatch):
    monkeypatch.setattr("show_attend_tell.explorer.respondent._INPUTS_KEPT", 2)
    first, second = see(respondent, scenes, 0), see(respondent, scenes, 1)
    assert see(respondent, scenes, 0) is first
    see(respondent, scenes, 2)  # the second is now the oldest
    assert see(respondent, scenes, 0) is first
    assert see(respondent, scenes, 1) is not second


def test_the_search_is_the_runs_unless_asked_otherwise(respondent):
    own = respondent.run.decoding
    assert respondent.decoding(None, None) == own
    asked = dataclasses.replace(own, beam=3, context="argmax")
    assert respondent.decoding(3, "argmax") == asked
    # Greedy is greedy, whatever else the run does.
    for changes in ({"search": "sample"}, {"groups": 2}):
        how = dataclasses.replace(own, beam=4, consensus=True, **changes)
        settings = dataclasses.replace(respondent.run.settings, decode=how)
        other = Respondent("other", dataclasses.replace(respondent.run, settings=settings))
        assert other.decoding(None, None) == how
        assert other.decoding(1, None) == how.greedy
        assert other.decoding(3, None) == dataclasses.replace(how.greedy, beam=3, consensus=True)


def test_a_gaze_reads_what_the_caption_reads(respondent, scenes):
    seen = see(respondent, scenes)
    step = respondent.caption(seen, beam=1, context="argmax").steps[0]
    own = [respondent.gaze(seen, (), step.word, context).own for context in ("argmax", None)]
    assert own[0] == pytest.approx(np.exp(step.log_p), rel=1e-4) and own[0] != own[1]


def test_questions_that_make_no_sense_are_errors(respondent, scenes):
    seen = see(respondent, scenes)
    with pytest.raises(UserError, match="steps of tiny read expected, argmax"):
        respondent.caption(seen, context="mixture")
    with pytest.raises(UserError, match="need words"):
        respondent.gaze(seen, [GivenStep(gaze=1)])
    with pytest.raises(UserError, match="captions pictures"):
        respondent.see_text("a sentence")


def test_pieces_are_found_by_the_words_that_they_begin(respondent):
    pieces = dataclasses.replace(respondent.run.vocabulary, words=("\u2581red", "dish", "\u2581re"))
    other = Respondent("pieces", dataclasses.replace(respondent.run, vocabulary=pieces))
    assert other.begins("re") == ["\u2581red", "\u2581re"]
    assert [other._id(word) for word in ("red", "\u2581red", "dish", "re")] == [4, 4, 5, 6]


def test_words_begin_as_asked(respondent):
    found = respondent.begins("R")
    assert "red" in found and all(word.startswith("r") for word in found)
    assert len(respondent.begins("", most=3)) == 3
