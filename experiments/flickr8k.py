"""Soft attention on Flickr8k over frozen EfficientNet-Lite annotation vectors.

    ./launch.sh train --config experiments/flickr8k.py:soft --workdir runs/flickr8k-soft \\
        --config.data.manual_dir=FOLDER_OF_THE_TWO_ZIPS
"""

from ml_collections import ConfigDict

HARD_BEST = {
    "attention.kind": "hard",
    "hard.credit": "to_go",
    "hard.baseline": "learned",
    "decode.context": "argmax",
}
# Goes on from a soft run.
HARD_FROM_SOFT = HARD_BEST | {"train.epochs": 0.5, "optimizer.learning_rate": 5e-4}
REWARD = {
    "train.init_weights": "last",  # annealed ones: better to go on from than the best
    "train.init_share": 0.4,
    "reward.samples": 10,
    "reward.bleu": 1.0,
    "reward.f_mean": 1.5,
    "train.epochs": 0.25,
    "train.buckets": 1,  # the references' padding costs nothing here
    "optimizer.learning_rate": 5e-5,
    "optimizer.warmup_steps": 20,
    "optimizer.average": 0.98,
    "decode.beam": 8,
    "decode.length_penalty": 1.0,
}
SMALL = {
    "encoder.name": "efficientnet_lite0",
    "encoder.image_size": 224,
    "data.crops": 0,
    "attention.units": 256,
    "decoder.projection": 256,
    "decoder.hidden": 256,
    "train.buckets": 3,  # fewer programs to compile
    "train.epochs": 2.0,
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
    "hard-best": HARD_BEST | {"hard.soft_steps": 1125},
    # The run to go on from is given as --config.train.init_from=RUN.
    "hard-from-soft": HARD_FROM_SOFT | {"train.init_from": "runs/flickr8k-soft"},
    # These go on from one of the runs above, on what their captions score.
    "soft-reward": REWARD | {"train.init_from": "runs/flickr8k-soft"},
    "hard-reward": REWARD
    | HARD_BEST
    | {"train.init_from": "runs/flickr8k-hard-from-soft", "hard.baseline": "none"},
    # A smaller encoder and decoder, no crops, fewer steps: for the ablations of RESULTS.md.
    "small": SMALL,
    "small-hard": SMALL
    | HARD_FROM_SOFT
    | {
        "train.init_from": "runs/flickr8k-small",
        "train.init_weights": "last",
    },
}


def get_config(variant: str = "soft") -> ConfigDict:
    """Variants: soft; hard, the paper's; hard-released, what its released code computes; hard-best,
    ours, from scratch; hard-from-soft, the same from the weights of a soft run; soft-reward and
    hard-reward, which go on from a trained run on what its captions score; small and small-hard,
    quicker ones of soft and hard-from-soft, for ablations."""
    if variant not in VARIANTS:
        known = ", ".join(VARIANTS)
        raise ValueError(
            f"experiments/flickr8k.py has no variant {variant!r}: choose one of {known}"
        )
    changes = VARIANTS[variant]
    config = ConfigDict()
    config.seed = 0
    config.data = ConfigDict(
        {
            "name": "flickr8k",
            "dir": "",
            "manual_dir": "",
            "limit": 0,
            "mirrored": True,
            "crops": 2,
            "random_crop": 1.0,  # this and the next for a trained encoder alone
            "random_flip": "off",
            "min_count": 5,
            "max_length": 40,
        }
    )
    config.encoder = ConfigDict(
        {
            "name": "efficientnet_lite2+efficientnet_lite1+efficientnet_lite0",
            "image_size": 288,
            "trainable_from": "",  # the first stage that is trained; "" for none
            "checkpointing": False,
            "learning_rate": 0.0,  # 0: the optimizer's
            "endpoints": ("head",),
            "grid_stride": 32,
        }
    )
    config.attention = ConfigDict(
        {
            "kind": "soft",
            "score": "additive",
            "window": "global",
            "reach": 2,
            "order": "previous",
            "units": 512,
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
            "projection": 512,
            "embedding": 256,
            "hidden": 512,
            "dropout": 0.5,
            "annotation_dropout": 0.2,
            "self_attention": False,
            "deep_output": True,
            "output_tanh": True,
            "gate": True,
            "tied": True,
            "dtype": "float32",
        }
    )
    config.loss = ConfigDict({"doubly_stochastic": 0.005, "label_smoothing": 0.1})
    config.optimizer = ConfigDict(
        {
            "name": "adam",
            "learning_rate": 2e-3,
            "schedule": "cosine",
            "final": 0.0,
            "warmup_steps": 100,
            "weight_decay": 0.0,
            "clip_norm": 5.0,
            "average": 0.998,
        }
    )
    config.train = ConfigDict(
        {
            "init_from": "",
            "init_weights": "best",
            "init_share": 0.0,
            "epochs": 2.5,
            "batch_size": 32,
            "rows": 2,
            "buckets": 8,
            "log_every": 20,
            "checkpoint_every": 200,
            "metric": "CIDEr",
            "patience": 4,
            "max_skipped": 20,
        }
    )
    config.decode = ConfigDict(
        {
            "beam": 5,
            "max_length": 30,
            "length_penalty": 0.7,
            "ban_unk": True,
            "batch_size": 50,
            "context": "expected",
        }
    )
    config.update_from_flattened_dict(changes)
    return config
