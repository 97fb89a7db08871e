"""Translation of Multi30k's sentences: the systems that came before attention to images.

    ./launch.sh train --config experiments/multi30k.py:bahdanau --workdir runs/bahdanau \\
        --config.data.manual_dir=FOLDER --config.data.source=en --config.data.target=de
    ./launch.sh translate --workdir runs/bahdanau "two dogs play in the snow"
"""

from ml_collections import ConfigDict

LUONG = {"attention.order": "current", "decoder.deep_output": False, "decoder.output_tanh": False}
VARIANTS = {
    # One vector for a whole sentence (Cho et al. 2014; Sutskever et al. 2014).
    "seq2seq": {"encoder.annotations": "last"},
    "bahdanau": {},
    "luong_dot": LUONG | {"attention.score": "dot"},
    "luong_general": LUONG | {"attention.score": "general"},
    "luong_concat": LUONG | {"attention.score": "concat"},
    "luong_local": LUONG
    | {"attention.score": "general", "attention.window": "local_p", "attention.reach": 5},
    "lstmn": {"encoder.name": "lstmn", "decoder.self_attention": True},
    "hard": {
        "attention.kind": "hard",
        "hard.credit": "to_go",
        "hard.baseline": "learned",
        "hard.soft_steps": 2000,
    },
}


def get_config(variant: str = "bahdanau") -> ConfigDict:
    """Variants: seq2seq, a fixed context; bahdanau; luong_dot, luong_general, luong_concat and
    luong_local; lstmn, self-attention in encoder and decoder; hard, REINFORCE."""
    if variant not in VARIANTS:
        known = ", ".join(VARIANTS)
        raise ValueError(
            f"experiments/multi30k.py has no variant {variant!r}: choose one of {known}"
        )
    config = ConfigDict()
    config.seed = 0
    config.data = ConfigDict(
        {
            "name": "multi30k",
            "dir": "",
            "manual_dir": "",
            "limit": 0,
            "source": "en",
            "target": "de",
            "vocabulary": "subwords",
            "subwords": 5000,  # of each language
            "min_count": 2,  # of a word, with vocabulary "words"
            "max_length": 60,
            "max_source_length": 60,
        }
    )
    config.encoder = ConfigDict(
        {
            "name": "gru",
            "embedding": 256,
            "hidden": 256,
            "bidirectional": True,
            "annotations": "all",
            "dropout": 0.3,
        }
    )
    config.attention = ConfigDict(
        {
            "kind": "soft",
            "score": "additive",
            "window": "global",
            "reach": 10,
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
            "projection": 0,
            "embedding": 256,
            "hidden": 512,
            "dropout": 0.3,
            "annotation_dropout": 0.2,
            "self_attention": False,
            "deep_output": True,
            "output_tanh": True,
            "gate": False,
            "tied": True,
            "dtype": "float32",
        }
    )
    config.loss = ConfigDict({"doubly_stochastic": 0.0, "label_smoothing": 0.1})
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
            "epochs": 6.0,
            "batch_size": 64,
            "rows": 1,
            "buckets": 6,
            "log_every": 50,
            "checkpoint_every": 500,
            "metric": "BLEU",
            "patience": 0,
            "max_skipped": 20,
        }
    )
    config.decode = ConfigDict(
        {
            "beam": 5,
            "max_length": 60,
            "length_penalty": 1.0,
            "ban_unk": True,
            "batch_size": 50,
            "context": "expected",
        }
    )
    config.update_from_flattened_dict(VARIANTS[variant])
    return config
