"""The training loop: resuming, skipping what is not finite, one program per shape."""

import json
import os
import signal

import jax
import numpy as np
import pytest
import tiny
from flax import nnx
from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict

from show_attend_tell import config as configs
from show_attend_tell import pretrained
from show_attend_tell.errors import UserError
from show_attend_tell.inference import captioning as evaluate
from show_attend_tell.objectives.rewards import idf_table
from show_attend_tell.runs.build import build_captioner, build_encoder, make_objective
from show_attend_tell.runs.checkpoint import Checkpoints
from show_attend_tell.runs.metrics_log import MetricWriter, read_metrics
from show_attend_tell.training import session as training
from show_attend_tell.training.optimizer import make_optimizer

TABLE = idf_table([[[4, 2]]])  # of no effect on a state's shape


def final_state(workdir, config):
    """The arrays and the record of a run's newest checkpoint."""
    encoder = build_encoder(config)
    words = len(json.loads((workdir / "vocabulary.json").read_text())["words"]) + 4
    model = build_captioner(config, encoder, words)
    settings = {k: v for k, v in config.optimizer.to_dict().items() if k != "average"}
    rate = config.encoder.get("learning_rate", 0.0)
    optimizer = make_optimizer(total_steps=1, encoder_learning_rate=rate, **settings)
    objective = make_objective(config, TABLE)
    like = training.initial_state(
        model, objective, optimizer, keep_start=config.train.init_share > 0
    )
    checkpoints = Checkpoints(workdir / "checkpoints", keep=2)
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


@pytest.mark.parametrize(
    ("kind", "action", "raised"),
    [
        ("soft", terminate, KeyboardInterrupt),
        ("hard", crash, RuntimeError),
        ("reward", crash, RuntimeError),
    ],
)
def test_a_cut_run_resumes_bit_for_bit(tmp_path, monkeypatch, trained, kind, action, raised):
    tiny.use_scenes(monkeypatch)
    config = tiny.config(tmp_path / "data", checkpoint_every=3)
    if kind == "hard":
        config.attention.kind = kind
        config.hard.update({"baseline": "learned", "credit": "to_go"})
    if kind == "reward":
        config.train.update({"init_from": str(trained[0]), "init_share": 0.25})
        config.reward.update({"samples": 2, "max_length": 8})
    training.train(config, tmp_path / "whole")

    with monkeypatch.context() as patch:
        during(patch, 4, action)  # of six steps, between checkpoints
        with pytest.raises(raised):
            training.train(config, tmp_path / "cut")
    progression = training.train(config, tmp_path / "cut")
    assert progression.finished

    step, whole, record = final_state(tmp_path / "whole", config)
    cut_step, cut, cut_record = final_state(tmp_path / "cut", config)
    assert step == cut_step == 6
    jax.tree.map(np.testing.assert_array_equal, whole, cut)
    for same in ("input_position", "best_score", "best_step", "stale"):
        assert record[same] == cut_record[same]

    def losses(workdir):
        metrics = read_metrics(workdir / "metrics.jsonl")
        return [(m["step"], m["loss"]) for m in metrics if m["kind"] == "train"]

    assert losses(tmp_path / "whole") == losses(tmp_path / "cut")
    assert [step for step, _ in losses(tmp_path / "cut")] == [1, 2, 3, 4, 5, 6]

    # What is told of the run is its first part's, and its later ones are added.
    path = tmp_path / "cut" / "run.json"
    run, text = json.loads(path.read_text()), path.read_text()
    assert run["finished"] and run["tokens"] == record["tokens"]
    first = 4 if raised is KeyboardInterrupt else 3
    assert [part["step"] for part in run["resumed"]] == [first]
    training.train(config, tmp_path / "cut")
    assert path.read_text() == text


def test_another_seed_is_another_run(tmp_path, monkeypatch):
    tiny.use_scenes(monkeypatch)
    config = tiny.config(tmp_path / "data", epochs=1)
    training.train(config, tmp_path / "a")
    config.seed = 1
    training.train(config, tmp_path / "b")
    a, b = (final_state(tmp_path / name, config)[1].params for name in "ab")
    differ = jax.tree.map(lambda x, y: bool((x != y).any()), a, b)
    assert differ["decoder"]["lstm_state"]["kernel"]


def test_a_workdir_of_another_config_is_refused_and_kept(trained):
    run, _ = trained
    config = configs.load(run / "config.json")
    config.decoder.hidden = 64
    with pytest.raises(UserError, match=r"another config \(decoder.hidden differ\)"):
        training.train(config, run)
    assert (run / "best").is_dir()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"metric": "METEOR"}, "metric is 'METEOR': choose one of BLEU-1"),
        ({"batch_size": 0}, "batch_size is 0: it must be at least 1"),
        ({"log_every": 0}, "log_every is 0"),
        ({"init_from": "nowhere"}, "init_from=nowhere: no best weights of a trained run there"),
        ({"init_share": 0.5}, "init_share is 0.5: .*only with config.train.init_from"),
        ({"init_weights": "first"}, "init_weights is 'first': choose 'best' or 'last'"),
    ],
)
def test_settings_out_of_range_are_told_before_any_work(tmp_path, settings, message):
    with pytest.raises(UserError, match=message):
        training.train(tiny.config(tmp_path / "data", **settings), tmp_path / "run")
    assert not list(tmp_path.iterdir())


def test_an_unknown_number_format_is_told_before_any_work(tmp_path):
    config = tiny.config(tmp_path / "data")
    config.decoder.dtype = "float8"
    with pytest.raises(UserError, match="dtype is 'float8': choose 'float32' or 'bfloat16'"):
        training.train(config, tmp_path / "run")
    assert not list(tmp_path.iterdir())


def test_a_run_may_end_within_an_epoch(tmp_path, monkeypatch):
    tiny.use_scenes(monkeypatch)
    progression = training.train(tiny.config(tmp_path / "data", epochs=1.5), tmp_path / "run")
    assert progression.finished
    metrics = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert [m["step"] for m in metrics if m["kind"] == "val"] == [2, 3]


def test_rewards_need_a_trained_run(tmp_path):
    config = tiny.config(tmp_path / "data")
    config.reward.samples = 2
    with pytest.raises(UserError, match="config.train.init_from"):
        training.train(config, tmp_path / "run")


def test_copies_of_an_image_are_not_counted_as_documents(tmp_path, monkeypatch, trained):
    class Asked(Exception):
        pass

    def ask(captions):
        raise Asked(f"{len(captions)} images")

    tiny.use_scenes(monkeypatch, copies=3)
    monkeypatch.setattr(training, "idf_table", ask)
    config = tiny.config(tmp_path / "data", init_from=str(trained[0]))
    config.reward.samples = 2
    with pytest.raises(Asked, match="^8 images"):
        training.train(config, tmp_path / "run")


def test_early_stopping_counts_validations_without_a_better_score(tmp_path, monkeypatch):
    tiny.use_scenes(monkeypatch)
    config = tiny.config(tmp_path / "data", epochs=9, patience=2)
    config.optimizer.learning_rate = 0.0  # so no validation is better than the first
    progression = training.train(config, tmp_path / "run")
    assert progression.finished and progression.stale == 2
    assert final_state(tmp_path / "run", config)[0] == 6


def test_what_is_evaluated_may_keep_a_share_of_the_start(tmp_path, monkeypatch, trained):
    tiny.use_scenes(monkeypatch)
    config = tiny.config(
        tmp_path / "data", init_from=str(trained[0]), init_weights="last", init_share=0.25, epochs=1
    )
    training.train(config, tmp_path / "run")
    start = evaluate.load_run(trained[0], weights="last", half=False).params
    _, state, _ = final_state(tmp_path / "run", config)
    jax.tree.map(np.testing.assert_array_equal, state.start, start)
    expected = jax.tree.map(lambda a, b: 0.25 * a + 0.75 * b, start, state.average)
    for weights in ("best", "last"):
        kept = evaluate.load_run(tmp_path / "run", weights=weights, half=False).params
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), kept, expected)
    assert any(
        np.abs(a - b).max() > 1e-3
        for a, b in zip(jax.tree.leaves(start), jax.tree.leaves(expected), strict=True)
    )


def test_many_steps_in_a_row_that_are_not_finite_stop_the_run(tmp_path, monkeypatch):
    tiny.use_scenes(monkeypatch)
    config = tiny.config(tmp_path / "data", max_skipped=2, epochs=2)
    config.encoder.trainable_from = ""

    def poisoned(config, examples, encoder, source, **_):
        shape = (len(examples), encoder.grid[0] * encoder.grid[1], encoder.features)
        return np.full(shape, np.nan, np.float16)

    monkeypatch.setattr(evaluate, "load_inputs", poisoned)
    with pytest.raises(UserError, match="2 steps in a row up to step 2 .*learning_rate"):
        training.train(config, tmp_path / "run")


def test_what_a_run_leaves(tmp_path, monkeypatch):
    tiny.use_scenes(monkeypatch)
    training.train(tiny.config(tmp_path / "data", epochs=1), tmp_path / "run")
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    assert run["seed"] == 0 and run["packages"]["jax"] == jax.__version__
    assert {"commit", "command", "config_digest"} <= run.keys()
    (val,) = [m for m in read_metrics(tmp_path / "run" / "metrics.jsonl") if m["kind"] == "val"]
    assert {"BLEU-4", "BLEU-4 (no BP)", "CIDEr", "ROUGE-L"} <= val.keys()


def test_a_run_can_start_from_another(tmp_path, monkeypatch, trained):
    tiny.use_scenes(monkeypatch)
    soft, _ = trained
    hard = tiny.config(tmp_path / "data", init_from=str(soft), epochs=1)
    hard.attention.kind, hard.hard.baseline = "hard", "learned"
    hard.optimizer.learning_rate = 0.0
    training.train(hard, tmp_path / "hard")
    before, after = (evaluate.load_run(run, half=False) for run in (soft, tmp_path / "hard"))
    jax.tree.map(np.testing.assert_array_equal, before.params["decoder"], after.params["decoder"])
    assert "baseline" in after.params and "baseline" not in before.params
    last = evaluate.load_run(soft, weights="last", half=False)
    step, state, _ = final_state(soft, configs.load(soft / "config.json"))
    jax.tree.map(np.testing.assert_array_equal, last.params, state.average)
    assert last.step == step >= before.step
    source = json.loads((tmp_path / "hard" / "run.json").read_text())["init_from"]
    assert (source["step"], source["seed"]) == (before.step, 0)
    hard.attention.temperature = 0.5
    with pytest.raises(UserError, match=r"run: it was trained with other attention.temperature"):
        training.train(hard, tmp_path / "other")
    hard.attention.temperature = 1.0
    hard.decoder.hidden = 32
    with pytest.raises(UserError, match=r"init_from=.*run: its weights decoder.* do not fit"):
        training.train(hard, tmp_path / "misfit")


def lite0(folder, **encoder):
    """A tiny experiment on EfficientNet-Lite0's annotation vectors."""
    config = tiny.config(folder, epochs=1, checkpoint_every=1)
    config.encoder = ConfigDict(
        {"name": "efficientnet_lite0", "image_size": 64, "endpoints": ("stage2",)}
        | {"trainable_from": "", "checkpointing": False, "learning_rate": 0.0}
        | {"grid_stride": 8, "weights": "", "weights_sha256": ""}
        | encoder
    )
    config.data.random_crop, config.data.random_flip = 1.0, "off"
    return config


@pytest.fixture(scope="module")
def on_frozen(tmp_path_factory):
    """The folder of a run on a frozen encoder's annotation vectors."""
    folder = tmp_path_factory.mktemp("frozen")
    with pytest.MonkeyPatch.context() as patch:
        tiny.use_scenes(patch)
        training.train(lite0(folder / "data"), folder / "run")
    return folder / "run"


def tuned(folder, start, **changes):
    encoder = dict(trainable_from="stage2", learning_rate=0.01, crop=0.8, flip="swap") | changes
    crop, flip = encoder.pop("crop"), encoder.pop("flip")
    config = lite0(folder, **encoder)
    config.train.init_from = str(start)
    config.data.random_crop, config.data.random_flip = crop, flip
    return config


@pytest.fixture(scope="module")
def fine_tuned(tmp_path_factory, on_frozen):
    """The folder of a run that went on from there with the encoder's later stages."""
    folder = tmp_path_factory.mktemp("tuned")
    with pytest.MonkeyPatch.context() as patch:
        tiny.use_scenes(patch)
        training.train(tuned(folder / "data", on_frozen), folder / "run")
    return folder / "run"


def encoder_weights(params):
    return flatten_dict(params["encoder"])


def test_fine_tuning_changes_the_later_stages_alone(fine_tuned):
    run = evaluate.load_run(fine_tuned, half=False)
    fresh = build_encoder(run.config)
    before = flatten_dict(nnx.to_pure_dict(nnx.state(fresh, nnx.Variable)))
    found = encoder_weights(run.params)
    assert found.keys() == before.keys()
    first = list(fresh.strides).index("stage2")
    for name, value in found.items():  # ("stages", number of the stage, ...)
        assert np.array_equal(value, before[name]) == (name[1] < first), name
    state = final_state(fine_tuned, run.config)[1]
    assert {name[1] for name in encoder_weights(state.params)} == {first}


def test_a_run_notes_which_weights_its_encoder_had(fine_tuned, on_frozen):
    for run in (on_frozen, fine_tuned):
        config = configs.load(run / "config.json")
        assert config.encoder.weights_sha256 == build_encoder(config).checksum
        config.encoder.weights_sha256 = "0" * 64
        with pytest.raises(UserError, match="have the SHA-256"):
            build_encoder(config)


def test_a_run_does_not_go_on_with_other_data(tmp_path, monkeypatch):
    scenes = tiny.use_scenes(monkeypatch)
    config = tiny.config(tmp_path / "data", epochs=2)
    with pytest.MonkeyPatch.context() as patch:
        during(patch, 1, terminate)
        with pytest.raises(KeyboardInterrupt):
            training.train(config, tmp_path / "run")
    scenes.fingerprint = scenes.fingerprint | {"seed": 1}
    with pytest.raises(UserError, match="its data set is another one than when the run began"):
        training.train(config, tmp_path / "run")


def test_a_fine_tuned_run_goes_on_bit_for_bit(tmp_path, monkeypatch, on_frozen, fine_tuned):
    config = tuned(tmp_path / "data", on_frozen)
    with pytest.MonkeyPatch.context() as patch:
        tiny.use_scenes(patch)
        during(patch, 1, terminate)
        with pytest.raises(KeyboardInterrupt):
            training.train(config, tmp_path / "run")
    tiny.use_scenes(monkeypatch)
    training.train(config, tmp_path / "run")
    whole, parts = (final_state(folder, config)[1] for folder in (fine_tuned, tmp_path / "run"))
    jax.tree.map(np.testing.assert_array_equal, whole, parts)


def test_a_fine_tuned_model_is_handed_on_without_its_frozen_weights(tmp_path, fine_tuned):
    run = evaluate.load_run(fine_tuned)
    size = pretrained.export(run, tmp_path / "out")
    whole = sum(leaf.size for leaf in jax.tree.leaves(run.params)) * 2
    assert size < whole
    again = evaluate.load_run(tmp_path / "out")
    jax.tree.map(np.testing.assert_array_equal, run.params, again.params)
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    one, other = (evaluate.caption_images(r, [image], r.decoding)[0] for r in (run, again))
    assert one.text == other.text


@pytest.mark.parametrize(
    "changes, message",
    [
        (
            {"trainable_from": ""},
            "random_crop and .random_flip .*set config.encoder.trainable_from",
        ),
        ({"trainable_from": "stage9"}, "trainable_from of efficientnet_lite0 must be"),
        ({"learning_rate": -1.0}, "encoder.learning_rate is -1.0"),
        ({"trainable_from": "", "crop": 1.0, "flip": "off"}, "are for a trained encoder"),
        ({"crop": 0.0}, "random_crop is 0.0"),
        ({"flip": "mirror"}, "random_flip is 'mirror'"),
        ({"grid_stride": 16}, "trained with other encoder.grid_stride"),
    ],
)
def test_fine_tuning_that_cannot_be(tmp_path, monkeypatch, on_frozen, changes, message):
    tiny.use_scenes(monkeypatch)
    with pytest.raises(UserError, match=message):
        training.train(tuned(tmp_path / "data", on_frozen, **changes), tmp_path / "run")


def test_a_frozen_run_does_not_go_on_from_a_fine_tuned_one(tmp_path, monkeypatch, fine_tuned):
    tiny.use_scenes(monkeypatch)
    config = lite0(tmp_path / "data")
    config.train.init_from = str(fine_tuned)
    with pytest.raises(UserError, match="trained with other encoder.trainable_from"):
        training.train(config, tmp_path / "frozen")
