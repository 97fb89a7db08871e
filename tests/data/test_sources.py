"""From the raw files of each source of images to a trained model and its attention maps."""

import json
from pathlib import Path

import pytest
import sources

from show_attend_tell import config
from show_attend_tell.cli.parser import main
from show_attend_tell.settings import Settings
from show_attend_tell.training.session import train

RAW = {
    "flickr8k": sources.flickr8k,
    "flickr30k": sources.flickr30k,
    "coco": sources.coco,
    "folder": sources.own,
}


SLOW = pytest.mark.slow
SMALL = {
    "data.min_count": 1,
    "encoder.name": "small",
    "encoder.image_size": 32,
    "encoder.features": 16,
    "encoder.trainable_from": "all",
    "encoder.endpoints": (),
    "encoder.grid_stride": 0,
    "decoder.projection": 0,
    "decoder.embedding": 16,
    "decoder.hidden": 16,
    "attention.units": 16,
    "decode.beam": 2,
    "decode.max_length": 8,
    "decode.batch_size": 2,
    "optimizer.warmup_steps": 0,
    "optimizer.learning_rate": 0.01,
    "train.batch_size": 4,
    "train.buckets": 1,
    "train.epochs": 4.0,
    "train.log_every": 10,
}


def tiny_settings(name: str, folder: Path) -> Settings:
    """The experiment with an encoder and a decoder that train in seconds."""
    places = {"data.dir": str(folder / "data"), "data.manual_dir": str(folder / "raw")}
    return config.replaced(config.load_experiment(name), SMALL | places)


# The builders of the first two share everything but a file's format, which their tests cover; a
# notebook trains on a folder.
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name == "coco" else SLOW) for name in RAW]
)
def test_raw_files_become_attention_maps(name, tmp_path, capsys):
    RAW[name](tmp_path / "raw")
    run = tmp_path / "run"
    train(tiny_settings(name, tmp_path), run)
    assert main(["attend", "--workdir", str(run), "--split", "test", "--num", "2"]) == 0
    maps = run / "attention" / "test"
    pictures = 1 if name == "folder" else 2
    assert len([*maps.glob("*.png")]) == len([*maps.glob("*.npz")]) == pictures
    statistics = json.loads((maps / "statistics.json").read_text())
    assert (statistics["objects"] is not None) == (name == "coco")
    if name == "coco":
        objects = statistics["objects"]  # each image has dogs, at both edges
        assert objects["matched"] >= 1 and 0.4 < objects["uniform_in_box"] < 0.6
