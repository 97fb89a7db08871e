"""The captioner's weight trees: names, and taking them apart and together."""

import jax
import jax.numpy as jnp
import numpy as np
import tiny
from flax import nnx

from show_attend_tell.models.captioner import (
    Captioner,
    all_weights,
    frozen_weights,
    split_weights,
    trained_weights,
)
from show_attend_tell.models.encoders.base import Frozen, ImageEncoder, Precomputed


class PartlyFrozen(ImageEncoder):
    def __init__(self):
        self.first = Frozen(jnp.full(2, 3.0))
        self.second = nnx.Param(jnp.ones(2))

    def __call__(self, images):
        return images.astype(jnp.float32).mean(axis=3) * self.first[0]


def same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_weights_are_taken_apart_and_put_together():
    baseline = nnx.Linear(2, 1, rngs=nnx.Rngs(0))
    model = Captioner(PartlyFrozen(), nnx.merge(*tiny.decoder()), baseline)
    trained, frozen = trained_weights(model), frozen_weights(model)
    assert trained.keys() == {"encoder", "decoder", "baseline"}
    assert trained["encoder"].keys() == {"second"} and frozen == {"encoder": frozen["encoder"]}
    whole = all_weights(trained, frozen)
    assert whole["encoder"].keys() == {"first", "second"}
    again, still = split_weights(model, whole)
    same(again, trained)
    same(still, frozen)
    merged = nnx.merge(nnx.graphdef(model), whole)
    same(trained_weights(merged), trained)


def test_with_a_frozen_encoder_the_inputs_are_annotation_vectors():
    model = Captioner(Precomputed(4, (1, 3)), nnx.merge(*tiny.decoder()))
    inputs = jnp.ones((2, 3, 4))
    found = model.annotations(inputs, jax.random.key(0))
    assert found.vectors is inputs and found.mask is None
    assert trained_weights(model).keys() == {"decoder"} and not frozen_weights(model)


def test_training_keeps_some_of_the_places():
    decoder = nnx.merge(*tiny.decoder())
    decoder.places_kept = 0.67
    model = Captioner(Precomputed(4, (1, 3)), decoder)
    inputs = jnp.arange(24.0).reshape(2, 3, 4)
    found = model.annotations(inputs, jax.random.key(0))
    expected = jnp.take_along_axis(inputs, found.numbers[..., None], axis=1)
    np.testing.assert_array_equal(found.vectors, expected)
    assert found.vectors.shape == (2, 2, 4)
    assert model.annotations(inputs).vectors is inputs


def test_an_encoder_turns_images_into_annotation_vectors():
    model = Captioner(PartlyFrozen(), nnx.merge(*tiny.decoder()))
    vectors = model.annotations(jnp.full((2, 3, 3, 3), 5, jnp.uint8)).vectors
    np.testing.assert_array_equal(vectors, np.full((2, 3, 3), 15.0))
