"""The captioner: an encoder, a decoder, and the trees that hold their weights."""

from dataclasses import replace

import jax
from flax import nnx
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree, UInt8

from show_attend_tell.models.attention import Annotations
from show_attend_tell.models.decoder import Decoder
from show_attend_tell.models.encoders import Encoder, Frozen

_PLACES = 0x91C  # folded into the key: which places training keeps

# Annotation vectors, also in packed rows (see `encoders.pooling`), images, or source words.
Inputs = Float[Array, "B L D"] | Float[Array, "B n"] | UInt8[Array, "B S S 3"] | Int[Array, "B S"]


class Captioner(nnx.Module):
    """An encoder and a decoder.

    Args:
      encoder: what turns inputs into annotation vectors; `Precomputed` where they are computed
        once, outside of this module. The first stages of a trained encoder may still be frozen
        (see `frozen_weights`).
      decoder: what turns annotation vectors into words.
      baseline: an auxiliary module of the objective, trained with the rest. Neither encoder nor
        decoder uses it.
    """

    def __init__(self, encoder: Encoder, decoder: Decoder, baseline: nnx.Module | None = None):
        self.encoder = encoder
        self.decoder = decoder
        self.baseline = baseline

    def annotations(self, inputs: Inputs, key: PRNGKeyArray | None = None) -> Annotations:
        """The annotation vectors a.

        `key` switches the encoder's dropout on, if it has any, and draws the places that training
        keeps (`config.decoder.places_kept`).
        """
        annotations = self.encoder.annotations(inputs, key)
        if key is None:
            return annotations
        return annotations.some(self.decoder.places_kept, jax.random.fold_in(key, _PLACES))


def speaking(model: Captioner, language: int | None) -> Captioner:
    """The same model, whose captions are all in one language; None: rows take turns."""
    made = nnx.merge(*nnx.split(model))
    made.decoder.starts = replace(made.decoder.starts, language=language)
    return made


def trained_weights(model: Captioner) -> dict[str, PyTree]:
    """The weights that training changes, nested by module. Checkpoints hold only these."""
    return nnx.to_pure_dict(nnx.state(model, nnx.Param))


def frozen_weights(model: Captioner) -> dict[str, PyTree]:
    """The pretrained weights of the frozen stages of a partly trained encoder."""
    return nnx.to_pure_dict(nnx.state(model, Frozen))


def all_weights(trained: PyTree, frozen: PyTree) -> dict[str, PyTree]:
    """Trained and frozen weights in one tree, which `nnx.merge` makes into a model."""
    return unflatten_dict(flatten_dict(frozen) | flatten_dict(trained))


def split_weights(model: Captioner, weights: PyTree) -> tuple[dict[str, PyTree], dict[str, PyTree]]:
    """The inverse of `all_weights`: trained and frozen weights apart."""
    names, flat = flatten_dict(trained_weights(model)).keys(), flatten_dict(weights)
    trained = {name: value for name, value in flat.items() if name in names}
    frozen = {name: value for name, value in flat.items() if name not in names}
    return unflatten_dict(trained), unflatten_dict(frozen)
