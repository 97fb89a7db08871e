"""The factory: from a ConfigDict to a typed model. No other module of the model sees a config."""

from typing import Any

from flax import nnx
from jaxtyping import Array, Float, Int, PRNGKeyArray, UInt8
from ml_collections import ConfigDict

from show_attend_tell.decoder import Decoder, same_caption
from show_attend_tell.encoders import Encoder, make_encoder
from show_attend_tell.errors import UserError
from show_attend_tell.estimators import Estimator, LearnedBaseline, MovingAverage, hard_loss
from show_attend_tell.objectives import soft_loss


class Captioner(nnx.Module):
    """An encoder and a decoder.

    Where the encoder is frozen its annotation vectors are computed once, outside of this module:
    `encoder` is then None and `inputs` are annotation vectors; otherwise `inputs` are images.
    With an `estimator` attention is hard, else soft; `baseline` is that of baseline `learned`.
    """

    def __init__(
        self,
        encoder: Encoder | None,
        decoder: Decoder,
        estimator: Estimator | None = None,
        baseline: LearnedBaseline | None = None,
    ):
        self.encoder = encoder
        self.decoder = decoder
        self.estimator = estimator
        self.baseline = baseline

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
        *,
        doubly_stochastic: float,
        label_smoothing: float,
    ) -> tuple[Float[Array, ""], dict[str, Any]]:
        """The training loss and what to report of it, the next moving average among it.

        See `objectives.soft_loss` and `estimators.hard_loss`.
        """
        weights = {"doubly_stochastic": doubly_stochastic, "label_smoothing": label_smoothing}
        annotations = self.annotations(inputs)
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
        loss, report = soft_loss(out.logits, out.alpha, tokens, same_caption(tokens), **weights)
        return loss, report | {"moving_average": moving_average}


def build_encoder(config: ConfigDict) -> Encoder:
    """The encoder that `config.encoder` describes, with its weights."""
    options = config.encoder.to_dict()
    options.pop("trainable")
    name, image_size = options.pop("name"), options.pop("image_size")
    return make_encoder(name, image_size=image_size, rngs=nnx.Rngs(config.seed), **options)


def build_captioner(config: ConfigDict, encoder: Encoder, vocabulary_size: int) -> Captioner:
    """The model that `config` describes, freshly initialised from `config.seed`.

    Raises:
      UserError: `config.attention.kind` is not one that this version has.
    """
    if config.attention.kind not in ("soft", "hard"):
        raise UserError(
            f"config.attention.kind is {config.attention.kind!r}: choose 'soft' or 'hard'"
        )
    if not config.attention.temperature > 0:
        raise UserError(
            f"config.attention.temperature is {config.attention.temperature}: it must be over 0"
        )
    rngs = nnx.Rngs(config.seed)
    decoder = Decoder(
        vocabulary=vocabulary_size,
        features=encoder.features,
        attention=config.attention.units,
        temperature=config.attention.temperature,
        rngs=rngs,
        **config.decoder.to_dict(),
    )
    estimator, baseline = None, None
    if config.attention.kind == "hard":
        estimator = Estimator(**config.hard.to_dict())
        if estimator.baseline == "learned":
            sizes = config.decoder
            features = sizes.projection or encoder.features
            baseline = LearnedBaseline(sizes.hidden, features, sizes.embedding, rngs=rngs)
    trained = encoder if config.encoder.trainable else None
    return Captioner(trained, decoder, estimator, baseline)
