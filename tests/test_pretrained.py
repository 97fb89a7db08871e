"""Exported models: load reads what export writes."""

import dataclasses
import json
import math
import re
import shutil
from functools import cache
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest
import safetensors.numpy
import tiny
from finished_runs import half_right, write_run
from flax import nnx

from show_attend_tell import pretrained, sharing
from show_attend_tell.cli.parser import main
from show_attend_tell.errors import UserError
from show_attend_tell.inference.attention_record import load_attention
from show_attend_tell.inference.run import load_run
from show_attend_tell.runs.encoding import structure

README = Path(__file__).parents[1] / "README.md"


packaged = cache(pretrained.load)


@pytest.fixture
def exported(trained, tmp_path):
    folder = tmp_path / "model"
    sharing.export(load_run(trained[0]), folder)
    return folder


def test_an_exported_model_is_the_run_in_half_precision(trained, exported):
    run, model = load_run(trained[0], half=False), pretrained.load(exported)
    assert sorted(path.name for path in exported.iterdir()) == [
        "centres.json",
        "config.json",
        "vocabulary.json",
        "weights.safetensors",
    ]
    assert model.step == run.step and model.vocabulary.words == run.vocabulary.words
    assert model.settings.data.dir == "" and model.settings.seed == run.settings.seed
    rounded = load_run(trained[0]).params  # the weights that evaluate and caption use
    assert jax.tree.all(jax.tree.map(np.array_equal, rounded, model.params))
    for name, value in jax.tree_util.tree_leaves_with_path(run.params):
        got = dict(jax.tree_util.tree_leaves_with_path(model.params))[name]
        assert got.dtype == np.float32
        np.testing.assert_array_equal(got, np.asarray(value, np.float16).astype(np.float32))


def test_where_the_encoder_looks_is_exported_and_published(trained, exported, tmp_path):
    run, model = load_run(trained[0]), pretrained.load(exported)
    assert run.encoder.shift is not None and model.encoder.shift == run.encoder.shift
    assert model.centres == run.centres
    assert tmp_path / "out" / "centres.json" in sharing.publish(trained[0], tmp_path / "out")
    assert json.loads((tmp_path / "out" / "centres.json").read_text()) == run.centres
    (exported / "centres.json").unlink()  # as of a model of 0.1
    older = pretrained.load(exported)
    assert older.encoder.shift is None
    # An export over another model takes nothing from it.
    other = tmp_path / "other"
    sharing.export(model, other)
    (other / "run.json").write_text('{"trained_on": ["coco", "flickr8k"]}')
    sharing.export(older, other)
    assert pretrained.load(other).encoder.shift is None and not (other / "run.json").exists()


def test_packaged_models_look_where_their_encoders_were_measured_to():
    # By encoder (Lite2, Lite1, Lite0): shifts and channels of stage6 and stage7.
    measured = np.array([[-7.02, -7.82], [-14.06, -14.70], [-13.90, -14.54]])
    channels = np.array([[208, 352], [192, 320], [192, 320]])
    means = np.average(measured, axis=1, weights=channels).round(2)
    local = np.average(means, weights=channels.sum(axis=1))
    head = (-7.50 - 14.70 - 14.54) / 3
    shifts = dict.fromkeys(("flickr8k-bilingual", "flickr8k-hard", "flickr8k-soft"), local)
    for name in pretrained.names():
        model = packaged(name)
        assert model.centres is None  # known from the encoders' weights
        assert model.encoder.shift == pytest.approx(shifts.get(name, head))


# Of 125 layers of six networks, and what joins them; of 64 layers of three networks.
@pytest.mark.parametrize(
    ("name", "pieces"),
    [pytest.param("flickr8k-soft", 54, marks=pytest.mark.slow), ("flickr8k-soft-0.1", 28)],
)
def test_equal_layers_of_an_encoder_share_a_program(name, pieces):
    assert _distinct_pieces(packaged(name).encoder) == pieces


def _distinct_pieces(encoder) -> int:
    """How many programs an encoder takes: equal layers share one."""
    seen = set()

    def apply(module, arrays):
        graph, weights = nnx.split(module)
        seen.add((structure(graph), str(jax.tree.map(jnp.shape, (weights, arrays)))))
        return module(arrays)

    image = jax.ShapeDtypeStruct((1, encoder.image_size, encoder.image_size, 3), jnp.uint8)
    jax.eval_shape(lambda images: encoder.in_pieces(images, apply), image)
    return len(seen)


def test_it_captions_like_the_run(trained, exported, tmp_path, monkeypatch, capsys):
    folder, scenes = trained
    (tmp_path / "scene.png").write_bytes(scenes[0].image)
    monkeypatch.setattr(pretrained, "PACKAGED", exported.parent)
    monkeypatch.chdir(tmp_path)
    for where in (["--workdir", str(folder)], ["--pretrained", "model"]):
        assert main(["caption", *where, "scene.png"]) == 0
    by_run, _, by_model, picture = capsys.readouterr().out.splitlines()
    assert by_run == by_model and scenes[0].captions[0].split()[0] in by_run
    assert picture.strip() == "runs/pretrained/model/captions/scene.png.png"
    record = load_attention(tmp_path / "runs/pretrained/model/captions/scene.png.npz")
    np.testing.assert_allclose(record.alpha.sum(axis=1), 1, atol=1e-4)


def test_a_packaged_model_scores_like_its_run(trained, exported, tmp_path, monkeypatch):
    monkeypatch.setattr(pretrained, "PACKAGED", exported.parent)
    monkeypatch.chdir(tmp_path)
    tiny.use_scenes(monkeypatch)
    data = f"--config.data.dir={tmp_path / 'data'}"
    records = []
    for which, folder in (("--workdir", trained[0]), ("--pretrained", "model")):
        written = trained[0] if which == "--workdir" else tmp_path / "runs/pretrained/model"
        for other in written.glob("val-*.scores.json"):  # from an earlier test
            other.unlink()
        assert main(["evaluate", which, str(folder), "--split", "val", data]) == 0
        [path] = written.glob("val-*.scores.json")
        records.append(json.loads(path.read_text()))
    for name in ("scores", "likelihood", "grounding", "faithfulness"):
        assert records[0][name] == records[1][name], name
    assert records[0]["scores"]["BLEU-4"] > 0


def test_pictures_may_be_files_and_arrays(trained, exported, tmp_path):
    model, scene = pretrained.load(exported), trained[1][0]
    (tmp_path / "scene.png").write_bytes(scene.image)
    array = np.asarray(PIL.Image.open(tmp_path / "scene.png").convert("RGB"))
    pictures = [str(tmp_path / "scene.png"), tmp_path / "scene.png", scene.image, array]
    records = pretrained.caption(model, pictures)
    assert [record.image_id for record in records] == ["scene.png"] * 2 + ["picture 2", "picture 3"]
    for record in records:
        assert record.text == records[0].text and record.original_size == array.shape[:2]
        assert record.alpha.shape == (len(record.tokens), math.prod(record.grid))
    assert scene.captions[0].split()[0] in records[0].text
    drawn = [pretrained.draw(records[0], picture) for picture in pictures]
    assert all(np.array_equal(picture, drawn[0]) for picture in drawn)
    greedy = dataclasses.replace(model.decoding, beam=1)
    assert pretrained.caption(model, [array], greedy)[0].log_prob <= records[0].log_prob + 1e-5
    assert pretrained.caption(model, []) == []
    with pytest.raises(UserError, match="one picture was given; give a list of pictures"):
        pretrained.caption(model, array)
    with pytest.raises(UserError, match="nowhere.png: no such file"):
        pretrained.caption(model, ["nowhere.png"])


def test_the_readmes_python_runs(trained, exported, tmp_path, monkeypatch, capsys):
    (tmp_path / "models").mkdir()
    (tmp_path / "photo.jpg").write_bytes(trained[1][0].image)
    exported.rename(tmp_path / "models" / "flickr8k-soft")
    monkeypatch.setattr(pretrained, "PACKAGED", tmp_path / "models")
    monkeypatch.chdir(tmp_path)
    [code] = re.findall("```python\n(.*?)```", README.read_text(), re.DOTALL)
    exec(code, {})
    assert trained[1][0].captions[0].split()[0] in capsys.readouterr().out
    assert PIL.Image.open(tmp_path / "attention.png").format == "PNG"


def test_export_is_a_verb(trained, tmp_path, capsys):
    out = tmp_path / "handed-on"
    assert (
        main(["export", "--workdir", str(trained[0]), "--weights", "last", "--out", str(out)]) == 0
    )
    assert "MB" in capsys.readouterr().out
    assert pretrained.load(out).step == load_run(trained[0], weights="last").step


def test_an_exported_model_does_not_ask_training_pictures(trained, tmp_path):
    run = load_run(trained[0], ["--config.decode.consensus=True", "--config.decode.neighbours=9"])
    sharing.export(run, tmp_path / "model")
    decoding = pretrained.load(tmp_path / "model").decoding
    assert decoding == dataclasses.replace(run.decoding, neighbours=0)


def test_what_is_not_a_model_is_reported(trained, exported, tmp_path):
    with pytest.raises(UserError, match="nothing: neither a folder, nor a model of the package"):
        pretrained.load("nothing")
    run = load_run(trained[0])
    with pytest.raises(UserError, match="the folder of a run; export to another"):
        sharing.export(run, trained[0])
    weights = exported / "weights.safetensors"
    arrays = safetensors.numpy.load_file(weights)
    name = sorted(arrays)[0]
    for wrong in ({k: v for k, v in arrays.items() if k != name}, arrays | {"more": arrays[name]}):
        safetensors.numpy.save_file(wrong, weights)
        with pytest.raises(UserError, match="its weights do not fit the config"):
            pretrained.load(exported)
    header = b'{"w":{"dtype":"F8_E4M3","shape":[1],"data_offsets":[0,1]}}'  # NumPy has no such
    for content in (b"no weights", len(header).to_bytes(8, "little") + header + b"0"):
        weights.write_bytes(content)
        with pytest.raises(UserError, match="weights.safetensors: not readable weights"):
            pretrained.load(exported)


def test_a_weight_beyond_half_precision_is_rejected(trained, exported):
    run = load_run(trained[0])
    run.params["decoder"]["init_h"]["bias"] = np.full(48, 1e6, np.float32)
    kept = {path: path.read_bytes() for path in exported.iterdir()}
    with pytest.raises(UserError, match="decoder.init_h.bias has weights beyond half precision"):
        sharing.export(run, exported)
    assert {path: path.read_bytes() for path in exported.iterdir()} == kept


def test_packaged_models_are_complete():
    """Every model of the package loads, is small and has a card."""
    first = ("flickr8k-bilingual", "flickr8k-hard", "flickr8k-hard-0.1")
    names = (*first, "flickr8k-soft", "flickr8k-soft-0.1")
    assert pretrained.names() == names
    for name in names:
        folder = pretrained.PACKAGED / name
        assert (folder / "weights.safetensors").stat().st_size < 20e6
        assert "flickr" in (folder / "README.md").read_text().lower()
        assert json.loads((folder / "config.json").read_text())["data"]["manual_dir"] == ""
        assert packaged(name).step > 0


@pytest.mark.parametrize("content", [b"{", b"\xff", b"[" * 100_000])
def test_a_damaged_record_is_not_published(tmp_path, content):
    run = write_run(tmp_path / "run", half_right())
    (run / "run.json").write_bytes(content)
    with pytest.raises(UserError, match="run.json: damaged"):
        sharing.publish(run, tmp_path / "records")


def test_names_of_own_files_are_not_published(tmp_path):
    run, records = write_run(tmp_path / "run", half_right(), split="test"), tmp_path / "records"
    for name in ("files", "files.de", "mine", "test.de"):
        shutil.copytree(run / "attention" / "test", run / "attention" / name)
    # An earlier version published them.
    shutil.copytree(run / "attention" / "files", records / "attention" / "files")
    sharing.publish(run, records)
    names = [path.parent.name for path in sorted(records.glob("attention/*/statistics.json"))]
    assert names == ["test", "test.de"]
