"""What all encoders share: annotations, and where receptive fields lie."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from show_attend_tell import settings
from show_attend_tell.models.encoders import Precomputed, make_encoder
from show_attend_tell.models.encoders.base import field_centres


def make_small():
    options = settings.ImageEncoder(name="small", image_size=16, features=8)
    return make_encoder(options, seed=0)


def test_every_encoder_gives_annotations():
    encoder, images = make_small(), jnp.full((2, 16, 16, 3), 90, jnp.uint8)
    vectors, mask, *_ = encoder.annotations(images, jax.random.key(0))
    np.testing.assert_array_equal(vectors, encoder(images))
    assert mask is None
    precomputed = Precomputed(encoder.features, encoder.grid)
    again, mask, *_ = precomputed.annotations(vectors)
    assert again is vectors and mask is None
    assert not jax.tree.leaves(nnx.state(precomputed))


def test_fields_by_hand():
    # Padded alike at both ends, a field's middle stays on the pixel it began with.
    halved = ((7, 2, 3), *[(3, 2, 1)] * 4)
    np.testing.assert_allclose(field_centres(250, halved), (0.5 + 32 * np.arange(8)) / 250)
    # Pooled without padding it moves to the middle of its pixels: 250, 125, 62, 31, 15.
    pooled = [(2, 2, 0)] * 4
    np.testing.assert_allclose(field_centres(250, pooled), (8 + 16 * np.arange(15)) / 250)
