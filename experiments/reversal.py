"""The generated data set "reversal": sentences of made-up words, said backwards from a given one.

    ./launch.sh train --config experiments/reversal.py:luong   --workdir runs/reversal-luong
    ./launch.sh train --config experiments/reversal.py:seq2seq --workdir runs/reversal-seq2seq

Within a minute or two each, the first learns what the second, which has to keep a whole sentence in
one vector, does not: see BLEU by length of `evaluate`.
"""

from ml_collections import ConfigDict

VARIANTS = {
    # One vector for a whole sentence (Cho et al. 2014; Sutskever et al. 2014).
    "seq2seq": {"encoder.annotations": "last"},
    "bahdanau": {},
    # The state that has read the last word asks for the next: sure at any length.
    "luong": {
        "attention.order": "current",
        "attention.score": "general",
        "decoder.deep_output": False,
        "decoder.output_tanh": False,
    },
    "lstmn": {"encoder.name": "lstmn", "decoder.self_attention": True},
}


def get_config(variant: str = "bahdanau") -> ConfigDict:
    """Variants: seq2seq, a fixed context; bahdanau; luong; lstmn, self-attention on both sides."""
    if variant not in VARIANTS:
        known = ", ".join(VARIANTS)
        raise ValueError(
            f"experiments/reversal.py has no variant {variant!r}: choose one of {known}"
        )
    config = ConfigDict()
    config.seed = 0
    config.data = ConfigDict(
        {
            "name": "reversal",
            "dir": "",
            "manual_dir": "",
            "limit": 0,
            "vocabulary": "words",
            "min_count": 1,
            "max_length": 24,
            "max_source_length": 24,
        }
    )
    config.encoder = ConfigDict(
        {
            "name": "gru",
            "embedding": 64,
            "hidden": 128,
            "bidirectional": True,
            "annotations": "all",
            "dropout": 0.1,
        }
    )
    config.attention = ConfigDict(
        {
            "kind": "soft",
            "score": "additive",
            "window": "global",
            "reach": 10,
            "order": "previous",
            "units": 128,
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
            "dropout": 0.1,
            "annotation_dropout": 0.0,
            "self_attention": False,
            "deep_output": True,
            "output_tanh": True,
            "gate": False,
            "tied": True,
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
            "epochs": 4.0,
            "batch_size": 64,
            "rows": 1,
            "buckets": 3,
            "log_every": 50,
            "checkpoint_every": 500,
            "metric": "BLEU",
            "patience": 0,
            "max_skipped": 20,
        }
    )
    config.decode = ConfigDict(
        {
            "beam": 1,
            "max_length": 25,
            "length_penalty": 1.0,
            "ban_unk": True,
            "batch_size": 50,
            "context": "expected",
        }
    )
    config.update_from_flattened_dict(VARIANTS[variant])
    return config
