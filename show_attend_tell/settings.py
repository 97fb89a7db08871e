"""Every setting of an experiment: its type, default, meaning, unit and range.

An experiment file lists only what differs from these defaults. Each group validates itself on
creation, so code that receives a group never checks it again. `Settings` holds all groups and
checks how they combine.

Symbols as in `models.decoder`: D annotation features, E embedding, H LSTM units, A attention units,
N samples, L places.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, cast

from show_attend_tell.errors import UserError
from show_attend_tell.schema import Group, setting

FORMATS = ("float32", "bfloat16")  # of numbers in products
SCORES = ("additive", "concat", "dot", "general", "scaled_dot")
WINDOWS = ("global", "local_m", "local_p")
SUMMED_OVER_PLACES = ("marginal", "top_k", "variational")
MASKED = ("colours", "numbers", "nouns")  # kinds of source words that can be hidden
# Objectives under which no word depends on an earlier step's place.
STEPWISE = (*SUMMED_OVER_PLACES, "rebar")
LANGUAGE = "[a-z]{2,3}(-[A-Za-z0-9]{2,8})*"  # the form of a language's code, as in BCP 47
MIRRORED = ("en", "de")  # languages whose words for left and right are known, see `data.copies`
# Upper bounds, so that no config, by a slip or by damage, asks for arrays that nothing holds.
MOST_PIXELS = 4096  # side of an image
MOST = 2**16  # units, samples, rows, tokens
MOST_STEPS = 10**9  # counted in 32 bits
BASELINES = ("none", "moving_average", "learned", "self_critical", "expected", "leave_one_out")


@dataclass(frozen=True)
class Data(Group):
    """Settings of every data set (`config.data`)."""

    path: ClassVar[str] = "data."

    name: str = setting("", "data set; each experiment names its own")
    dir: str = setting("", "folder of built data sets and caches; empty: the user's cache folder")
    manual_dir: str = setting("", "folder with your download or your own data")
    limit: int = setting(0, "use only the first examples of each split; 0: all", least=0)
    min_count: int = setting(
        1, "occurrences a training word needs to enter the vocabulary", least=0
    )
    max_length: int = setting(40, "target tokens kept for training, without <eos>", least=1)

    @property
    def spoken(self) -> tuple[str, ...]:
        """The languages that a model chooses between; empty if there is no choice."""
        return ()

    def check_effect(self) -> None:
        """Rejects settings that change nothing, or what nobody can want.

        Earlier versions took them, so runs that have begun may still have them.

        Raises:
          UserError: the message names the setting.
        """


@dataclass(frozen=True)
class ImageData(Data):
    """A data set of images with captions."""

    mirrored: bool = setting(False, "whether training also sees every image mirrored")
    crops: int = setting(0, "cropped copies of every training image", least=0, most=1000)
    random_crop: float = setting(
        1.0,
        "smallest side of a random crop, as a share of the image's; needs a trained encoder",
        above=0,
        most=1,
    )
    random_flip: str = setting(
        "off",
        "mirror a training image with probability 0.5; `swap` also exchanges left and right in its "
        "captions, `skip` never mirrors images with these words; needs a trained encoder",
        choices=("off", "swap", "skip"),
    )
    restval: bool = setting(False, "whether to train on `restval`, too, if the data have it")
    holdout: float = setting(
        0.0,
        "share of the training images that validates, chosen by the hash of their names, in data "
        "without a validation split; 0: none",
        least=0,
        below=1,
    )
    vocabulary_size: int = setting(0, "most frequent words to keep; 0: all", least=0)
    languages: tuple[str, ...] = setting(
        ("en",), "languages of the captions, such as ('en', 'de'), as ISO 639 codes", later=True
    )
    captions_dir: str = setting(
        "",
        "folder with further captions of the images, in the layout of Multi30k's task 2",
        later=True,
    )
    vocabulary: str = setting(
        "ptb",
        "`ptb`: lower-cased English words; `13a`: lower-cased words and punctuation of any "
        "language, characters where a script has no spaces; `words`: words as written; "
        "`subwords`: units of sentencepiece",
        choices=("ptb", "13a", "words", "subwords"),
        later=True,
    )
    subwords: int = setting(
        5000, "units per language, with vocabulary `subwords`", least=1, most=10**6, later=True
    )
    download: bool = setting(False, "whether to fetch missing files of coco (20 GB)")
    repo: str = setting(
        "", "for hub: OWNER/NAME[@REVISION][:CONFIG] on the Hugging Face hub, or a parquet folder"
    )
    image_column: str = setting("", "for hub: column of images; empty: one with a usual name")
    caption_column: str = setting("", "for hub: column of captions; empty: those with usual names")

    def check(self) -> None:
        if self.name != "hub" and (self.repo or self.image_column or self.caption_column):
            raise UserError(
                f"config.data.repo, .image_column and .caption_column are for the data set hub, "
                f"but config.data.name is {self.name!r}; set config.data.name=hub, or leave them "
                "empty"
            )
        self._check_languages()

    def _check_languages(self) -> None:
        names, path = self.languages, "config.data.languages"
        known = all(re.fullmatch(LANGUAGE, name) for name in names)
        if not names or not known or len(set(names)) < len(names):
            raise UserError(
                f"{path} is {names!r}: name each language once, by its code, as ('en', 'pt-BR')"
            )
        others = ", ".join(name for name in names if name != "en")
        if others and self.vocabulary == "ptb":
            raise UserError(
                f"config.data.vocabulary 'ptb' splits English, but {path} has {others}: choose "
                "'13a' or 'subwords'"
            )
        if others and self.random_flip != "off":
            raise UserError(
                f"config.data.random_flip exchanges English words, but {path} has {others}: take "
                "config.data.mirrored instead"
            )
        if self.vocabulary in ("words", "subwords") and self.random_flip != "off":
            raise UserError(
                "config.data.random_flip exchanges whole lower-cased words, but "
                f"config.data.vocabulary is {self.vocabulary!r}: take config.data.mirrored instead"
            )
        silent = ", ".join(name for name in names if name not in MIRRORED)
        if silent and self.mirrored:
            raise UserError(
                f"config.data.mirrored: the words for left and right are not known in {silent}; "
                f"set it to False (known: {', '.join(MIRRORED)})"
            )

    def check_effect(self) -> None:
        if self.download and self.name != "coco":
            raise UserError(
                f"config.data.download fetches files of coco, but config.data.name is "
                f"{self.name!r}: leave it at False"
            )
        if self.repo and self.manual_dir:
            raise UserError(
                "config.data.manual_dir is not read where config.data.repo names the data: leave "
                "one of them empty"
            )
        # A vocabulary's other limits are not checked: experiments set them for words.
        if self.subwords != ImageData.subwords and self.vocabulary != "subwords":
            raise UserError(
                f"config.data.subwords needs config.data.vocabulary='subwords', but that is "
                f"{self.vocabulary!r}: leave it at {ImageData.subwords}"
            )

    @property
    def spoken(self) -> tuple[str, ...]:
        return self.languages if len(self.languages) > 1 else ()

    @property
    def augmented(self) -> bool:
        """Whether training images change from epoch to epoch."""
        return (self.random_crop, self.random_flip) != (1.0, "off")


@dataclass(frozen=True)
class SentenceData(Data):
    """A data set of sentence pairs."""

    source: str = setting("", "source language, for example en; empty if there is only one pair")
    target: str = setting("", "target language")
    vocabulary: str = setting(
        "subwords",
        "`subwords`: units of sentencepiece; `words`: words as written; `ptb`: lower-cased words",
        choices=("subwords", "words", "ptb"),
    )
    subwords: int = setting(
        5000, "units per language, with vocabulary `subwords`", least=1, most=10**6
    )
    joint: bool = setting(
        False,
        "one vocabulary for both languages; data.subwords are then its units in all",
        later=True,
    )
    max_source_length: int = setting(60, "source tokens kept, without <eos>", least=1, most=MOST)
    further_dir: str = setting(
        "",
        "folder with further pairs to train on, train.SOURCE and train.TARGET, such as "
        "back-translations; the vocabulary does not count them",
        later=True,
    )

    def check_effect(self) -> None:
        if self.source and self.source == self.target:
            raise UserError(
                f"config.data.source and .target are both {self.source!r}: name the language to "
                "translate into in config.data.target"
            )


@dataclass(frozen=True)
class PicturedData(SentenceData):
    """A data set of sentence pairs, each with the picture that it describes."""

    pictures_dir: str = setting("", "folder of the user's download of Flickr8k")
    masked: str = setting(
        "",
        "kind of English source words that are hidden, so that only the picture tells: colours, "
        "numbers or nouns; empty: none",
        choices=("", *MASKED),
    )

    def check(self) -> None:
        if self.further_dir:
            raise UserError(
                f"config.data.further_dir: its pairs have no pictures, which {self.name} needs; "
                "leave it empty"
            )
        if self.masked and self.source not in ("", "en"):
            raise UserError(
                f"config.data.masked hides English words, but config.data.source is "
                f"{self.source!r}: leave it empty, or translate from en"
            )


@dataclass(frozen=True)
class Encoder(Group):
    """Settings of every encoder (`config.encoder`)."""

    path: ClassVar[str] = "encoder."

    name: str = setting("", "network; each experiment names its own")


@dataclass(frozen=True)
class ImageEncoder(Encoder):
    """A network whose map of an image is the grid of annotation vectors."""

    name: str = setting(
        "efficientnet_lite0",
        "efficientnet_lite0 to 2, vgg19, resnet50, resnet101, convnext_tiny, clip_vit_b32, "
        "clip_vit_b16, clip_vit_l14, siglip_vit_b16, dinov2_vit_s14, dinov2_vit_b14 (both also "
        "with `_reg4`: registers), small; A+B concatenates",
    )
    image_size: int = setting(224, "side of the square images, pixels", least=8, most=MOST_PIXELS)
    trainable_from: str = setting("", "first trained stage, or `all`; empty: all frozen")
    checkpointing: bool = setting(
        False, "recompute a trained stage's activations in the backward pass, to save memory"
    )
    learning_rate: float = setting(
        0.0, "peak learning rate of a trained encoder; 0: the optimizer's", least=0
    )
    sizes: tuple[int, ...] = setting(
        (), "side of the images that each encoder of A+B is given; empty: image_size for all"
    )
    endpoints: tuple[str, ...] = setting(
        (),
        "stages whose channels are concatenated, `STAGE@SIZE` of the encoders of that size only, "
        "and `class` for a transformer's class token; empty: the network's default",
    )
    pooled: tuple[str, ...] = setting(
        (),
        "endpoints of which only the mean over places is kept, the same at every place; named as "
        "in endpoints",
    )
    grid_stride: int = setting(
        0,
        "pixels between places of a CNN: 8, 16, 32 or 64; 0: the network's default",
        least=0,
    )
    dtype: str = setting(
        "float32",
        "number format of products with matrices, not for the network `small`; bfloat16 has a "
        "cache of its own, and `auto` is replaced as the decoder's is",
        choices=("auto", *FORMATS),
    )
    features: int = setting(64, "D, for the network `small` only", least=4, most=MOST)
    weights: str = setting("", "file, or OWNER/NAME on the hub; empty: the network's default")
    weights_sha256: str = setting(
        "", "checksum that the weights must have; empty: any, and the run records it"
    )

    def check(self) -> None:
        if not self.trainable_from and (self.learning_rate or self.checkpointing):
            raise UserError(
                "config.encoder.learning_rate and .checkpointing need a trained encoder: set "
                "config.encoder.trainable_from"
            )


@dataclass(frozen=True)
class SentenceEncoder(Encoder):
    """A recurrent network over the source words."""

    name: str = setting(
        "gru", "cell; `lstmn` is an LSTM with self-attention", choices=("gru", "lstm", "lstmn")
    )
    embedding: int = setting(256, "size of source word vectors", least=1, most=MOST)
    hidden: int = setting(256, "units of each direction", least=1, most=MOST)
    bidirectional: bool = setting(True, "whether a second network reads backwards")
    annotations: str = setting(
        "all", "annotate `all` words, or only the `last` (a fixed context)", choices=("all", "last")
    )
    dropout: float = setting(0.3, "dropout rate on source word vectors", least=0, below=1)
    tied: bool = setting(
        False,
        "whether source words have the decoder's word vectors; needs data.joint and equal sizes "
        "of embedding",
        later=True,
    )


@dataclass(frozen=True)
class Picture(ImageEncoder):
    """The picture beside a sentence (`config.picture`): its frozen encoder, and a second attention.

    Score, units and temperature are those of `config.attention`; the score must be additive.
    """

    path: ClassVar[str] = "picture."

    kind: str = setting(
        "soft",
        "`soft`: expected annotation vector; `hard`: one sampled place",
        choices=("soft", "hard"),
    )
    dropout: float = setting(0.3, "dropout rate on its annotation vectors", least=0, below=1)
    withheld: float = setting(
        0.0, "probability that training withholds the picture from a sentence", least=0, below=1
    )

    def check(self) -> None:
        if self.trainable_from or self.pooled or self.learning_rate or self.checkpointing:
            raise UserError(
                "config.picture is encoded once, place by place: leave .trainable_from, .pooled, "
                ".learning_rate and .checkpointing as they are"
            )


@dataclass(frozen=True)
class Attention(Group):
    """How places are weighed (`config.attention`); formulas in `models.attention`."""

    path: ClassVar[str] = "attention."

    kind: str = setting(
        "soft",
        "`soft`: expected annotation vector; `hard`: one sampled place; `none`: the mean vector",
        choices=("soft", "hard", "none"),
    )
    score: str = setting("additive", "score function of state and place", choices=SCORES)
    window: str = setting("global", "places that a step may attend to", choices=WINDOWS)
    reach: int = setting(2, "places on either side of a window's centre", least=1, most=MOST)
    order: str = setting(
        "previous",
        "state that attends: `previous` (Bahdanau, Xu) or `current` (Luong)",
        choices=("previous", "current"),
    )
    state_reads: str = setting(
        "drawn",
        "what the state is fed: what the step read (a `drawn` place, or soft attention's "
        "expectation), the `expected` context whatever was drawn, that of the `posterior` given "
        "the word that the last step said, or `nothing`",
        choices=("drawn", "expected", "posterior", "nothing"),
    )
    read_out: str = setting(
        "softmax",
        "from scores to weights: `softmax`; `entmax` or `sparsemax`, with which most weigh 0",
        choices=("softmax", "entmax", "sparsemax"),
    )
    null_place: bool = setting(
        False, "add a place with a learned key and the vector 0, for words that need no place"
    )
    keys: tuple[str, ...] = setting(
        (), "stages of the encoder whose features make the keys; empty: all that make the vectors"
    )
    values: tuple[str, ...] = setting(
        (), "stages of the encoder whose features make the vectors that are read; empty: all"
    )
    position_code: bool = setting(
        False, "add a learned map of a place's coordinates to its key; on images only"
    )
    units: int = setting(512, "A, attention units", least=1, most=MOST)
    temperature: float = setting(1.0, "divides the scores before the softmax", above=0)
    supervision: float = setting(
        0.0,
        "weight of supervised attention: a loss in nats at a phrase's last word, from the phrase's "
        "boxes and a map; 0: off; see `objectives.supervision`",
        least=0,
    )
    supervision_loss: str = setting(
        "cross_entropy",
        "`cross_entropy` of boxes and map, or minus the log of the map's `share` in the boxes",
        choices=("cross_entropy", "share"),
    )
    supervised_map: str = setting(
        "prior",
        "map that supervision acts on: the `prior` alpha, or the `posterior` over places given the "
        "word, of hard attention in product form",
        choices=("prior", "posterior"),
    )

    @property
    def hard(self) -> bool:
        """Whether one place is read at each step."""
        return self.kind == "hard"

    @property
    def normalised(self) -> bool:
        """Whether a step's weights of real places sum to 1.

        Soft attention's Gaussian window lowers them, and a null place takes a share.
        """
        return (self.window != "local_p" or self.hard) and not self.null_place

    def check(self) -> None:
        if self.kind == "none" and self.window != "global":
            raise UserError("config.attention.kind 'none' has no window: set .window to 'global'")
        if self.state_reads == "expected" and self.order == "current":
            raise UserError(
                "config.attention.state_reads 'expected' needs config.attention.order='previous': "
                "with 'current' the state has moved before the step attends"
            )
        if self.state_reads == "posterior" and (self.order, self.kind) != ("current", "hard"):
            raise UserError(
                "config.attention.state_reads 'posterior' needs config.attention.kind='hard' and "
                ".order='current': a word must come from a place before the state reads it"
            )
        if self.null_place and (self.window != "global" or self.kind == "none"):
            raise UserError(
                "config.attention.null_place needs config.attention.window='global' and a kind "
                "other than 'none'"
            )
        if self.supervision and self.kind == "none":
            raise UserError(
                "config.attention.supervision needs config.attention.kind 'soft' or 'hard': with "
                "'none' there is no map to supervise"
            )
        if self.supervision and (self.window, self.read_out) != ("global", "softmax"):
            raise UserError(
                "config.attention.supervision needs config.attention.window='global' and "
                ".read_out='softmax': a place that weighs 0 has no logarithm"
            )


@dataclass(frozen=True)
class Hard(Group):
    """How hard attention is trained (`config.hard`). Soft attention ignores it."""

    path: ClassVar[str] = "hard."

    objective: str = setting(
        "reinforce",
        "`reinforce`: Xu et al. 2015, section 4.1; `multi_sample`: the tighter bound of VIMCO; "
        "`marginal`: the exact likelihood, summed over places; `top_k`: the same, with the places "
        "beyond the K most probable ones read as their mean; `variational`: a bound, by a trained "
        "posterior over places; `gumbel`: straight-through gradients, see `objectives.relaxed`; "
        "`rebar`: REINFORCE with a relaxation as control variate, see `objectives.rebar`",
        choices=("reinforce", "multi_sample", *STEPWISE, "gumbel"),
    )
    samples: int = setting(
        1,
        "N, attention paths sampled per caption, or places per step with `variational` and "
        "`rebar`; K of `top_k`",
        least=1,
        most=MOST,
    )
    inference: str = setting(
        "exact",
        "expectation over the posterior of `variational`: `exact`, a sum over all places, or "
        "`sampled`, by REINFORCE",
        choices=("exact", "sampled"),
    )
    bound: float = setting(
        0.0,
        "w, weight of the paper's bound L_s in the objective `marginal`, the likelihood's being "
        "1 - w; for decoding with `decode.context=argmax`",
        least=0,
        most=1,
    )
    soft_probability: float = setting(
        0.5, "p, probability that a coin replaces samples by their expectation", least=0, most=1
    )
    soft_steps: int = setting(
        0, "number of initial training steps with p = 1", least=0, most=MOST_STEPS
    )
    coin: str = setting("image", "what shares one toss of the coin", choices=("image", "batch"))
    reinforce: float = setting(1.0, "lambda_r, weight of the score-function term", least=0)
    entropy: float = setting(0.01, "lambda_e, weight of attention's entropy in nats; < 0 sharpens")
    credit: str = setting(
        "sequence",
        "log-likelihood that `reinforce` credits to a choice: that of the whole `sequence`, of the "
        "words `to_go`, of the step's own `word`, or the `mean` over words",
        choices=("sequence", "to_go", "word", "mean"),
    )
    baseline: str = setting(
        "moving_average",
        "subtracted from the credit; see `objectives.baselines`",
        choices=BASELINES,
    )
    relaxation_temperature: float = setting(
        1.0,
        "tau of `gumbel`, where a lower one has less bias and more variance, and of `rebar`, which "
        "has no bias at any",
        above=0,
    )
    rao_samples: int = setting(
        1,
        "K, draws of noise that `gumbel` averages over; 1: plain straight-through",
        least=1,
        most=MOST,
    )
    control: float = setting(
        1.0,
        "eta, scale of the control variate of `rebar`; 0 is REINFORCE without a baseline",
        least=0,
    )
    released: bool = setting(False, "reproduce the normalisation of the paper's released code")

    def check_used(self) -> None:
        """Rejects what does not go together (UserError); of no concern to soft attention."""
        if self.baseline == "leave_one_out" and self.samples < 2:
            raise UserError(
                "config.hard.baseline 'leave_one_out' needs config.hard.samples of at least 2"
            )
        whole = (self.credit, self.baseline) == ("sequence", "leave_one_out")
        if self.objective == "multi_sample" and not whole:
            raise UserError(
                "config.hard.objective 'multi_sample' needs credit 'sequence' and baseline "
                "'leave_one_out'; set both (with 'to_go' its gradient would be biased)"
            )
        if self.objective != "reinforce" and self.baseline == "learned":
            raise UserError(
                f"config.hard.objective {self.objective!r} trains no baseline: "
                "config.hard.baseline cannot be 'learned'"
            )
        if self.objective != "reinforce" and self.released:
            raise UserError("config.hard.released needs config.hard.objective='reinforce'")
        if self.objective != "marginal" and self.bound:
            raise UserError("config.hard.bound needs config.hard.objective='marginal'")


@dataclass(frozen=True)
class Reward(Group):
    """Training on the scores of sampled captions (`config.reward`)."""

    path: ClassVar[str] = "reward."

    samples: int = setting(
        0, "N, captions sampled per image; 0: train on likelihood", least=0, most=MOST
    )
    cider: float = setting(1.0, "weight of CIDEr-D, which lies in [0, 10]", least=0)
    bleu: float = setting(0.0, "weight of sentence BLEU-4, in [0, 1]", least=0)
    f_mean: float = setting(0.0, "weight of METEOR's F_mean, in [0, 1]", least=0)
    max_length: int = setting(16, "tokens of a sampled caption, <eos> included", least=1, most=MOST)
    likelihood: float = setting(
        0.0, "weight of the references' likelihood beside the reward (Paulus et al. 2018)", least=0
    )

    def check(self) -> None:
        if self.samples == 1:
            raise UserError(
                "config.reward.samples is 1: choose 0 (no reward) or at least 2, since each sample "
                "is compared with the others"
            )
        if self.samples and not any((self.cider, self.bleu, self.f_mean)):
            raise UserError("config.reward.cider, .bleu and .f_mean: at least one must be over 0")
        if self.likelihood and not self.samples:
            raise UserError("config.reward.likelihood needs config.reward.samples of at least 2")


@dataclass(frozen=True)
class Decoder(Group):
    """The LSTM decoder (`config.decoder`)."""

    path: ClassVar[str] = "decoder."

    projection: int = setting(
        512, "D after a linear map of the annotation vectors; 0: as encoded", least=0, most=MOST
    )
    embedding: int = setting(256, "E, size of word vectors", least=1, most=MOST)
    hidden: int = setting(512, "H, LSTM units", least=1, most=MOST)
    dropout: float = setting(
        0.5, "dropout rate on word inputs and on the deep output", least=0, below=1
    )
    annotation_dropout: float = setting(
        0.2, "dropout rate on single features of the annotation vectors", least=0, below=1
    )
    dropout_bits: int = setting(
        8,
        "random bits that decide about a feature: with 8 rates are multiples of 1/256, and "
        "dropout costs a quarter on CPUs",
        choices=(8, 32),
    )
    self_attention: bool = setting(
        False,
        "continue from an attended summary of all states (LSTMN), not from the last one; a caption "
        "begins with a state of zeros, so initial_state hardly matters",
    )
    initial_state: str = setting(
        "mean",
        "h_0 and c_0: of the `mean` annotation vector (as in the paper), `learned`, or `zero`",
        choices=("mean", "learned", "zero"),
    )
    initial_from: tuple[str, ...] = setting(
        (),
        "with initial_state `mean`: stages of the encoder whose mean makes h_0 and c_0, such as a "
        "transformer's `class`; empty: the projected vectors that are read",
    )
    layer_norm: bool = setting(
        False, "normalise every stage's part of an annotation vector to mean 0 and variance 1"
    )
    scene: tuple[str, ...] = setting(
        (), "stages of the encoder whose mean over places enters every prediction; empty: none"
    )
    scene_scale: float = setting(
        1.0, "factor of the scene's features; the smaller, the slower they are learned", above=0
    )
    scene_dropout: float = setting(
        0.5, "probability that training withholds the scene from an image", least=0, below=1
    )
    place_dropout: float = setting(
        0.0,
        "dropout rate on the place's term of the logits, shared by the steps of an image; needs "
        "product_form",
        least=0,
        below=1,
    )
    places_kept: float = setting(
        1.0,
        "share of the places that the decoder sees in likelihood training, drawn for each image "
        "and step",
        above=0,
        most=1,
    )
    deep_output: bool = setting(
        True, "predict words from y_{t-1}, h_t and z_t (eq. 7), not from h_t only"
    )
    output_tanh: bool = setting(
        True, "apply tanh to the deep output's sum, as the released code does"
    )
    product_form: bool = setting(
        False,
        "keep the logits a sum of a term of the state and a term of the place: dropout acts on "
        "the state's term only, there is no tanh around the sum and no gate on what it reads",
    )
    state_tanh: bool = setting(
        False, "apply tanh to the state's term, the scene included; needs product_form"
    )
    gate: bool = setting(True, "scale the context by the gate beta_t")
    tied: bool = setting(True, "use the transposed embedding as output matrix (Press and Wolf)")
    dtype: str = setting(
        "auto",
        "number format of products: `float32`, `bfloat16`, or `auto`, which a run replaces by "
        "whichever is faster on its device when it begins",
        choices=("auto", *FORMATS),
    )

    def check(self) -> None:
        if self.initial_from and self.initial_state != "mean":
            raise UserError(
                "config.decoder.initial_from needs config.decoder.initial_state='mean', not "
                f"{self.initial_state!r}"
            )
        if self.product_form and (self.output_tanh or self.gate or not self.deep_output):
            raise UserError(
                "config.decoder.product_form needs config.decoder.output_tanh=False, .gate=False "
                "and .deep_output=True"
            )
        for name in ("place_dropout", "state_tanh"):
            if getattr(self, name) and not self.product_form:
                raise UserError(f"config.decoder.{name} needs config.decoder.product_form=True")


@dataclass(frozen=True)
class Loss(Group):
    """Terms of the loss besides the likelihood (`config.loss`)."""

    path: ClassVar[str] = "loss."

    doubly_stochastic: float = setting(
        0.005,
        "lambda of sum_i (1 - sum_t alpha_ti)^2, summed over places (eq. 14)",
        least=0,
    )
    label_smoothing: float = setting(
        0.1, "share of each target spread over the vocabulary", least=0, below=1
    )
    teachers: tuple[str, ...] = setting(
        (),
        "models whose distributions over words are learned, too: folders of runs or exported "
        "models, or names of packaged ones, of the same vocabulary and encoder; soft attention "
        "only",
        later=True,
    )
    distillation: float = setting(
        0.5, "the teachers' share of each target", above=0, most=1, later=True
    )


@dataclass(frozen=True)
class Optimizer(Group):
    """The optimizer (`config.optimizer`)."""

    path: ClassVar[str] = "optimizer."

    name: str = setting("adam", "update rule", choices=("adam", "adamw", "rmsprop"))
    learning_rate: float = setting(2e-3, "peak of the schedule", least=0)
    schedule: str = setting("cosine", "shape of the schedule", choices=("constant", "cosine"))
    final: float = setting(0.0, "final rate of `cosine`, as a share of the peak", least=0, most=1)
    warmup_steps: int = setting(100, "steps of linear warm-up", least=0, most=MOST_STEPS)
    weight_decay: float = setting(0.0, "decoupled weight decay of matrices, adamw only", least=0)
    clip_norm: float = setting(5.0, "largest global norm of the gradient; 0: no clipping", least=0)
    average: float = setting(
        0.998, "decay of the running mean of parameters; 0: keep the last ones", least=0, below=1
    )

    def check(self) -> None:
        if self.final and self.schedule == "constant":
            raise UserError("config.optimizer.final needs config.optimizer.schedule='cosine'")
        if self.weight_decay and self.name != "adamw":
            raise UserError("config.optimizer.weight_decay needs config.optimizer.name='adamw'")


@dataclass(frozen=True)
class Train(Group):
    """The training run (`config.train`)."""

    path: ClassVar[str] = "train."

    init_from: str = setting(
        "",
        "what to start from: folder of a run or an exported model, name of a packaged one, or "
        "OWNER/NAME[@REVISION] on the Hugging Face hub; empty: from scratch",
    )
    init_weights: str = setting(
        "best", "which of that run's weights; a model has only one set", choices=("best", "last")
    )
    init_share: float = setting(
        0.0, "share of the initial weights in the evaluated ones", least=0, most=1
    )
    epochs: float = setting(5.0, "passes over the training split; 0.5: half of one", above=0)
    batch_size: int = setting(64, "B, images or sentences per step", least=1, most=MOST)
    rows: int = setting(
        2, "R, rows that the captions of an image are packed into", least=1, most=MOST
    )
    buckets: int = setting(8, "distinct row lengths; each compiles a program", least=1)
    log_every: int = setting(50, "steps between two records of the metrics", least=1)
    checkpoint_every: int = setting(500, "steps between two checkpoints", least=1)
    metric: str = setting("CIDEr", "validation score that picks the best weights")
    patience: int = setting(
        4, "stop after this many validations without a better score; 0: never", least=0
    )
    max_skipped: int = setting(
        20, "stop after this many consecutive steps with a non-finite gradient", least=1
    )


@dataclass(frozen=True)
class Decode(Group):
    """How captions are searched for (`config.decode`)."""

    path: ClassVar[str] = "decode."

    beam: int = setting(
        5,
        "K, beam size; 1: greedy; with search `sample`, captions drawn for each input",
        least=1,
        most=MOST,
    )
    max_length: int = setting(30, "tokens of a caption, <eos> included", least=1, most=MOST)
    length_penalty: float = setting(
        0.7, "exponent of the length that divides a log-probability; 0: none", least=0
    )
    ban_unk: bool = setting(True, "never emit <unk>")
    batch_size: int = setting(50, "images or sentences decoded together", least=1, most=MOST)
    context: str = setting(
        "expected",
        "what a step reads: `expected`, the alpha-weighted mean; `argmax`, the place with the "
        "largest alpha; `sample`, a place drawn from alpha, reproducible per input, step and beam; "
        "`mixture`, every place, their words' distributions averaged by alpha",
        choices=("expected", "argmax", "sample", "mixture"),
    )
    n_best: int = setting(1, "captions to report for each input, best first", least=1)
    min_length: int = setting(1, "tokens that a caption has at least, <eos> included", least=1)
    no_repeat: int = setting(
        0, "n: no caption says the same n tokens in a row twice; 0: any may", least=0
    )
    groups: int = setting(
        1, "G, groups of beams of diverse beam search, which divide the beam; 1: none", least=1
    )
    diversity: float = setting(
        0.5,
        "nats that a word costs a group for each hypothesis of an earlier group that continues "
        "with it; for groups only",
        least=0,
    )
    search: str = setting(
        "beam",
        "`beam` search; or `sample`, captions drawn word by word, ranked by their scores",
        choices=("beam", "sample"),
    )
    temperature: float = setting(
        1.0, "divides log-probabilities before `sample` draws a word; 0.5: sharper", above=0
    )
    top_k: int = setting(0, "most probable words that `sample` draws from; 0: all", least=0)
    top_p: float = setting(
        1.0,
        "`sample` draws from the most probable words that together have this probability, the "
        "nucleus; 1: all",
        above=0,
        most=1,
    )
    seed: int = setting(0, "of the words or places that `sample` draws", least=0, below=2**32)
    consensus: bool = setting(
        False,
        "of the captions found, put that first which agrees most with the others, weighed by their "
        "probabilities, not the most probable one; see `models.consensus`",
        later=True,
    )
    neighbours: int = setting(
        0,
        "similar training pictures whose captions help consensus to choose among the captions "
        "found; needs the training split; 0: none; see `inference.neighbours`",
        least=0,
        later=True,
    )

    def check(self) -> None:
        if self.beam % self.groups:
            raise UserError(
                f"config.decode.beam is {self.beam}: config.decode.groups, {self.groups}, must "
                "divide it"
            )
        if self.n_best > self.beam:
            raise UserError(
                f"config.decode.n_best is {self.n_best}: a beam of {self.beam} has no more than "
                f"{self.beam} captions; raise config.decode.beam"
            )
        if self.min_length > self.max_length:
            raise UserError(
                f"config.decode.min_length is {self.min_length}: it must be at most "
                f"config.decode.max_length, {self.max_length}"
            )
        if self.search == "sample" and self.groups > 1:
            raise UserError(
                "config.decode.groups needs config.decode.search='beam': drawn captions form no "
                "groups"
            )
        if self.neighbours and not self.consensus:
            raise UserError("config.decode.neighbours needs config.decode.consensus=True")
        if self.search == "beam" and (self.temperature, self.top_k, self.top_p) != (1, 0, 1):
            raise UserError(
                "config.decode.temperature, .top_k and .top_p need config.decode.search='sample': "
                "a beam draws nothing"
            )

    @property
    def greedy(self) -> "Decode":
        """The same, but the one caption that always says the most probable word."""
        beam = {"beam": 1, "groups": 1, "n_best": 1}
        plain = {"search": "beam", "temperature": 1.0, "top_k": 0, "top_p": 1.0}
        agreed = {"consensus": False, "neighbours": 0}
        return replace(self, **beam, **plain, **agreed)


@dataclass(frozen=True)
class Settings:
    """All settings of an experiment."""

    data: ImageData | SentenceData
    encoder: ImageEncoder | SentenceEncoder
    attention: Attention = Attention()
    hard: Hard = Hard()
    reward: Reward = Reward()
    decoder: Decoder = Decoder()
    loss: Loss = Loss()
    optimizer: Optimizer = Optimizer()
    train: Train = Train()
    decode: Decode = Decode()
    picture: Picture | None = None  # of data sets that have both sentences and pictures
    seed: int = setting(0, "seed of all random numbers", least=0)

    path: ClassVar[str] = ""

    def __post_init__(self):
        if type(self.seed) is not int or not 0 <= self.seed < 2**63:
            raise UserError(
                f"config.seed is {self.seed!r}: it must be a whole number, at least 0 and below "
                "2**63"
            )
        if self.decode.neighbours and not isinstance(self.encoder, ImageEncoder):
            raise UserError("config.decode.neighbours is for images; for sentences it must be 0")
        if isinstance(self.encoder, ImageEncoder):
            self._check_images(cast(ImageData, self.data), self.encoder)
        elif self.attention.position_code:
            raise UserError("config.attention.position_code is for images, not for sentences")
        elif self.decoder.places_kept < 1:
            raise UserError("config.decoder.places_kept is for images: sentences keep all words")
        else:
            self._check_sentences(cast(SentenceData, self.data), self.encoder)
        if self.decoder.places_kept < 1 and self.attention.window != "global":
            raise UserError(
                "config.decoder.places_kept below 1 needs config.attention.window 'global': a "
                "window has no meaning over scattered places"
            )
        if self.attention.supervision:
            self._check_supervision()
        if self.picture is not None:
            self._check_picture(self.picture)
        if self.draws_places:
            self.hard.check_used()
            self._check_stepwise()
            self._check_place_matters()
            self._check_credit()
        if self.attention.state_reads == "posterior" and not self.decoder.product_form:
            raise UserError(
                "config.attention.state_reads 'posterior' needs config.decoder.product_form=True"
            )
        if self.decode.context == "mixture" and not self.decoder.product_form:
            raise UserError(
                "config.decode.context 'mixture' needs config.decoder.product_form=True"
            )
        if self.draws_places and self.hard.released:
            if self.attention.temperature != 1:
                raise UserError("config.hard.released needs config.attention.temperature=1")
            if self.reward.samples:
                raise UserError("config.hard.released and config.reward.samples exclude each other")
        if self.reward.likelihood and self.attention.hard:
            self._check_trains_nothing_else()
        if self.loss.teachers:
            self._check_taught()

    @property
    def draws_places(self) -> bool:
        """Whether training samples the places that steps read, of words or of a picture."""
        return self.attention.hard or (self.picture is not None and self.picture.kind == "hard")

    def _check_sentences(self, data: SentenceData, encoder: SentenceEncoder) -> None:
        sizes = encoder.embedding, self.decoder.embedding
        if encoder.tied and not (data.joint and sizes[0] == sizes[1]):
            raise UserError(
                "config.encoder.tied shares word vectors of encoder and decoder: it needs "
                "config.data.joint=True and the same config.encoder.embedding and "
                f".decoder.embedding, not {sizes[0]} and {sizes[1]}"
            )

    def _check_picture(self, picture: Picture) -> None:
        if self.attention.score not in ("additive", "concat"):
            raise UserError(
                "config.picture is attended to with additive scores: set config.attention.score to "
                f"'additive' or 'concat', not {self.attention.score!r}"
            )
        reads = self.attention.state_reads
        if reads != "drawn" or self.reward.samples or self.decoder.product_form:
            raise UserError(
                "config.picture goes with config.attention.state_reads='drawn', and without "
                "config.reward.samples and config.decoder.product_form"
            )
        if self.draws_places and self.hard.objective not in ("reinforce", "multi_sample"):
            raise UserError(
                f"config.hard.objective {self.hard.objective!r} knows no second attention: with "
                "config.picture, choose 'reinforce' or 'multi_sample'"
            )

    def _check_taught(self) -> None:
        if self.draws_places:
            raise UserError(
                "config.loss.teachers is for soft attention: with hard attention, leave it empty"
            )
        if self.reward.samples and not self.reward.likelihood:
            raise UserError(
                "config.loss.teachers needs a likelihood to be a part of: set "
                "config.reward.likelihood over 0, or leave it empty"
            )

    def _check_supervision(self) -> None:
        if isinstance(self.data, SentenceData):
            raise UserError(
                "config.attention.supervision is for images: sentences have no boxes; set it to 0"
            )
        if cast(ImageData, self.data).augmented:
            raise UserError(
                "config.attention.supervision cannot follow boxes into config.data.random_crop and "
                ".random_flip; take copies instead (data.mirrored, data.crops)"
            )
        if self.reward.samples:
            raise UserError(
                "config.attention.supervision and config.reward.samples exclude each other: "
                "sampled captions have no boxes"
            )
        exact = self.attention.hard and self.hard.objective in SUMMED_OVER_PLACES
        if self.attention.supervised_map == "posterior" and not (
            exact and self.decoder.product_form
        ):
            raise UserError(
                "config.attention.supervised_map 'posterior' needs "
                "config.decoder.product_form=True and hard attention with config.hard.objective "
                "'marginal', 'top_k' or 'variational'"
            )

    def _check_stepwise(self) -> None:
        objective = self.hard.objective
        if objective not in STEPWISE:
            return
        exact = {"marginal": "", "variational": ", or config.hard.inference='sampled'"}
        if objective == "variational" and self.hard.inference == "sampled":
            del exact["variational"]
        if objective in exact and not self.decoder.product_form:
            raise UserError(
                f"config.hard.objective '{objective}' needs config.decoder.product_form=True"
                f"{exact[objective]}: with another output the sum over places is not a product"
            )
        if not self.decoder.deep_output:
            raise UserError(
                f"config.hard.objective '{objective}' needs config.decoder.deep_output=True: "
                "otherwise words do not depend on the place"
            )
        if self.attention.state_reads == "drawn":
            raise UserError(
                f"config.hard.objective '{objective}' needs config.attention.state_reads other "
                "than 'drawn': a drawn place that the state reads changes all later words"
            )

    def _check_place_matters(self) -> None:
        if not self.decoder.deep_output and self.attention.state_reads != "drawn":
            raise UserError(
                f"config.attention.state_reads {self.attention.state_reads!r} needs "
                "config.decoder.deep_output=True with hard attention: otherwise words do not "
                "depend on the place"
            )

    def _check_credit(self) -> None:
        if self.hard.credit == "word" and self.attention.state_reads == "drawn":
            raise UserError(
                "config.hard.credit 'word' needs config.attention.state_reads other "
                "than 'drawn': a drawn place that the state reads changes all later words"
            )

    def _check_trains_nothing_else(self) -> None:
        variational = self.hard.objective == "variational"
        if variational or self.hard.baseline == "learned":
            kind = ".objective 'variational'" if variational else ".baseline 'learned'"
            raise UserError(
                f"config.reward.likelihood: rewards do not train what config.hard{kind} needs; "
                "choose another"
            )

    def check_start(self) -> None:
        """Rejects settings with which no run can start. An exported model may still have them.

        Raises:
          UserError: a reward or a share of initial weights, but no run to start from.
        """
        if self.train.init_from:
            return
        if self.reward.samples:
            raise UserError(
                "config.reward.samples: rewards teach an untrained model nothing; name a trained "
                "run in config.train.init_from"
            )
        if self.train.init_share:
            raise UserError(
                f"config.train.init_share is {self.train.init_share}: it must be 0 without "
                "config.train.init_from"
            )

    def _check_images(self, data: ImageData, encoder: ImageEncoder) -> None:
        if self.attention.window == "local_m":
            raise UserError(
                "config.attention.window 'local_m' follows the steps through a sentence; on the "
                "grid of an image choose 'local_p' or 'global'"
            )
        if data.augmented and not encoder.trainable_from:
            raise UserError(
                "config.data.random_crop and .random_flip change images from epoch to epoch, but a "
                "frozen encoder's annotation vectors are cached: set "
                "config.encoder.trainable_from, or take copies instead (data.mirrored, data.crops)"
            )
        if encoder.learning_rate and not self.optimizer.learning_rate:
            raise UserError(
                f"config.encoder.learning_rate is {encoder.learning_rate}: it needs a "
                "config.optimizer.learning_rate over 0"
            )


IMAGE_SETS = ("shapes", "flickr8k", "coco", "karpathy", "folder", "webdataset", "hub")
PAIR_SETS = ("multi30k", "reversal")
PICTURED_SETS = ("multi30k_pictures",)
# The groups that depend on the data set: for images, for sentence pairs, or for both.
GROUPS: Mapping[str, Mapping[str, type[Group]]] = {
    **dict.fromkeys(IMAGE_SETS, {"data": ImageData, "encoder": ImageEncoder}),
    **dict.fromkeys(PAIR_SETS, {"data": SentenceData, "encoder": SentenceEncoder}),
    **dict.fromkeys(
        PICTURED_SETS, {"data": PicturedData, "encoder": SentenceEncoder, "picture": Picture}
    ),
}
COMMON: Mapping[str, type[Group]] = {
    group.path.removesuffix("."): group
    for group in (Attention, Hard, Reward, Decoder, Loss, Optimizer, Train, Decode)
}
