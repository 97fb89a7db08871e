"""Attention on Flickr8k over frozen EfficientNet-Lite annotation vectors.

    ./launch.sh train --config flickr8k:soft --workdir runs/flickr8k-soft \\
        --config.data.manual_dir=FOLDER_OF_THE_TWO_ZIPS

Variants:
    soft            soft attention
    soft-printed    the same with eq. 7 as printed, without the released code's tanh
    hard            hard attention as in the paper
    hard-released   hard attention as the paper's released code computes it
    hard-best       our hard attention, from scratch
    hard-leave-one-out  four paths of a caption, each one's baseline the mean of the others
    hard-from-soft  the same as hard-best, from the weights of a soft run
    local           soft attention over local features, in the decoder of marginal
    local-reward    continues it, trained on the scores of its captions
    local-neighbours  local-reward, whose captions are chosen by consensus and similar training
                    pictures and do not say two words in a row twice
    local-german    local in German, with the descriptions of Multi30k
    local-bilingual  local in English and German, for more epochs
    local-bilingual-reward  continues it, trained on the scores of its captions
    local-sparse    local with 1.5-entmax in place of softmax
    local-reinforce    hard attention trained with REINFORCE in the decoder of marginal
    local-variational  the same, trained on a bound by a posterior of its own
    marginal        hard attention trained on its exact likelihood, over local features
    marginal-reward  continues it, trained on the scores of its captions
    marginal-supervised  marginal, taught by boxes where to look
    soft-reward     continues a soft run, trained on the scores of its captions
    hard-reward     the same for hard-from-soft
    clip            soft attention over CLIP's patches, begun with its class token
    dinov2          the same over DINOv2's
    siglip          soft attention over SigLIP's patches
    small           a smaller encoder and decoder, no crops, fewer steps: for ablations
    small-hard      hard-from-soft of that size
    small-local     soft attention of that size in the decoder of marginal
    small-marginal  marginal of that size
    english         small with three epochs, its captions split into words like german's
    german          the same in German, with the descriptions of Multi30k
    bilingual       the same in both languages, with as many captions a step

Variants with German also need its descriptions, whose folder is config.data.captions_dir (see
docs/howto/languages.md).
"""

from ml_collections import ConfigDict

NETWORKS = "efficientnet_lite2+efficientnet_lite1+efficientnet_lite0"
HARD_BEST = {
    "attention.kind": "hard",
    "hard.credit": "to_go",
    "hard.baseline": "learned",
    "decode.context": "argmax",
}
HARD_FROM_SOFT = HARD_BEST | {"train.epochs": 0.5, "optimizer.learning_rate": 5e-4}
REWARD = {
    "train.init_weights": "last",  # annealed: a better start than the best weights
    "train.init_share": 0.4,
    "reward.samples": 10,
    "reward.bleu": 1.0,
    "reward.f_mean": 1.5,
    "train.epochs": 0.25,
    "train.buckets": 1,  # padded references cost nothing here
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
# A decoder in which the picture enters through attention. Places come from a large picture, in
# which late stages, too, see their surroundings only; the scene comes from a small one, which
# training often withholds.
LOCAL = {
    "encoder.name": f"{NETWORKS}+{NETWORKS}",
    "encoder.image_size": 576,
    "encoder.sizes": (576, 576, 576, 288, 288, 288),
    "encoder.grid_stride": 64,
    "encoder.endpoints": ("stage6@576", "stage7@576", "head@288"),
    "encoder.pooled": ("head@288",),
    "attention.values": ("stage6@576", "stage7@576"),
    "attention.score": "scaled_dot",
    "attention.order": "current",
    "attention.state_reads": "nothing",
    "attention.position_code": True,
    "decoder.initial_state": "zero",
    "decoder.layer_norm": True,
    "decoder.scene": ("head@288",),
    "decoder.scene_scale": 0.08,
    "decoder.product_form": True,
    "decoder.output_tanh": False,
    "decoder.state_tanh": True,
    "decoder.gate": False,
    "decoder.annotation_dropout": 0.3,
    "decoder.place_dropout": 0.3,
    "decoder.places_kept": 0.5,
    "loss.doubly_stochastic": 0.0,
    "train.epochs": 3.0,
    "train.buckets": 4,
}
# The patches of a vision transformer; see docs/howto/weights.md for the weights.
PATCHES = {"encoder.image_size": 224, "encoder.endpoints": (), "encoder.grid_stride": 0}
CLASS_TOKEN = {
    "encoder.endpoints": ("norm", "class"),
    "attention.values": ("norm",),
    "decoder.initial_from": ("class",),
}
SMALL_LOCAL = {
    "encoder.name": "efficientnet_lite0+efficientnet_lite0",
    "encoder.image_size": 576,
    "encoder.sizes": (576, 288),
}
GERMAN = {"data.vocabulary": "13a", "data.languages": ("de",)}
# One place a word, and a likelihood that is a mixture over places.
LATENT = LOCAL | {
    "attention.kind": "hard",
    "hard.entropy": -0.06,  # sharper maps; from about -0.1 on they collapse to single places
    "decode.context": "mixture",
}
MARGINAL = LATENT | {
    "hard.objective": "marginal",
    "decoder.places_kept": 1.0,  # half of them: cheaper steps, but maps that matter less
    "train.epochs": 4.0,
}
LOCAL_REWARD = REWARD | {
    "train.epochs": 1.0,
    "train.buckets": 4,
    "optimizer.learning_rate": 2e-4,
    "reward.likelihood": 0.1,
    "decoder.places_kept": 1.0,
}
LONGER = SMALL | {"train.epochs": 3.0}
BILINGUAL = GERMAN | {"data.languages": ("en", "de")}
VARIANTS = {
    "soft": {},
    "soft-printed": {"decoder.output_tanh": False},
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
    "hard-leave-one-out": HARD_BEST
    | {"hard.soft_steps": 1125, "hard.baseline": "leave_one_out", "hard.samples": 4},
    "hard-from-soft": HARD_FROM_SOFT | {"train.init_from": "runs/flickr8k-soft"},
    "local": LOCAL,
    "local-reward": LOCAL | LOCAL_REWARD | {"train.init_from": "runs/flickr8k-local"},
    "local-neighbours": LOCAL
    | LOCAL_REWARD
    | {
        "decode.consensus": True,
        "decode.no_repeat": 2,
        "decode.neighbours": 60,
        "train.init_from": "runs/flickr8k-local",
    },
    "local-german": LOCAL | GERMAN,
    "local-bilingual": LOCAL | BILINGUAL | {"train.epochs": 5.0},
    "local-bilingual-reward": LOCAL
    | BILINGUAL
    | LOCAL_REWARD
    | {
        "reward.samples": 5,  # in each language
        "decode.consensus": True,
        "train.init_from": "runs/flickr8k-local-bilingual",
    },
    "local-sparse": LOCAL | {"attention.read_out": "entmax"},
    "local-reinforce": LOCAL | HARD_BEST | {"hard.credit": "word", "hard.soft_steps": 1125},
    # The bound sharpens maps by itself; pulled further they collapse.
    "local-variational": LATENT | {"hard.objective": "variational", "hard.entropy": 0.0},
    "marginal": MARGINAL,
    "marginal-reward": MARGINAL | LOCAL_REWARD | {"train.init_from": "runs/flickr8k-marginal"},
    "marginal-supervised": MARGINAL
    | {"attention.supervision": 0.5, "attention.supervision_loss": "share"},
    "soft-reward": REWARD | {"train.init_from": "runs/flickr8k-soft"},
    "hard-reward": REWARD
    | HARD_BEST
    | {"train.init_from": "runs/flickr8k-hard-from-soft", "hard.baseline": "none"},
    "clip": PATCHES | CLASS_TOKEN | {"encoder.name": "clip_vit_b16"},
    "dinov2": PATCHES | CLASS_TOKEN | {"encoder.name": "dinov2_vit_s14"},
    "siglip": PATCHES | {"encoder.name": "siglip_vit_b16"},
    "small": SMALL,
    "small-local": LOCAL | SMALL | SMALL_LOCAL,
    "small-marginal": MARGINAL | SMALL | SMALL_LOCAL,
    "english": LONGER | {"data.vocabulary": "13a"},
    "german": LONGER | GERMAN,
    "bilingual": LONGER | BILINGUAL | {"train.batch_size": 16},
    "small-hard": SMALL
    | HARD_FROM_SOFT
    | {"train.init_from": "runs/flickr8k-small", "train.init_weights": "last"},
}


def get_config(variant: str = "soft") -> ConfigDict:
    """What differs from the defaults; the variants are described above."""
    config = ConfigDict(
        {
            "data": {"name": "flickr8k", "mirrored": True, "crops": 2, "min_count": 5},
            "encoder": {
                "name": NETWORKS,
                "image_size": 288,
                "endpoints": ("head",),
                "grid_stride": 32,
            },
            "train": {"epochs": 2.5, "batch_size": 32, "log_every": 20, "checkpoint_every": 200},
        }
    )
    for name, value in VARIANTS[variant].items():
        group, key = name.split(".")
        config.update({group: {key: value}})
    return config
