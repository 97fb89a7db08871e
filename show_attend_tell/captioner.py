"""The factory: from a ConfigDict to a typed model. No other module of the model sees a config."""

import math
from typing import Any

from flax import nnx
from jaxtyping import Array, Float, Int, PRNGKeyArray, UInt8
from ml_collections import ConfigDict

from show_attend_tell.decoder import Decoder
from show_attend_tell.encoders import Encoder, make_encoder
from show_attend_tell.errors import UserError
from show_attend_tell.estimators import Estimator, LearnedBaseline, MovingAverage, hard_loss
from show_attend_tell.objectives import soft_loss
from show_attend_tell.rewards import IdfTable
from show_attend_tell.sequence_training import Reward, reward_loss


class Captioner(nnx.Module):
    """An encoder and a decoder.

    Where the encoder is frozen its annotation vectors are computed once, outside of this module:
    `encoder` is then None and `inputs` are annotation vectors; otherwise `inputs` are images.
    With an `estimator` attention is hard, else soft; `baseline` is that of baseline `learned`. With
    a `reward` training is on what drawn captions score, else on the likelihood of the references.
    """

    def __init__(
        self,
        encoder: Encoder | None,
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

    def annotations(
        self, inputs: Float[Array, "B L D"] | UInt8[Array, "B S S 3"]
    ) -> Float[Array, "B L D"]:
        """The annotation vectors a of the inputs."""
        return inputs if self.encoder is None else self.encoder(inputs)

    def loss(
        self,
        inputs: Float[Array, "B L D"] | UInt8[Array, "B S S 3"],
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
        annotations = self.annotations(inputs)
        if self.reward is not None:
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
        loss, report = soft_loss(out.logits, out.alpha, tokens, **weights)
        return loss, report | {"moving_average": moving_average}


def build_encoder(config: ConfigDict) -> Encoder:
    """The encoder that `config.encoder` describes, with its weights."""
    options = config.encoder.to_dict()
    options.pop("trainable")
    name, image_size = options.pop("name"), options.pop("image_size")
    return make_encoder(name, image_size=image_size, rngs=nnx.Rngs(config.seed), **options)


def make_estimator(config: ConfigDict) -> Estimator | None:
    """How hard attention is trained; None where attention is soft or none.

    Raises:
      UserError: a setting of `config.attention.kind` or `config.hard` that this version has not.
    """
    if config.attention.kind not in ("soft", "hard", "none"):
        raise UserError(
            f"config.attention.kind is {config.attention.kind!r}: choose 'soft', 'hard' or 'none'"
        )
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


def build_captioner(config: ConfigDict, encoder: Encoder, vocabulary_size: int) -> Captioner:
    """The model that `config` describes, freshly initialised from `config.seed`.

    Raises:
      UserError: a setting of attention, estimator or reward that this version has not.
    """
    if not config.attention.temperature > 0:
        raise UserError(
            f"config.attention.temperature is {config.attention.temperature}: it must be over 0"
        )
    estimator, reward = make_estimator(config), make_reward(config)
    rngs = nnx.Rngs(config.seed)
    decoder = Decoder(
        vocabulary=vocabulary_size,
        features=encoder.features,
        attention=config.attention.units,
        # Without attention all locations weigh the same: z_t is the mean annotation vector.
        temperature=math.inf if config.attention.kind == "none" else config.attention.temperature,
        rngs=rngs,
        **config.decoder.to_dict(),
    )
    baseline = None
    if estimator is not None and estimator.baseline == "learned" and reward is None:
        sizes = config.decoder
        features = sizes.projection or encoder.features
        baseline = LearnedBaseline(sizes.hidden, features, sizes.embedding, rngs=rngs)
    trained = encoder if config.encoder.trainable else None
    return Captioner(trained, decoder, estimator, baseline, reward)
