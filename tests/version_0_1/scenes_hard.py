"""Hard attention on a folder of generated scenes: a whole config, as version 0.1 wanted it."""

from ml_collections import ConfigDict


def get_config(variant: str = "hard") -> ConfigDict:
    """The only variant is `hard`."""
    if variant != "hard":
        raise ValueError(f"no variant {variant!r}: choose 'hard'")
    config = ConfigDict()
    config.seed = 3
    config.data = ConfigDict(
        {
            "name": "folder",
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
        {"name": "small", "image_size": 32, "features": 16, "trainable_from": "all"}
    )
    config.attention = ConfigDict(
        {
            "kind": "hard",
            "score": "additive",
            "window": "global",
            "reach": 2,
            "order": "previous",
            "units": 8,
            "temperature": 1.0,
        }
    )
    config.hard = ConfigDict(
        {
            "objective": "reinforce",
            "samples": 1,
            "soft_probability": 0.5,
            "soft_steps": 40,
            "coin": "image",
            "reinforce": 1.0,
            "entropy": 0.01,
            "credit": "to_go",
            "baseline": "learned",
            "released": False,
        }
    )
    config.reward = ConfigDict(
        {"samples": 0, "cider": 1.0, "bleu": 0.0, "f_mean": 0.0, "max_length": 16}
    )
    config.decoder = ConfigDict(
        {
            "projection": 0,
            "embedding": 8,
            "hidden": 16,
            "dropout": 0.1,
            "annotation_dropout": 0.1,
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
            "learning_rate": 2e-2,
            "schedule": "cosine",
            "final": 0.1,
            "warmup_steps": 2,
            "weight_decay": 0.0,
            "clip_norm": 5.0,
            "average": 0.9,
        }
    )
    config.train = ConfigDict(
        {
            "init_from": "",
            "init_weights": "best",
            "init_share": 0.0,
            "epochs": 60.0,
            "batch_size": 4,
            "rows": 1,
            "buckets": 1,
            "log_every": 20,
            "checkpoint_every": 50,
            "metric": "ROUGE-L",
            "patience": 0,
            "max_skipped": 20,
        }
    )
    config.decode = ConfigDict(
        {
            "beam": 2,
            "max_length": 16,
            "length_penalty": 0.7,
            "ban_unk": True,
            "batch_size": 4,
            "context": "argmax",
        }
    )
    return config
