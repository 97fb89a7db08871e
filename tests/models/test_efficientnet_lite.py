"""Which stages of EfficientNet-Lite are computed in C++, and what bfloat16 changes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from show_attend_tell import settings
from show_attend_tell.models import native
from show_attend_tell.models.encoders import make_encoder

NATIVE = ("stem", "inverted_residual")  # functions in C++


def make(name, size, **options):
    options = settings.ImageEncoder(name=name, image_size=size, **options)
    return make_encoder(options, seed=0)


def random_images(count, size):
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 3), np.uint8)


def test_only_frozen_stages_are_computed_in_cpp(monkeypatch):
    images = jnp.zeros((1, 32, 32, 3), jnp.uint8)
    monkeypatch.setattr(native, "available", lambda: True)

    def calls(**options):
        encoder = make("efficientnet_lite0", 32, endpoints=("stage3",), **options)
        traced = str(jax.make_jaxpr(lambda images: encoder(images))(images))
        return [traced.count(f"target_name=show_attend_tell_{name}") for name in NATIVE]

    assert calls() == [1, 1 + 2 + 2]
    assert calls(trainable_from="stage3") == [1, 1 + 2]
    assert calls(trainable_from="all") == [0, 0]
    monkeypatch.setattr(native, "available", lambda: False)
    assert calls() == [0, 0]


@pytest.mark.parametrize("in_cpp", [True, False])
def test_products_in_bfloat16_change_vectors_by_little(in_cpp, monkeypatch):
    if not in_cpp:
        monkeypatch.setattr(native, "available", lambda: False)
        monkeypatch.setattr(native, "matrix_units", lambda: False)
    images = jnp.asarray(random_images(1, 32))
    options = {"endpoints": ("stage3",), "grid_stride": 8}
    encode = nnx.jit(lambda encoder, images: encoder(images))
    exact, rounded = (
        np.asarray(encode(make("efficientnet_lite0", 32, dtype=dtype, **options), images))
        for dtype in ("float32", "bfloat16")
    )
    error = np.sqrt(np.mean((rounded - exact) ** 2) / np.mean(exact**2))
    assert 1e-4 < error < 2e-2
    assert rounded.dtype == np.float32
