"""From a trained run to captions, attention and score files."""

import dataclasses
import io
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from PIL import Image

from show_attend_tell.data import task as tasks
from show_attend_tell.data.subject import Subject
from show_attend_tell.data.task import ImageTask
from show_attend_tell.errors import UserError
from show_attend_tell.evaluation.grounding import steps_naming
from show_attend_tell.evaluation.results_file import read_results
from show_attend_tell.evaluation.split_scores import score_split
from show_attend_tell.inference import captioning
from show_attend_tell.inference.captioning import (
    attention_records,
    caption_files,
    caption_split,
)
from show_attend_tell.inference.decoding import make_decode
from show_attend_tell.inference.run import load_run
from show_attend_tell.runs.inputs import load_inputs
from show_attend_tell.settings import Decode


@pytest.fixture
def run(trained, monkeypatch):
    workdir, scenes = trained
    monkeypatch.setattr(ImageTask, "load", lambda task, split, training=False: scenes)
    return load_run(workdir)


def test_eight_scenes_are_memorised(run):
    examples, captions = caption_split(run, "val", run.decoding)
    assert [c.text for c in captions] == [e.captions[0] for e in examples]
    for caption in captions:
        assert caption.tokens[-1] == "<eos>"
        assert caption.alpha.shape == (len(caption.tokens), 64)
        np.testing.assert_allclose(caption.alpha.sum(axis=1), 1, atol=1e-5)
        assert ((caption.beta > 0) & (caption.beta < 1)).all()


def test_captions_do_not_depend_on_the_batch(run):
    one = dataclasses.replace(run.decoding, batch_size=1)
    eight = dataclasses.replace(run.decoding, batch_size=8)
    for a, b in zip(
        caption_split(run, "val", one)[1],
        caption_split(run, "val", eight)[1],
        strict=True,
    ):
        assert a.tokens == b.tokens
        np.testing.assert_allclose(a.alpha, b.alpha, atol=1e-5)


@pytest.mark.parametrize("context", ["argmax", "sample"])
def test_hard_contexts_read_one_location_a_step(run, context):
    hard = dataclasses.replace(run.decoding, context=context, batch_size=3)
    captions = caption_split(run, "val", hard)[1]
    soft = caption_split(run, "val", run.decoding)[1]
    # All contexts attend alike in the first step; what they read changes the following ones.
    for a, b in zip(captions, soft, strict=True):
        np.testing.assert_allclose(a.alpha[0], b.alpha[0], atol=1e-5)
        assert a.location.shape == (len(a.tokens),) and a.location.max() < 64
    assert any(a.log_prob != pytest.approx(b.log_prob) for a, b in zip(captions, soft, strict=True))
    most_likely = [(c.alpha.argmax(axis=1) == c.location).mean() for c in captions]
    if context == "argmax":
        assert np.mean(most_likely) == 1
    else:
        assert 0 < np.mean(most_likely) < 1
        eight = dataclasses.replace(hard, batch_size=8)
        again = caption_split(run, "val", eight)[1]
        assert [c.location.tolist() for c in again] == [c.location.tolist() for c in captions]


def test_every_example_and_every_beam_draws_its_own_places(run):
    # If all places are equally probable, the noise alone decides. With such words the beams part.
    params = jax.tree.map(lambda p: p, run.params)
    score, output = params["decoder"]["attention"]["score"], params["decoder"]["output_word"]
    score["kernel"] = jnp.zeros_like(score["kernel"])
    output["kernel"] = jax.random.normal(jax.random.key(3), output["kernel"].shape)
    examples = run.task.load("val")
    inputs = load_inputs(run.settings, run.task, examples, run.encoder, run.source_vocabulary)
    same = jnp.repeat(jnp.asarray(inputs[:1]), 3, axis=0)
    # Of many beams, some part early enough to show.
    hard = dataclasses.replace(run.decoding, context="sample", batch_size=3, beam=8, min_length=8)
    found = make_decode(run.model, hard)(params, same, jnp.array([4, 4, 5]))
    places = np.asarray(found.trace["location"])
    np.testing.assert_array_equal(places[0], places[1])
    assert (places[0, 0] != places[2, 0]).any()  # another example
    both = np.arange(places.shape[-1]) < np.asarray(found.lengths).min(axis=1)[:, None]
    parted = (places != places[:, :1]).any(axis=1)
    assert parted[both].any()  # another beam
    assert (places[:, :, 0] == places[:, :1, 0]).all()  # at the first step there is but one


def test_the_seed_draws_other_places(tmp_path):
    run = tiny.run_of(tmp_path, 3, {}, kind="hard")
    vectors, numbers = jax.random.normal(jax.random.key(0), (8, 3, 4)), jnp.arange(8)
    first = Decode(beam=1, context="sample", max_length=4, min_length=4)
    places = [
        np.asarray(make_decode(run.model, how)(run.params, vectors, numbers).trace["location"])
        for how in (first, dataclasses.replace(first, seed=1))
    ]
    assert (places[0] != places[1]).any()


def test_a_null_place_is_left_out_of_a_captions_map(tmp_path):
    run = tiny.run_of(tmp_path, 3, {"attention.null_place": True}, kind="hard", null_place=True)
    attention = run.params["decoder"]["attention"]
    towards = jnp.sign(attention["score"]["kernel"][:, 0])
    attention["null_key"] = 20 * towards  # a score that no place has
    decoding = dataclasses.replace(run.settings.decode, context="argmax", max_length=4)
    vectors = jax.random.normal(jax.random.key(0), (1, 3, 4))
    found = make_decode(run.model, decoding)(run.params, vectors, jnp.zeros(1, jnp.int32))
    alpha, location = found.trace["alpha"][0, 0], found.trace["location"][0, 0]
    assert alpha.shape == (4, 3) and (alpha.sum(-1) < 0.9).all()
    assert (location == alpha.argmax(-1)).all()
    assert not run.settings.attention.normalised


def test_scores_and_captions_are_written_with_what_they_depend_on(run):
    examples, captions = caption_split(run, "val", run.decoding)
    record = score_split(run, "val", run.decoding, examples, captions)
    stored = json.loads((run.workdir / "val-expected-beam2-lp0.scores.json").read_text())
    assert stored == json.loads(json.dumps(record))
    assert stored["scores"]["exact"] == 1.0
    assert stored["scores"]["BLEU-1"] == pytest.approx(1.0)
    assert stored["images"] == 8 and stored["unfinished"] == 0
    assert stored["decoding"]["beam"] == 2 and stored["decoding"]["ban_unk"] is True
    assert {"tokenizer", "config_digest", "seed", "commit", "split", "step"} <= stored.keys()
    assert len(stored["per_image"]["CIDEr"]) == 8
    assert read_results(run.workdir / "val-expected-beam2-lp0.captions.json") == {
        e.image_id: c.text for e, c in zip(examples, captions, strict=True)
    }


def test_records_carry_geometry_and_boxes(run):
    examples, captions = caption_split(run, "val", run.decoding)
    subjects = map(run.task.subject, examples)
    record = attention_records(run, run.decoding, subjects, captions)[0]
    assert record.grid == (8, 8) and record.original_size == (96, 96)
    assert len(record.boxes) == len(examples[0].boxes)
    assert all(steps_naming(record, box) == [box.word_index] for box in record.boxes)


def test_records_lie_where_the_runs_encoder_was_measured_to_look(run):
    examples, captions = caption_split(run, "val", run.decoding)

    def first_record():
        subjects = map(run.task.subject, examples)
        return attention_records(run, run.decoding, subjects, captions)[0]

    # Trained from scratch, the fields' middles are 3.5 pixels off: see its test by hand.
    even = (np.arange(8) + 0.5) / 8
    run.encoder.shift = -2.5
    record = first_record()
    assert record.centres == "measured"
    for centres in (record.row_centres, record.column_centres):
        np.testing.assert_allclose(centres, even + 1 / 64)
    run.encoder.shift = None
    record = first_record()
    assert record.centres == "computed"
    np.testing.assert_allclose(record.row_centres, even + 3.5 / 64)


def test_a_file_is_captioned_like_the_split(run, tmp_path):
    example = tiny.Scenes(1)[0]
    path = tmp_path / "scene.png"
    path.write_bytes(example.image)
    turned = tmp_path / "turned.png"  # upright after its EXIF rotation
    exif = Image.Exif()
    exif[0x0112] = 6
    picture = Image.open(io.BytesIO(example.image))
    picture.transpose(Image.Transpose.ROTATE_90).save(turned, exif=exif)
    broken = tmp_path / "broken.png"
    broken.write_bytes(example.image[:50])
    subjects = [Subject(p.name, p) for p in (path, broken, turned)]
    [found] = caption_files(run, subjects, run.decoding)
    assert found.subjects == [subjects[0], subjects[2]]
    assert [c.text for c in found.captions] == [example.captions[0]] * 2
    [wrong] = found.wrong
    assert wrong.startswith(f"{broken}: damaged")


def test_many_pictures_are_captioned_in_batches_of_one_size(run, monkeypatch):
    subjects = [Subject(f"{k}.png", tiny.Scenes(5)[k].image) for k in range(5)]
    subjects[1] = Subject("no picture", b"")
    sizes = []

    def caption_images(run, images, decoding, batch_size, per_token, begin):
        sizes.append((len(images), batch_size, begin.tolist()))
        return images

    monkeypatch.setattr(captioning, "caption_images", caption_images)
    batches = caption_files(run, subjects, dataclasses.replace(run.decoding, batch_size=2))
    first = next(batches)
    assert first.wrong == ["no picture: not an image of a known format; save it as JPEG or PNG"]
    assert sizes == [(1, 2, [0])]  # the others have not been read yet
    found = [first, *batches]
    # What is drawn for a picture follows from its place among all.
    assert sizes == [(1, 2, [0]), (2, 2, [2, 3]), (1, 2, [4])]
    names = [subject.name for batch in found for subject in batch.subjects]
    assert names == ["0.png", "2.png", "3.png", "4.png"]
    [whole] = caption_files(run, subjects, dataclasses.replace(run.decoding, batch_size=5))
    assert len(whole.subjects) == 4 and sizes[-1] == (4, None, [0, 2, 3, 4])


def test_a_damaged_run_or_none_at_all_is_reported(trained, tmp_path):
    workdir, _ = trained
    with pytest.raises(UserError, match=r"config.json: not there"):
        load_run(tmp_path)
    copy = tmp_path / "run"
    shutil.copytree(workdir, copy)
    with pytest.raises(UserError, match=r"no such key"):
        load_run(copy, ["--config.decode.beams=3"])
    for path in (copy / "best").rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[:10])
    with pytest.raises(UserError, match=r"best: none of its checkpoints can be read"):
        load_run(copy)
    shutil.rmtree(copy / "best")
    with pytest.raises(UserError, match=r"best: not there; train"):
        load_run(copy)
    (copy / "vocabulary.json").unlink()
    with pytest.raises(UserError, match=r"vocabulary.json"):
        load_run(copy)


def test_copies_are_only_for_training(tmp_path, monkeypatch):
    settings = tiny.settings(tmp_path, {"data.mirrored": True, "data.crops": 2})
    asked = []

    def load(name, split, **options):
        asked.append((options["mirrored"], options["crops"]))
        raise UserError("enough")

    monkeypatch.setattr(tasks, "load_images", load)
    for training in (False, True):
        with pytest.raises(UserError):
            tasks.task_of(settings.data).load("train", training=training)
    assert asked == [(False, 0), (True, 2)]
