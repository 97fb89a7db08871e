"""Whole training runs: resuming, starting from another run, fine-tuning, the files of a run."""

import json
import os
import signal
from types import MappingProxyType

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import nnx
from flax.traverse_util import flatten_dict

from show_attend_tell import config, sharing
from show_attend_tell.data.images import read_image
from show_attend_tell.errors import UserError
from show_attend_tell.inference.captioning import caption_images, caption_inputs
from show_attend_tell.inference.decoding import make_decode
from show_attend_tell.inference.run import load_run
from show_attend_tell.objectives.rewards import idf_table
from show_attend_tell.runs.build import build_captioner, build_encoder, make_objective
from show_attend_tell.runs.folder import RunFolder
from show_attend_tell.runs.inputs import load_inputs
from show_attend_tell.runs.metrics_log import MetricWriter, read_metrics
from show_attend_tell.training import plan, run_data
from show_attend_tell.training.optimizer import make_optimizer
from show_attend_tell.training.phrase_maps import Supervision
from show_attend_tell.training.session import train
from show_attend_tell.training.step import initial_state


def final_state(workdir):
    """Step, arrays and record of a run's newest checkpoint."""
    folder, settings = RunFolder(workdir), RunFolder(workdir).settings()
    words = len(json.loads((workdir / "vocabulary.json").read_text())["words"]) + 4
    model = build_captioner(settings, build_encoder(settings), words)
    rate = settings.encoder.learning_rate
    optimizer = make_optimizer(settings.optimizer, total_steps=1, encoder_learning_rate=rate)
    objective = make_objective(settings, idf_table([[[4, 2]]]))
    like = initial_state(model, objective, optimizer, keep_start=settings.train.init_share > 0)
    checkpoints = folder.checkpoints()
    found = checkpoints.restore(like)
    checkpoints.close()
    return found


def during(monkeypatch, step, action):
    """Runs `action` when the metrics of a training step are written."""
    write = MetricWriter.write

    def writing(self, at, scalars, *, kind):
        write(self, at, scalars, kind=kind)
        if (kind, at) == ("train", step):
            action()

    monkeypatch.setattr(MetricWriter, "write", writing)


def crash():
    raise RuntimeError("pulled the plug")


def terminate():
    os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.slow  # a fine-tuned run, see below, and one of version 0.1 resume every day
@pytest.mark.parametrize(
    ("kind", "action"),
    [("soft", terminate), ("hard", crash), ("taught", crash), ("reward", crash)],
)
def test_a_cut_run_resumes_bit_for_bit(tmp_path, monkeypatch, trained, kind, action):
    raised = KeyboardInterrupt if action is terminate else RuntimeError
    tiny.use_scenes(monkeypatch)
    changes = {
        "soft": {},
        "hard": {
            "attention.kind": "hard",
            "attention.supervision": 0.5,
            "hard.baseline": "learned",
            "hard.credit": "to_go",
        },
        "taught": {"loss.teachers": (str(trained[0]),)},
        "reward": {
            "attention.kind": "hard",
            "train.init_from": str(trained[0]),
            "train.init_share": 0.25,
            "reward.samples": 2,
            "reward.max_length": 8,
        },
    }
    settings = tiny.settings(tmp_path / "data", changes[kind] | {"train.checkpoint_every": 3})
    train(settings, tmp_path / "whole")

    with monkeypatch.context() as patch:
        during(patch, 4, action)  # of six steps, between checkpoints
        with pytest.raises(raised):
            train(settings, tmp_path / "cut")
    assert train(settings, tmp_path / "cut").finished

    step, whole, record = final_state(tmp_path / "whole")
    cut_step, cut, cut_record = final_state(tmp_path / "cut")
    assert step == cut_step == 6
    jax.tree.map(np.testing.assert_array_equal, whole, cut)
    for same in ("input_position", "best_score", "best_step", "stale"):
        assert record[same] == cut_record[same]

    def losses(workdir):
        metrics = read_metrics(workdir / "metrics.jsonl")
        return [(m["step"], m["loss"]) for m in metrics if m["kind"] == "train"]

    assert losses(tmp_path / "whole") == losses(tmp_path / "cut")
    assert [step for step, _ in losses(tmp_path / "cut")] == [1, 2, 3, 4, 5, 6]
    first, *_ = read_metrics(tmp_path / "cut" / "metrics.jsonl")
    assert ("supervision" in first) == (kind == "hard")

    # The record describes the run's first part and lists each later one.
    path = tmp_path / "cut" / "run.json"
    run, text = json.loads(path.read_text()), path.read_text()
    assert run["finished"] and run["tokens"] == record["tokens"]
    first = 4 if raised is KeyboardInterrupt else 3
    assert [part["step"] for part in run["resumed"]] == [first]
    train(settings, tmp_path / "cut")
    assert path.read_text() == text


@pytest.fixture(scope="module")
def short(tmp_path_factory):
    """The folder of a run of one and a half epochs, and its progression."""
    folder = tmp_path_factory.mktemp("short")
    with pytest.MonkeyPatch.context() as patch:
        tiny.use_scenes(patch)
        settings = tiny.settings(folder / "data", {"train.epochs": 1.5})
        return folder / "run", train(settings, folder / "run")


def test_another_seed_is_another_run(tmp_path, monkeypatch, short):
    tiny.use_scenes(monkeypatch)
    changes = {"train.epochs": 1.5, "seed": 1}
    train(tiny.settings(tmp_path / "data", changes), tmp_path / "run")
    a, b = (final_state(run)[1].params for run in (short[0], tmp_path / "run"))
    differ = jax.tree.map(lambda x, y: bool((x != y).any()), a, b)
    assert differ["decoder"]["lstm_state"]["kernel"]


def test_a_workdir_of_another_config_is_rejected_and_kept(trained):
    run, _ = trained
    settings = config.replaced(RunFolder(run).settings(), {"decoder.hidden": 64})
    with pytest.raises(UserError, match=r"another config \(differing in decoder.hidden\)"):
        train(settings, run)
    assert (run / "best").is_dir()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train.metric": "SPICE"}, "metric is 'SPICE': choose one of BLEU-1"),
        ({"train.init_from": "nowhere"}, "nowhere: this folder has no best weights of a trained"),
        ({"train.init_share": 0.5}, "init_share is 0.5: .*without config.train.init_from"),
        ({"reward.samples": 2}, "name a trained run in config.train.init_from"),
        ({"data.download": True}, "config.data.download fetches files of coco"),
    ],
)
def test_what_cannot_be_trained_is_rejected_before_any_work(tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        train(tiny.settings(tmp_path / "data", changes), tmp_path / "run")
    assert not list(tmp_path.iterdir())


def test_a_run_may_end_within_an_epoch(short):
    run, progression = short
    assert progression.finished
    metrics = read_metrics(run / "metrics.jsonl")
    assert [m["step"] for m in metrics if m["kind"] == "val"] == [2, 3]


def test_copies_of_an_image_are_not_counted_as_documents(tmp_path, monkeypatch, trained):
    class Asked(Exception):
        pass

    def ask(captions):
        raise Asked(f"{len(captions)} images")

    tiny.use_scenes(monkeypatch, copies=3)
    monkeypatch.setattr(plan, "idf_table", ask)
    changes = {"train.init_from": str(trained[0]), "reward.samples": 2}
    with pytest.raises(Asked, match="^8 images"):
        train(tiny.settings(tmp_path / "data", changes), tmp_path / "run")


def test_early_stopping_counts_validations_without_a_better_score(tmp_path, monkeypatch):
    tiny.use_scenes(monkeypatch)
    # With a learning rate of 0 no validation is better than the first.
    changes = {"train.epochs": 9.0, "train.patience": 2, "optimizer.learning_rate": 0.0}
    progression = train(tiny.settings(tmp_path / "data", changes), tmp_path / "run")
    assert progression.finished and progression.stale == 2
    assert final_state(tmp_path / "run")[0] == 6


def test_evaluated_weights_may_include_a_share_of_the_initial_ones(tmp_path, monkeypatch, trained):
    tiny.use_scenes(monkeypatch)
    changes = {
        "train.init_from": str(trained[0]),
        "train.init_weights": "last",
        "train.init_share": 0.25,
        "train.epochs": 1.0,
    }
    train(tiny.settings(tmp_path / "data", changes), tmp_path / "run")
    start = load_run(trained[0], weights="last", half=False).params
    _, state, _ = final_state(tmp_path / "run")
    jax.tree.map(np.testing.assert_array_equal, state.start, start)
    expected = jax.tree.map(lambda a, b: 0.25 * a + 0.75 * b, start, state.average)
    for weights in ("best", "last"):
        kept = load_run(tmp_path / "run", weights=weights, half=False).params
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), kept, expected)
    assert any(
        np.abs(a - b).max() > 1e-3
        for a, b in zip(jax.tree.leaves(start), jax.tree.leaves(expected), strict=True)
    )


def test_many_consecutive_steps_that_are_not_finite_stop_the_run(tmp_path, monkeypatch):
    tiny.use_scenes(monkeypatch)
    changes = {"train.max_skipped": 2, "train.epochs": 2.0, "encoder.trainable_from": ""}

    def poisoned(settings, task, examples, encoder, source, **_):
        shape = (len(examples), encoder.grid[0] * encoder.grid[1], encoder.features)
        return np.full(shape, np.nan, np.float16)

    monkeypatch.setattr(run_data, "load_inputs", poisoned)
    with pytest.raises(UserError, match="2 consecutive steps up to step 2 .*learning_rate"):
        train(tiny.settings(tmp_path / "data", changes), tmp_path / "run")


def test_a_run_can_start_from_another(tmp_path, monkeypatch, trained):
    tiny.use_scenes(monkeypatch)
    soft, _ = trained
    changes = {
        "train.init_from": str(soft),
        "train.epochs": 1.0,
        "attention.kind": "hard",
        "hard.baseline": "learned",
        "optimizer.learning_rate": 0.0,
    }
    hard = tiny.settings(tmp_path / "data", changes)
    train(hard, tmp_path / "hard")
    before, after = (load_run(run, half=False) for run in (soft, tmp_path / "hard"))
    jax.tree.map(np.testing.assert_array_equal, before.params["decoder"], after.params["decoder"])
    assert "baseline" in after.params and "baseline" not in before.params
    last = load_run(soft, weights="last", half=False)
    step, state, _ = final_state(soft)
    jax.tree.map(np.testing.assert_array_equal, last.params, state.average)
    assert last.step == step >= before.step
    source = json.loads((tmp_path / "hard" / "run.json").read_text())["init_from"]
    assert (source["step"], source["seed"]) == (before.step, 0)
    other = {"attention.temperature": 0.5, "decoder.layer_norm": True}
    names = ", ".join(other)
    with pytest.raises(UserError, match=f"run: it was trained with other values of {names};"):
        train(config.replaced(hard, other), tmp_path / "other")
    with pytest.raises(UserError, match=r"init_from=.*run: its weights decoder.* do not fit"):
        train(config.replaced(hard, {"decoder.hidden": 32}), tmp_path / "misfit")
    # That attempt leaves nothing that the next one would have to keep.
    other = {"decoder.initial_state": "zero", "decoder.dropout_bits": 32}
    with pytest.raises(UserError, match=r"no use for its weights decoder\.init_.*; choose a run"):
        train(config.replaced(hard, other), tmp_path / "misfit")
    assert config.load_run(tmp_path / "misfit" / "config.json").decoder.dropout_bits == 32


LITE0 = {
    "encoder.name": "efficientnet_lite0",
    "encoder.image_size": 64,
    "encoder.endpoints": ("stage1", "stage2"),
    "encoder.pooled": ("stage1",),
    "decoder.scene": ("stage1",),
    "encoder.grid_stride": 8,
    "encoder.trainable_from": "",
    "encoder.features": 64,
    "train.epochs": 1.0,
    "train.checkpoint_every": 1,
}
TUNED = {
    "encoder.trainable_from": "stage2",
    "encoder.learning_rate": 0.01,
    "data.random_crop": 0.8,
    "data.random_flip": "swap",
}


@pytest.fixture(scope="module")
def on_frozen(tmp_path_factory):
    """The folder of a run on a frozen encoder's annotation vectors, with supervised attention.

    Beside it lie the points that its places were taken to look at.
    """
    folder = tmp_path_factory.mktemp("frozen")
    maps = Supervision.maps

    def noting(supervision, places):
        np.save(folder / "places.npy", [places.rows, places.columns])
        return maps(supervision, places)

    with pytest.MonkeyPatch.context() as patch:
        tiny.use_scenes(patch)
        patch.setattr(Supervision, "maps", noting)
        changes = LITE0 | {"attention.supervision": 0.5}
        train(tiny.settings(folder / "data", changes), folder / "run")
    return folder / "run"


def tuned(folder, start, changes=MappingProxyType({})):
    return tiny.settings(folder, LITE0 | TUNED | {"train.init_from": str(start)} | changes)


@pytest.fixture(scope="module")
def fine_tuned(tmp_path_factory, on_frozen):
    """The folder of a run that starts there and trains the encoder's later stages."""
    folder = tmp_path_factory.mktemp("tuned")
    with pytest.MonkeyPatch.context() as patch:
        tiny.use_scenes(patch)
        train(tuned(folder / "data", on_frozen), folder / "run")
    return folder / "run"


def encoder_weights(params):
    return flatten_dict(params["encoder"])


def test_fine_tuning_changes_only_the_later_stages(fine_tuned):
    run = load_run(fine_tuned, half=False)
    fresh = build_encoder(run.settings)
    before = flatten_dict(nnx.to_pure_dict(nnx.state(fresh, nnx.Variable)))
    found = encoder_weights(run.params)
    assert found.keys() == before.keys()
    first = list(fresh.strides).index("stage2")
    for name, value in found.items():  # ("stages", number of the stage, ...)
        assert np.array_equal(value, before[name]) == (name[1] < first), name
    state = final_state(fine_tuned)[1]
    assert {name[1] for name in encoder_weights(state.params)} == {first}


def test_a_run_records_its_encoders_weights(fine_tuned, on_frozen):
    for run in (on_frozen, fine_tuned):
        settings = RunFolder(run).settings()
        assert settings.encoder.weights_sha256 == build_encoder(settings).checksum
        with pytest.raises(UserError, match="have the SHA-256"):
            build_encoder(config.replaced(settings, {"encoder.weights_sha256": "0" * 64}))


def test_a_run_measures_where_its_encoder_looks(on_frozen, fine_tuned, trained):
    for run, offset in ((on_frozen, 0.0), (fine_tuned, 0.0), (trained[0], 0.4)):
        measured = RunFolder(run).centres()
        assert measured["images"] == 8 and measured["correlation"] > 0.5
        assert measured["offset"] == pytest.approx(offset, abs=0.2)
        encoder = load_run(run).encoder
        assert encoder.shift == measured["shift"]
        middle = (np.mean(encoder.centres) - 0.5) * encoder.image_size
        assert middle == pytest.approx(measured["offset"] * 8, abs=0.02)  # 8 pixels a cell


def test_a_frozen_run_keeps_pooled_endpoints_once(on_frozen):
    run = load_run(on_frozen)
    rows = load_inputs(run.settings, run.task, tiny.Scenes(8), run.encoder)
    assert rows.shape == (8, 64 * 24 + 16)
    vectors = run.model.annotations(jnp.asarray(rows[:])).vectors
    assert vectors.shape == (8, 64, run.encoder.features)
    assert not np.asarray(vectors[..., :16].std(axis=1)).any()
    (one,) = caption_images(run, [read_image(tiny.Scenes(1)[0].image, 64)], run.decoding)
    decode = make_decode(run.model, run.decoding)
    (other,) = caption_inputs(decode, run.params, rows[:1], run.vocabulary, 1)
    assert one.tokens == other.tokens
    np.testing.assert_allclose(one.alpha, other.alpha, atol=1e-3)


def test_supervision_takes_the_points_that_were_measured(on_frozen):
    encoder = load_run(on_frozen).encoder
    assert np.abs(np.array(encoder.centres) - encoder.fields).max() > 0.02
    places = np.load(on_frozen.parent / "places.npy")
    np.testing.assert_allclose(places, [encoder.centres] * 2, rtol=1e-6)


def test_supervision_needs_boxes_before_any_work(tmp_path, monkeypatch):
    tiny.use_scenes(monkeypatch)
    monkeypatch.setattr(tiny.Scenes, "descriptions", lambda scenes: [()] * len(scenes))
    settings = tiny.settings(tmp_path / "data", {"attention.supervision": 0.5})
    with pytest.raises(UserError, match="no phrase of scenes train has boxes"):
        train(settings, tmp_path / "run")
    assert not (tmp_path / "data").exists()


def test_a_run_does_not_resume_on_other_data(tmp_path, monkeypatch):
    scenes = tiny.use_scenes(monkeypatch, copies=2)
    settings = tiny.settings(tmp_path / "data", {"train.epochs": 1.0})
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        during(patch, 1, terminate)
        train(settings, tmp_path / "run")
    found, places = scenes.fingerprint, {"data.manual_dir": "else", "data.download": True}
    moved = config.replaced(settings, places)  # a download that only a new run may not have
    scenes.fingerprint = found | {"seed": 1}
    with pytest.raises(UserError, match="the data set has changed since the run began"):
        train(moved, tmp_path / "run")
    scenes.fingerprint = found
    assert train(moved, tmp_path / "run").finished  # the same data in another place
    folder = RunFolder(tmp_path / "run")
    assert folder.settings().data == moved.data
    # A step's metrics are written in the next one, of four here: it stopped within the epoch.
    assert [part["step"] for part in folder.record()["resumed"]] == [2]


def test_a_fine_tuned_run_resumes_bit_for_bit(tmp_path, monkeypatch, on_frozen, fine_tuned):
    settings = tuned(tmp_path / "data", on_frozen)
    tiny.use_scenes(monkeypatch)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        during(patch, 1, terminate)
        train(settings, tmp_path / "run")
    train(settings, tmp_path / "run")
    whole, parts = (final_state(folder)[1] for folder in (fine_tuned, tmp_path / "run"))
    jax.tree.map(np.testing.assert_array_equal, whole, parts)


def test_a_fine_tuned_model_is_exported_without_its_frozen_weights(tmp_path, fine_tuned):
    run = load_run(fine_tuned)
    size = sharing.export(run, tmp_path / "out")
    assert size < sum(leaf.size for leaf in jax.tree.leaves(run.params)) * 2
    again = load_run(tmp_path / "out")
    jax.tree.map(np.testing.assert_array_equal, run.params, again.params)
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    one, other = (caption_images(r, [image], r.decoding)[0] for r in (run, again))
    assert one.text == other.text


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"encoder.trainable_from": "stage9"}, "trainable_from of efficientnet_lite0 must be"),
        ({"encoder.grid_stride": 16}, "other values of encoder.grid_stride"),
    ],
)
def test_impossible_fine_tuning_is_rejected(tmp_path, monkeypatch, on_frozen, changes, message):
    tiny.use_scenes(monkeypatch)
    with pytest.raises(UserError, match=message):
        train(tuned(tmp_path / "data", on_frozen, changes), tmp_path / "run")


def test_a_frozen_run_cannot_start_from_a_fine_tuned_one(tmp_path, monkeypatch, fine_tuned):
    tiny.use_scenes(monkeypatch)
    settings = tiny.settings(tmp_path / "data", LITE0 | {"train.init_from": str(fine_tuned)})
    with pytest.raises(UserError, match="other values of encoder.trainable_from"):
        train(settings, tmp_path / "frozen")
