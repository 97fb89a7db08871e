"""Attention on a folder of your own images, even as few as ten.

    ./launch.sh train --config folder --workdir runs/own \\
        --config.data.manual_dir=FOLDER_OF_THE_IMAGES_AND_metadata.csv

See `data/builders/folder.py` for the table. With thousands of images, use the settings of flickr8k.

Variants:
    soft  soft attention
    hard  hard attention as in the paper
"""

from ml_collections import ConfigDict

VARIANTS = {
    "soft": {},
    "hard": {"attention.kind": "hard", "decode.context": "argmax"},
}


def get_config(variant: str = "soft") -> ConfigDict:
    """What differs from the defaults; the variants are described above."""
    config = ConfigDict(
        {
            "data": {"name": "folder", "mirrored": True, "crops": 2},
            "attention": {"units": 256},
            "decoder": {"projection": 256, "embedding": 128, "hidden": 256},
            "loss": {"label_smoothing": 0.0},
            "optimizer": {"warmup_steps": 10, "average": 0.0},
            "train": {
                "epochs": 40.0,
                "batch_size": 8,
                "rows": 1,
                "buckets": 1,
                "log_every": 10,
                "checkpoint_every": 100,
                "metric": "ROUGE-L",
                "patience": 0,
            },
            "decode": {"batch_size": 10},
        }
    )
    for name, value in VARIANTS[variant].items():
        group, key = name.split(".")
        config.update({group: {key: value}})
    return config
