"""Soft attention on Flickr30k, the splits of Karpathy and Li, over frozen annotation vectors.

    ./launch.sh train --config experiments/flickr30k.py:soft --workdir runs/flickr30k-soft \\
        --config.data.manual_dir=FOLDER_OF_dataset_flickr30k.json_AND_THE_IMAGES

The annotation vectors take 7 GB on disk, half of them of the mirrored images; those of VGG-19 6 GB.
"""

from ml_collections import ConfigDict

PAPER = {
    "encoder.name": "vgg19",  # 14 x 14 locations of 512 numbers
    "data.mirrored": False,
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
# What makes a variant; `hard` in the config has no effect on soft attention.
VARIANTS = {
    "soft": {},
    "hard": HARD,
    "paper-soft": PAPER,
    "paper-hard": PAPER | HARD,
}


def get_config(variant: str = "soft") -> ConfigDict:
    """Variants: soft and hard, over EfficientNet-Lite0; paper-soft and paper-hard, over VGG-19 and
    with the paper's training, as far as it tells: weights of 1 for the doubly stochastic penalty,
    Adam at one rate, no smoothing, BLEU-4 to stop by."""
    if variant not in VARIANTS:
        known = ", ".join(VARIANTS)
        raise ValueError(
            f"experiments/flickr30k.py has no variant {variant!r}: choose one of {known}"
        )
    changes = VARIANTS[variant]
    config = ConfigDict()
    config.seed = 0
    config.data = ConfigDict(
        {
            "name": "karpathy",
            "dir": "",
            "manual_dir": "",
            "limit": 0,
            "restval": False,  # of dataset_coco.json: whether that split trains, too
            "mirrored": True,
            "crops": 0,
            "random_crop": 1.0,  # this and the next for a trained encoder alone
            "random_flip": "off",
            "min_count": 1,
            "vocabulary_size": 10000,
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
            "warmup_steps": 200,
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
            "epochs": 5.0,
            "batch_size": 64,
            "rows": 2,
            "buckets": 8,
            "log_every": 50,
            "checkpoint_every": 500,
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
