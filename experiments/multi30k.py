"""Translation on Multi30k, with the systems that preceded attention to images.

    ./launch.sh train --config multi30k:bahdanau --workdir runs/bahdanau \\
        --config.data.manual_dir=FOLDER --config.data.source=en --config.data.target=de
    ./launch.sh translate --workdir runs/bahdanau "two dogs play in the snow"

Variants:
    seq2seq   one vector for a whole sentence (Cho et al. 2014; Sutskever et al. 2014)
    bahdanau  additive attention of the previous state (Bahdanau et al. 2015)
    luong_*   attention of the current state with input feeding (Luong et al. 2015), by score
    lstmn     self-attention in encoder and decoder (Cheng et al. 2016)
    hard      hard attention, trained with REINFORCE
    linear    bahdanau with an output that is a sum of a term of the state and one of the place
    marginal  hard attention in that decoder, trained on its exact likelihood (Deng et al. 2018)
    posterior marginal with a state that moves, then attends, and reads where the last word came
              from (Shankar and Sarawagi 2019), not the expected context
    variational  marginal, trained on a bound by a posterior of its own
    joint     luong_concat with one vocabulary and one set of word vectors for both languages, more
              dropout and more epochs: the best by itself
    pictured  bahdanau with a second attention, over the picture that the sentence describes
"""

from ml_collections import ConfigDict

LUONG = {"attention.order": "current", "decoder.deep_output": False, "decoder.output_tanh": False}
LINEAR = {"decoder.output_tanh": False, "decoder.product_form": True}
SHARED = {
    "data.joint": True,
    "encoder.tied": True,
    "encoder.dropout": 0.4,
    "decoder.dropout": 0.5,
}
# The state reads the expected context whatever place the output reads, so the likelihood is exact.
LATENT = LINEAR | {
    "attention.kind": "hard",
    "attention.state_reads": "expected",
    "hard.entropy": 0.0,
    "decode.context": "mixture",
}
VARIANTS = {
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
    "linear": LINEAR,
    "marginal": LATENT | {"hard.objective": "marginal"},
    "posterior": LATENT
    | {
        "hard.objective": "marginal",
        "attention.state_reads": "posterior",
        "attention.order": "current",
    },
    "variational": LATENT | {"hard.objective": "variational"},
    "joint": LUONG
    | SHARED
    | {
        "attention.score": "concat",
        "data.subwords": 6000,
        "train.epochs": 15.0,
        "train.buckets": 4,
        "decode.length_penalty": 0.5,
    },
    "pictured": SHARED
    | {
        "data.name": "multi30k_pictures",
        "data.subwords": 3000,
        "data.max_source_length": 40,
        "picture.name": "efficientnet_lite0",
        "picture.image_size": 224,
        "picture.withheld": 0.1,
        "train.epochs": 12.0,
        "train.buckets": 3,
        "decode.max_length": 40,
    },
}


def get_config(variant: str = "bahdanau") -> ConfigDict:
    """What differs from the defaults; the variants are described above."""
    config = ConfigDict(
        {
            "data": {
                "name": "multi30k",
                "source": "en",
                "target": "de",
                "min_count": 2,  # of a word, with vocabulary "words"
                "max_length": 60,
            },
            "attention": {"units": 256, "reach": 10},
            "decoder": {"projection": 0, "dropout": 0.3, "gate": False},
            "loss": {"doubly_stochastic": 0.0},
            "optimizer": {"warmup_steps": 200},
            "train": {"epochs": 6.0, "rows": 1, "buckets": 6, "metric": "BLEU", "patience": 0},
            "decode": {"max_length": 60, "length_penalty": 1.0},
        }
    )
    for name, value in VARIANTS[variant].items():
        group, key = name.split(".")
        config.update({group: {key: value}})
    return config
