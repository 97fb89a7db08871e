"""Attention on the generated data set "shapes", encoder and decoder from scratch.

    ./launch.sh quickstart
    ./launch.sh train --config shapes:soft --workdir runs/shapes-soft

Variants:
    soft            soft attention
    hard            hard attention as in the paper
    hard-released   hard attention as the paper's released code computes it
    hard-best       our hard attention, from scratch
    hard-from-soft  the same, starting from the weights of a soft run
"""

from ml_collections import ConfigDict

HARD_BEST = {
    "attention.kind": "hard",
    "hard.credit": "to_go",
    "hard.baseline": "learned",
    "decode.context": "argmax",
}
VARIANTS = {
    "soft": {},
    "hard": {"attention.kind": "hard", "decode.context": "argmax"},
    "hard-released": {
        "attention.kind": "hard",
        "hard.coin": "batch",
        "hard.reinforce": 0.1,
        "hard.entropy": 0.002,
        "hard.credit": "mean",
        "hard.released": True,
    },
    "hard-best": HARD_BEST | {"hard.soft_steps": 900},
    "hard-from-soft": HARD_BEST
    | {
        "train.init_from": "runs/shapes-soft",
        "train.epochs": 3.0,
        "optimizer.learning_rate": 1e-3,
    },
}


def get_config(variant: str = "soft") -> ConfigDict:
    """What differs from the defaults; the variants are described above."""
    config = ConfigDict(
        {
            "data": {"name": "shapes"},
            "encoder": {"name": "small", "image_size": 64, "trainable_from": "all"},
            "attention": {"units": 64},
            "decoder": {
                "projection": 0,
                "embedding": 64,
                "hidden": 128,
                "dropout": 0.0,
                "annotation_dropout": 0.0,
                "tied": False,
            },
            "loss": {"doubly_stochastic": 0.0, "label_smoothing": 0.0},
            "optimizer": {"warmup_steps": 50, "clip_norm": 1.0, "average": 0.0},
            "train": {
                "epochs": 8.0,
                "batch_size": 32,
                "rows": 1,
                "buckets": 4,
                "log_every": 20,
                "patience": 0,
            },
            "decode": {"beam": 1, "max_length": 40, "length_penalty": 0.0},
        }
    )
    for name, value in VARIANTS[variant].items():
        group, key = name.split(".")
        config.update({group: {key: value}})
    return config
