"""From the raw files of each source of images to a trained model and its attention maps."""

import json
from pathlib import Path

import pytest
import sources
from ml_collections import ConfigDict

from show_attend_tell import config as configs
from show_attend_tell.cli.parser import main
from show_attend_tell.training import session as training

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
EPOCHS = 4.0
RAW = {
    "flickr8k": sources.flickr8k,
    "flickr30k": sources.flickr30k,
    "coco": sources.coco,
    "folder": sources.own,
}


def tiny_config(name: str, folder: Path) -> ConfigDict:
    """The experiment with an encoder and a decoder that train within seconds."""
    config = configs.from_file(str(EXPERIMENTS / f"{name}.py"))
    config.data.update({"dir": str(folder / "data"), "manual_dir": str(folder / "raw")})
    config.data.min_count = 1
    with config.unlocked():
        config.encoder = ConfigDict(
            {"name": "small", "image_size": 32, "features": 16, "trainable_from": "all"}
        )
    config.decoder.update({"projection": 0, "embedding": 16, "hidden": 16})
    config.attention.units = 16
    config.decode.update({"beam": 2, "max_length": 8, "batch_size": 2})
    config.optimizer.update({"warmup_steps": 0, "learning_rate": 0.01})
    config.train.update({"batch_size": 4, "buckets": 1, "epochs": EPOCHS, "log_every": 10})
    return config


@pytest.mark.parametrize("name", RAW)
def test_raw_files_become_attention_maps(name, tmp_path, capsys):
    RAW[name](tmp_path / "raw")
    run = tmp_path / "run"
    training.train(tiny_config(name, tmp_path), run)
    assert main(["attend", "--workdir", str(run), "--split", "test", "--num", "2"]) == 0
    maps = run / "attention" / "test"
    pictures = 1 if name == "folder" else 2
    assert len([*maps.glob("*.png")]) == len([*maps.glob("*.npz")]) == pictures
    statistics = json.loads((maps / "statistics.json").read_text())
    assert (statistics["objects"] is not None) == (name == "coco")
    if name == "coco":
        objects = statistics["objects"]  # each image has dogs, at both edges
        assert objects["matched"] >= 1 and 0.4 < objects["uniform_in_box"] < 0.6
