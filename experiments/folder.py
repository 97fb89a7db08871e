"""Soft attention on a folder of one's own images; the defaults are for as few as ten.

    ./launch.sh train --config experiments/folder.py --workdir runs/own \\
        --config.data.manual_dir=FOLDER_OF_THE_IMAGES_AND_metadata.csv

See `datasets/folder.py` for the table. With thousands of images, take the settings of
experiments/flickr8k.py.
"""

from ml_collections import ConfigDict

# What makes a variant; `hard` in the config has no effect on soft attention.
VARIANTS = {
    "soft": {},
    "hard": {"attention.kind": "hard", "decode.context": "argmax"},
}


def get_config(variant: str = "soft") -> ConfigDict:
    """Variants: soft; hard, the paper's."""
    if variant not in VARIANTS:
        known = ", ".join(VARIANTS)
        raise ValueError(f"experiments/folder.py has no variant {variant!r}: choose one of {known}")
    changes = VARIANTS[variant]
    config = ConfigDict()
    config.seed = 0
    config.data = ConfigDict(
        {
            "name": "folder",
            "dir": "",
            "manual_dir": "",
            "limit": 0,
            "mirrored": True,
            "crops": 2,
            "random_crop": 1.0,  # this and the next for a trained encoder alone
            "random_flip": "off",
            "min_count": 1,
            "max_length": 40,
        }
    )
    config.encoder = ConfigDict(
        {
            "name": "efficientnet_lite0",
            "image_size": 224,
            "trainable_from": "",  # the first stage that is trained; "" for none
            "checkpointing": False,
            "learning_rate": 0.0,  # 0: the optimizer's
            "endpoints": (),  # stages whose channels are taken; none and 0: the encoder's own
            "grid_stride": 0,
            "weights": "",  # a file or OWNER/NAME on the hub; "" for the encoder's own
            "weights_sha256": "",  # what they must have; a run notes what they had
        }
    )
    config.attention = ConfigDict(
        {
            "kind": "soft",
            "score": "additive",
            "window": "global",
            "reach": 2,
            "order": "previous",
            "units": 256,
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
            "projection": 256,
            "embedding": 128,
            "hidden": 256,
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
    config.loss = ConfigDict({"doubly_stochastic": 0.005, "label_smoothing": 0.0})
    config.optimizer = ConfigDict(
        {
            "name": "adam",
            "learning_rate": 2e-3,
            "schedule": "cosine",
            "final": 0.0,
            "warmup_steps": 10,
            "weight_decay": 0.0,
            "clip_norm": 5.0,
            "average": 0.0,
        }
    )
    config.train = ConfigDict(
        {
            "init_from": "",
            "init_weights": "best",
            "init_share": 0.0,
            "epochs": 40.0,
            "batch_size": 8,
            "rows": 1,
            "buckets": 1,
            "log_every": 10,
            "checkpoint_every": 100,
            "metric": "ROUGE-L",  # CIDEr is 0 where there is one image
            "patience": 0,
            "max_skipped": 20,
        }
    )
    config.decode = ConfigDict(
        {
            "beam": 5,
            "max_length": 30,
            "length_penalty": 0.7,
            "ban_unk": True,
            "batch_size": 10,
            "context": "expected",
        }
    )
    config.update_from_flattened_dict(changes)
    return config
