"""The factory: from a ConfigDict to a typed model. No other module of the model sees a config."""

import math

import jax
from flax import nnx
from ml_collections import ConfigDict

from show_attend_tell.errors import UserError
from show_attend_tell.models.attention import SCORES, WINDOWS
from show_attend_tell.models.captioner import Captioner
from show_attend_tell.models.decoder import Decoder
from show_attend_tell.models.encoders import Encoder, make_encoder
from show_attend_tell.models.sentence_encoder import SentenceEncoder
from show_attend_tell.objectives.baselines import LearnedBaseline
from show_attend_tell.objectives.likelihood import Likelihood
from show_attend_tell.objectives.objective import Objective
from show_attend_tell.objectives.reinforce import Reinforce
from show_attend_tell.objectives.rewarded import Rewarded
from show_attend_tell.objectives.rewards import IdfTable
from show_attend_tell.settings import Hard, Loss, Reward

_ENCODER = 0xE4C


def build_encoder(config: ConfigDict, source_words: int = 0) -> Encoder | SentenceEncoder:
    """The encoder that `config.encoder` describes, with its weights.

    Args:
      config: of the experiment.
      source_words: size of the source's vocabulary, for encoders of sentences.
    """
    options = config.encoder.to_dict()
    if source_words:
        # Other numbers than the decoder's, which the seed itself draws.
        rngs = nnx.Rngs(jax.random.fold_in(jax.random.key(config.seed), _ENCODER))
        return SentenceEncoder(vocabulary=source_words, rngs=rngs, **options)
    options.pop("learning_rate", None)  # of the optimizer
    name, image_size = options.pop("name"), options.pop("image_size")
    return make_encoder(name, image_size=image_size, rngs=nnx.Rngs(config.seed), **options)


def _check_attention(config: ConfigDict) -> None:
    attention = config.attention
    for key, known in {
        "kind": ("soft", "hard", "none"),
        "score": SCORES,
        "window": WINDOWS,
        "order": ("previous", "current"),
    }.items():
        if attention[key] not in known:
            choices = ", ".join(map(repr, known))
            raise UserError(
                f"config.attention.{key} is {attention[key]!r}: choose one of {choices}"
            )
    if not attention.temperature > 0:
        raise UserError(f"config.attention.temperature is {attention.temperature}: must be over 0")
    if attention.reach < 1:
        raise UserError(f"config.attention.reach is {attention.reach}: it must be at least 1")
    if attention.kind == "none" and attention.window != "global":
        raise UserError("config.attention.kind 'none' has no window: set .window to 'global'")
    if attention.window == "local_m" and "image_size" in config.encoder:
        raise UserError(
            "config.attention.window 'local_m' follows the steps through a sentence; on the grid "
            "of an image choose 'local_p' or 'global'"
        )


def objective_settings(config: ConfigDict) -> tuple[Hard | None, Reward | None]:
    """The settings of hard attention and of the reward; None for what an experiment does not use.

    Raises:
      UserError: a value of `config.attention`, `config.hard` or `config.reward` is out of range.
    """
    _check_attention(config)
    reward = Reward(**config.reward.to_dict())
    hard = Hard(**config.hard.to_dict()) if config.attention.kind == "hard" else None
    if hard is not None and hard.released:
        if config.attention.temperature != 1:
            raise UserError("config.hard.released needs config.attention.temperature=1")
        if reward.samples:
            raise UserError("config.hard.released and config.reward.samples do not go together")
    return hard, reward if reward.samples else None


def make_objective(config: ConfigDict, table: IdfTable | None = None) -> Objective:
    """What the experiment minimises; a reward needs the `table` of the training captions.

    Raises:
      UserError: see `objective_settings`.
    """
    hard, reward = objective_settings(config)
    loss = Loss(**config.loss.to_dict())
    if reward is not None:
        assert table is not None
        return Rewarded(reward, hard, loss, table)
    return Likelihood(loss) if hard is None else Reinforce(hard, loss)


def build_captioner(
    config: ConfigDict, encoder: Encoder | SentenceEncoder, vocabulary_size: int
) -> Captioner:
    """The model that `config` describes, freshly initialised from `config.seed`.

    Raises:
      UserError: a setting of attention, hard or reward that this version has not.
    """
    features = config.decoder.projection or encoder.features
    if config.attention.score == "dot" and features != config.decoder.hidden:
        raise UserError(
            f"config.attention.score 'dot' multiplies {features} features by the "
            f"{config.decoder.hidden} units of the state: set config.decoder.projection="
            f"{config.decoder.hidden}"
        )
    hard, reward = objective_settings(config)
    rngs = nnx.Rngs(config.seed)
    decoder = Decoder(
        vocabulary=vocabulary_size,
        features=encoder.features,
        attention=config.attention.units,
        score=config.attention.score,
        window=config.attention.window,
        reach=config.attention.reach,
        # Without attention all locations weigh the same: z_t is the mean annotation vector.
        temperature=math.inf if config.attention.kind == "none" else config.attention.temperature,
        grid=encoder.grid,
        renormalise=hard is not None,
        order=config.attention.order,
        rngs=rngs,
        **config.decoder.to_dict(),
    )
    baseline = None
    if hard is not None and hard.baseline == "learned" and reward is None:
        sizes = config.decoder
        features = sizes.projection or encoder.features
        baseline = LearnedBaseline(sizes.hidden, features, sizes.embedding, rngs=rngs)
    sentences = isinstance(encoder, SentenceEncoder)
    trained = encoder if sentences or config.encoder.trainable_from else None
    return Captioner(trained, decoder, baseline)
