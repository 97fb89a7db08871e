"""The generated data set "reversal": made-up words, repeated backwards from a given word.

    ./launch.sh train --config reversal:luong   --workdir runs/reversal-luong
    ./launch.sh train --config reversal:seq2seq --workdir runs/reversal-seq2seq

Each takes a minute or two. The first learns the task; the second, which must keep a whole sentence
in one vector, does not. `evaluate` prints BLEU by length, which shows the difference.

Variants:
    seq2seq   one vector for a whole sentence (Cho et al. 2014; Sutskever et al. 2014)
    bahdanau  additive attention of the previous state (Bahdanau et al. 2015)
    luong     attention of the current state, which has read the last word: right at any length
    lstmn     self-attention in encoder and decoder (Cheng et al. 2016)
"""

from ml_collections import ConfigDict

VARIANTS = {
    "seq2seq": {"encoder.annotations": "last"},
    "bahdanau": {},
    "luong": {
        "attention.order": "current",
        "attention.score": "general",
        "decoder.deep_output": False,
        "decoder.output_tanh": False,
    },
    "lstmn": {"encoder.name": "lstmn", "decoder.self_attention": True},
}


def get_config(variant: str = "bahdanau") -> ConfigDict:
    """What differs from the defaults; the variants are described above."""
    config = ConfigDict(
        {
            "data": {
                "name": "reversal",
                "vocabulary": "words",
                "max_length": 24,
                "max_source_length": 24,
            },
            "encoder": {"embedding": 64, "hidden": 128, "dropout": 0.1},
            "attention": {"units": 128, "reach": 10},
            "decoder": {
                "projection": 0,
                "embedding": 64,
                "hidden": 128,
                "dropout": 0.1,
                "annotation_dropout": 0.0,
                "gate": False,
            },
            "loss": {"doubly_stochastic": 0.0, "label_smoothing": 0.0},
            "optimizer": {"warmup_steps": 50, "clip_norm": 1.0, "average": 0.0},
            "train": {"epochs": 4.0, "rows": 1, "buckets": 3, "metric": "BLEU", "patience": 0},
            "decode": {"beam": 1, "max_length": 25, "length_penalty": 1.0},
        }
    )
    for name, value in VARIANTS[variant].items():
        group, key = name.split(".")
        config.update({group: {key: value}})
    return config
