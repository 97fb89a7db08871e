"""Attention on COCO with the splits of Karpathy and Li, over frozen annotation vectors.

    ./launch.sh train --config coco:soft --workdir runs/coco-soft \\
        --config.data.manual_dir=FOLDER_OF_THE_FOUR_ZIPS

`--config.data.download=True` fetches what is missing (20 GB); see `data/builders/coco.py`. The
annotation vectors take 15 GB on disk, or 25 GB with VGG-19.

Variants:
    soft, hard              over EfficientNet-Lite0
    paper-soft, paper-hard  over VGG-19, with the settings that the paper states: weight 1 for
                            the doubly stochastic penalty, Adam at a constant rate, no smoothing,
                            stopping by BLEU-4
"""

from ml_collections import ConfigDict

PAPER = {
    "encoder.name": "vgg19",  # 14 x 14 places of 512 numbers
    "decoder.projection": 0,
    "decoder.embedding": 512,
    "decoder.hidden": 1024,
    "decoder.annotation_dropout": 0.0,
    "decoder.tied": False,
    "loss.doubly_stochastic": 1.0,
    "loss.label_smoothing": 0.0,
    "optimizer.learning_rate": 2e-4,
    "optimizer.schedule": "constant",
    "optimizer.warmup_steps": 0,
    "optimizer.average": 0.0,
    "train.metric": "BLEU-4",
    "decode.length_penalty": 0.0,
}
HARD = {"attention.kind": "hard", "decode.context": "argmax"}
VARIANTS = {
    "soft": {},
    "hard": HARD,
    "paper-soft": PAPER,
    "paper-hard": PAPER | HARD,
}


def get_config(variant: str = "soft") -> ConfigDict:
    """What differs from the defaults; the variants are described above."""
    config = ConfigDict(
        {
            "data": {
                "name": "coco",
                "restval": True,  # also for training, as in most papers
                "vocabulary_size": 10000,
            },
            "optimizer": {"warmup_steps": 500},
            "train": {"epochs": 10.0, "log_every": 100, "checkpoint_every": 1000},
        }
    )
    for name, value in VARIANTS[variant].items():
        group, key = name.split(".")
        config.update({group: {key: value}})
    return config
