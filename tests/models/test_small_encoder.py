"""The small encoder: shapes, gradients and receptive fields."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from show_attend_tell import settings
from show_attend_tell.models.encoders import make_encoder

encode = nnx.jit(lambda encoder, images: encoder(images))


def make(size, **options):
    options = settings.ImageEncoder(name="small", image_size=size, **options)
    return make_encoder(options, seed=0)


def random_images(count, size):
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 3), np.uint8)


def test_small_shapes_and_position():
    encoder = make(64, features=32)
    vectors = np.asarray(encode(encoder, np.full((2, 64, 64, 3), 90, np.uint8)))
    assert encoder.grid == (8, 8) and encoder.features == 32
    assert vectors.shape == (2, 64, 32)
    # Two inner locations of a blank image see the same pixels: only their position differs.
    inner = vectors[0].reshape(8, 8, 32)[3, 3:5]
    assert np.abs(inner[0] - inner[1]).max() > 0.01


def test_gradient_reaches_every_parameter_of_small():
    encoder = make(32, features=16, trainable_from="all")
    direction = jax.random.normal(jax.random.key(0), (1, encoder.grid[0] ** 2, encoder.features))
    loss = nnx.jit(nnx.grad(lambda encoder, images: (encoder(images) * direction).sum()))
    for path, gradient in nnx.to_flat_state(loss(encoder, random_images(1, 32))):
        assert jnp.isfinite(gradient[...]).all() and jnp.abs(gradient[...]).max() > 0, path


def test_fields_are_the_middles_of_receptive_fields():
    # Invert one row of the image at a time: which rows does location (3, 2) see?
    encoder, image = make(64), random_images(1, 64)
    inverted = np.where(np.eye(64, dtype=bool)[:, :, None, None], 255 - image, image)
    location = 3 * 8 + 2
    change = np.asarray(encode(encoder, inverted) - encode(encoder, image))[:, location]
    seen = np.flatnonzero(np.abs(change).max(axis=1) > 1e-4)
    assert (seen[0] + seen[-1] + 1) / 2 / 64 == encoder.fields[3]
