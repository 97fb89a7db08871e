"""Soft attention on the generated data set "shapes", encoder and decoder from scratch.

./launch.sh quickstart
./launch.sh train --config experiments/shapes.py:soft --workdir runs/shapes-soft
"""

from ml_collections import ConfigDict

HARD_BEST = {
    "attention.kind": "hard",
    "hard.credit": "to_go",
    "hard.baseline": "learned",
    "decode.context": "argmax",
}
# What makes a variant; `hard` in the config has no effect on soft attention.
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
    # Goes on from a soft run, given as --config.train.init_from=RUN.
    "hard-from-soft": HARD_BEST
    | {
        "train.init_from": "runs/shapes-soft",
        "train.epochs": 3,
        "optimizer.learning_rate": 1e-3,
    },
}


def get_config(variant: str = "soft") -> ConfigDict:
    """Variants: soft; hard, the paper's; hard-released, what its released code computes; hard-best,
    ours, from scratch; and hard-from-soft, the same from the weights of a soft run."""
    if variant not in VARIANTS:
        known = ", ".join(VARIANTS)
        raise ValueError(f"experiments/shapes.py has no variant {variant!r}: choose one of {known}")
    changes = VARIANTS[variant]
    config = ConfigDict()
    config.seed = 0
    config.data = ConfigDict(
        {
            "name": "shapes",
            "dir": "",
            "manual_dir": "",
            "limit": 0,
            "mirrored": False,
            "crops": 0,
            "random_crop": 1.0,
            "random_flip": "off",
            "min_count": 1,
            "max_length": 40,
        }
    )
    config.encoder = ConfigDict(
        {"name": "small", "image_size": 64, "features": 64, "trainable_from": "all"}
    )
    config.attention = ConfigDict(
        {
            "kind": "soft",
            "score": "additive",
            "window": "global",
            "reach": 2,
            "order": "previous",
            "units": 64,
            "temperature": 1.0,
        }
    )
    config.hard = ConfigDict(
        {
            "objective": "reinforce",
            "samples": 1,
            "soft_probability": 0.5,
            "soft_steps": 0,
            "coin": "image",
            "reinforce": 1.0,
            "entropy": 0.01,
            "credit": "sequence",
            "baseline": "moving_average",
            "released": False,
        }
    )
    # samples 0: training on the likelihood of the references, without a reward.
    config.reward = ConfigDict(
        {"samples": 0, "cider": 1.0, "bleu": 0.0, "f_mean": 0.0, "max_length": 16}
    )
    config.decoder = ConfigDict(
        {
            "projection": 0,
            "embedding": 64,
            "hidden": 128,
            "dropout": 0.0,
            "annotation_dropout": 0.0,
            "self_attention": False,
            "deep_output": True,
            "output_tanh": True,
            "gate": True,
            "tied": False,
            "dtype": "float32",
        }
    )
    config.loss = ConfigDict({"doubly_stochastic": 0.0, "label_smoothing": 0.0})
    config.optimizer = ConfigDict(
        {
            "name": "adam",
            "learning_rate": 2e-3,
            "schedule": "cosine",
            "final": 0.0,
            "warmup_steps": 50,
            "weight_decay": 0.0,
            "clip_norm": 1.0,
            "average": 0.0,
        }
    )
    config.train = ConfigDict(
        {
            "init_from": "",
            "init_weights": "best",
            "init_share": 0.0,
            "epochs": 8.0,
            "batch_size": 32,
            "rows": 1,
            "buckets": 4,
            "log_every": 20,
            "checkpoint_every": 500,
            "metric": "CIDEr",
            "patience": 0,
            "max_skipped": 20,
        }
    )
    config.decode = ConfigDict(
        {
            "beam": 1,
            "max_length": 40,
            "length_penalty": 0.0,
            "ban_unk": True,
            "batch_size": 50,
            "context": "expected",
        }
    )
    config.update_from_flattened_dict(changes)
    return config
