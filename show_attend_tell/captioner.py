"""The factory: from a ConfigDict to a typed model. No other module of the model sees a config."""

from flax import nnx
from jaxtyping import Array, Float, Int, PRNGKeyArray, UInt8
from ml_collections import ConfigDict

from show_attend_tell.decoder import Decoder, TeacherForced
from show_attend_tell.encoders import Encoder, make_encoder
from show_attend_tell.errors import UserError


class Captioner(nnx.Module):
    """An encoder and a decoder.

    Where the encoder is frozen its annotation vectors are computed once, outside of this module:
    `encoder` is then None and `inputs` are annotation vectors; otherwise `inputs` are images.
    """

    def __init__(self, encoder: Encoder | None, decoder: Decoder):
        self.encoder = encoder
        self.decoder = decoder

    def annotations(
        self, inputs: Float[Array, "B L D"] | UInt8[Array, "B S S 3"]
    ) -> Float[Array, "B L D"]:
        """The annotation vectors a of the inputs."""
        return inputs if self.encoder is None else self.encoder(inputs)

    def __call__(
        self,
        inputs: Float[Array, "B L D"] | UInt8[Array, "B S S 3"],
        tokens: Int[Array, "B R T"],
        key: PRNGKeyArray | None = None,
    ) -> TeacherForced:
        """The decoder over given captions; `key` switches dropout on."""
        return self.decoder(self.annotations(inputs), tokens, key)


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
    if config.attention.kind != "soft":
        raise UserError(
            f"config.attention.kind is {config.attention.kind!r}: this version has 'soft' only"
        )
    decoder = Decoder(
        vocabulary=vocabulary_size,
        features=encoder.features,
        attention=config.attention.units,
        rngs=nnx.Rngs(config.seed),
        **config.decoder.to_dict(),
    )
    return Captioner(encoder if config.encoder.trainable else None, decoder)
