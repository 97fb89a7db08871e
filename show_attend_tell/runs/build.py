"""The factory: from a ConfigDict to a typed model. No other module of the model sees a config."""

from typing import Any

import jax
from flax import nnx
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Array, Float, Int, PRNGKeyArray, UInt8
from ml_collections import ConfigDict

from show_attend_tell import settings
from show_attend_tell.errors import UserError
from show_attend_tell.models.attention import Annotations
from show_attend_tell.models.decoder import Decoder
from show_attend_tell.models.encoders import Encoder, Frozen, make_encoder
from show_attend_tell.models.sentence_encoder import SentenceEncoder
from show_attend_tell.objectives.likelihood import soft_loss
from show_attend_tell.objectives.reinforce import (
    Estimator,
    LearnedBaseline,
    MovingAverage,
    hard_loss,
)
from show_attend_tell.objectives.rewarded import Reward, reward_loss
from show_attend_tell.objectives.rewards import IdfTable

# Annotation vectors, images, or source words.
Inputs = Float[Array, "B L D"] | UInt8[Array, "B S S 3"] | Int[Array, "B S"]
_ENCODER = 0xE4C
_DROP = 0xD09  # the encoder's dropout; the decoder's keys are splits of the step's


class Captioner(nnx.Module):
    """An encoder and a decoder.

    Where the encoder is frozen its annotation vectors are computed once, outside of this module:
    `encoder` is then None and `inputs` are annotation vectors; otherwise `inputs` are images or
    source words, and the encoder's first stages may still be frozen (`frozen_weights`).
    With an `estimator` attention is hard, else soft; `baseline` is that of baseline `learned`. With
    a `reward` training is on what drawn captions score, else on the likelihood of the references.
    """

    def __init__(
        self,
        encoder: Encoder | SentenceEncoder | None,
        decoder: Decoder,
        estimator: Estimator | None = None,
        baseline: LearnedBaseline | None = None,
        reward: Reward | None = None,
    ):
        self.encoder = encoder
        self.decoder = decoder
        self.estimator = estimator
        self.baseline = baseline
        self.reward = reward

    def annotations(self, inputs: Inputs, key: PRNGKeyArray | None = None) -> Annotations:
        """The annotation vectors a; `key` switches the dropout of a sentence encoder on."""
        if isinstance(self.encoder, SentenceEncoder):
            return self.encoder.annotations(inputs, key)
        return Annotations(inputs if self.encoder is None else self.encoder(inputs))

    def loss(
        self,
        inputs: Inputs,
        tokens: Int[Array, "B R T"],
        key: PRNGKeyArray,
        moving_average: MovingAverage,
        step: Int[Array, ""] | int = 0,
        table: IdfTable | None = None,
        *,
        doubly_stochastic: float,
        label_smoothing: float,
    ) -> tuple[Float[Array, ""], dict[str, Any]]:
        """The training loss and what to report of it, the next moving average among it.

        See `objectives.soft_loss`, `estimators.hard_loss` and, where there is a reward (which
        needs the `table` of the training captions), `sequence_training.reward_loss`, on which
        dropout, label smoothing and a learned baseline have no effect.
        """
        rewarded = self.reward is not None
        annotations = self.annotations(inputs, None if rewarded else jax.random.fold_in(key, _DROP))
        if rewarded:
            assert table is not None
            loss, report = reward_loss(
                self.decoder,
                annotations,
                tokens,
                key,
                self.reward,
                table,
                self.estimator,
                doubly_stochastic=doubly_stochastic,
            )
            return loss, report | {"moving_average": moving_average}
        weights = {"doubly_stochastic": doubly_stochastic, "label_smoothing": label_smoothing}
        if self.estimator is not None:
            return hard_loss(
                self.decoder,
                annotations,
                tokens,
                key,
                moving_average,
                self.estimator,
                step=step,
                learned=self.baseline,
                **weights,
            )
        out = self.decoder(annotations, tokens, key)
        loss, report = soft_loss(out.logits, out.alpha, tokens, mask=annotations.mask, **weights)
        return loss, report | {"moving_average": moving_average}


def trained_weights(model: Captioner) -> dict[str, Any]:
    """The weights that training changes, nested by module; they alone are checkpointed."""
    return nnx.to_pure_dict(nnx.state(model, nnx.Param))


def frozen_weights(model: Captioner) -> dict[str, Any]:
    """The pretrained weights of an encoder's frozen stages, where others of it are trained."""
    return nnx.to_pure_dict(nnx.state(model, Frozen))


def all_weights(trained: Any, frozen: Any) -> dict[str, Any]:
    """Both together, which `nnx.merge` makes a model of."""
    return unflatten_dict(flatten_dict(frozen) | flatten_dict(trained))


def split_weights(model: Captioner, weights: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """The trained ones and the frozen ones of `all_weights`."""
    names, flat = flatten_dict(trained_weights(model)).keys(), flatten_dict(weights)
    trained = {name: value for name, value in flat.items() if name in names}
    frozen = {name: value for name, value in flat.items() if name not in names}
    return unflatten_dict(trained), unflatten_dict(frozen)


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
        sentences = settings.SentenceEncoder(**options)
        return SentenceEncoder(sentences, vocabulary=source_words, rngs=rngs)
    return make_encoder(settings.ImageEncoder(**options), rngs=nnx.Rngs(config.seed))


def _check_attention(config: ConfigDict) -> None:
    attention = config.attention
    for key, known in {
        "kind": ("soft", "hard", "none"),
        "score": settings.SCORES,
        "window": settings.WINDOWS,
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


def make_estimator(config: ConfigDict) -> Estimator | None:
    """How hard attention is trained; None where attention is soft or none.

    Raises:
      UserError: a setting of `config.attention` or `config.hard` that this version has not.
    """
    _check_attention(config)
    if config.attention.kind != "hard":
        return None
    estimator = Estimator(**config.hard.to_dict())
    if estimator.released and config.attention.temperature != 1:
        raise UserError("config.hard.released goes with config.attention.temperature=1 alone")
    if estimator.released and config.reward.samples:
        raise UserError("config.hard.released and config.reward.samples do not go together")
    return estimator


def make_reward(config: ConfigDict) -> Reward | None:
    """How captions are rewarded; None where training is on the likelihood of the references.

    Raises:
      UserError: a setting of `config.reward` that this version has not.
    """
    return Reward(**config.reward.to_dict()) if config.reward.samples else None


def build_captioner(
    config: ConfigDict, encoder: Encoder | SentenceEncoder, vocabulary_size: int
) -> Captioner:
    """The model that `config` describes, freshly initialised from `config.seed`.

    Raises:
      UserError: a setting of attention, estimator or reward that this version has not.
    """
    estimator, reward = make_estimator(config), make_reward(config)
    rngs = nnx.Rngs(config.seed)
    decoder = Decoder(
        settings.Decoder(**config.decoder.to_dict()),
        settings.Attention(**config.attention.to_dict()),
        vocabulary=vocabulary_size,
        features=encoder.features,
        grid=encoder.grid,
        rngs=rngs,
    )
    baseline = None
    if estimator is not None and estimator.baseline == "learned" and reward is None:
        sizes = config.decoder
        features = sizes.projection or encoder.features
        baseline = LearnedBaseline(sizes.hidden, features, sizes.embedding, rngs=rngs)
    sentences = isinstance(encoder, SentenceEncoder)
    trained = encoder if sentences or config.encoder.trainable_from else None
    return Captioner(trained, decoder, estimator, baseline, reward)
