"""A step's functions in C++, beside NumPy with float64 and beside XLA."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from show_attend_tell.models import attention, native, products
from show_attend_tell.models.cells import lstm_cell

needs_compiler = pytest.mark.skipif(
    not native.available(), reason="no C++ compiler, or not one CPU device"
)


def drawn(number, *shape):
    return jax.random.normal(jax.random.key(number), shape)


# Units in whole blocks of 64, in parts of one, and both.
@needs_compiler
@pytest.mark.parametrize("units", [64, 7, 131])
def test_scores_and_sums_are_numpys(units):
    B, R, L = 3, 2, 5
    query, keys = jnp.exp(2 * drawn(0, B, R, units)), jnp.exp(2 * drawn(1, B, L, units))
    v, d = drawn(2, units), drawn(3, B, R, L)
    r = 1 / (1 + np.float64(keys)[:, None] * np.float64(query)[:, :, None])
    exact_d = np.float64(d)[..., None]
    plain = attention._query_sums, attention._memory_sums
    scores = jax.jit(lambda q, k, v: native.scores(q, k, v, attention._additive_scores))
    expected = ((1 - 2 * r) * np.float64(v)).sum(-1)
    np.testing.assert_allclose(scores(query, keys, v), expected, atol=2e-5)
    of_query = jax.jit(lambda q, k, d: native.query_sums(q, k, d, plain[0]))(query, keys, d)
    np.testing.assert_allclose(of_query, (exact_d * r * (1 - r)).sum(2), atol=2e-6)
    of_keys, of_v = jax.jit(lambda q, k, d: native.memory_sums(q, k, d, plain[1]))(query, keys, d)
    np.testing.assert_allclose(of_keys, (exact_d * r * (1 - r)).sum(1), atol=2e-6)
    np.testing.assert_allclose(of_v, (exact_d * r).sum((1, 2)), atol=1e-5)


@needs_compiler
def test_overflowing_products_are_saturated_not_nan():
    large = jnp.full((1, 1, 20), 1e34)
    scores = native.scores(large, large, jnp.ones(20), attention._additive_scores)
    np.testing.assert_allclose(scores, 20.0)
    of_query = native.query_sums(large, large, jnp.ones((1, 1, 1)), attention._query_sums)
    np.testing.assert_allclose(of_query, 0.0, atol=1e-20)


@needs_compiler
def test_gradients_are_those_of_xla(monkeypatch):
    query, keys, v, d = (
        drawn(i, *s) for i, s in enumerate([(2, 3, 9), (2, 4, 9), (9,), (2, 3, 4)])
    )

    def gradients():
        given = jnp.exp(query), jnp.exp(keys), v
        scores, pull_back = jax.vjp(attention._additive_scores, *given)
        return scores, *pull_back(d)

    native_ones = gradients()
    monkeypatch.setattr(native, "available", lambda: False)
    for ours, xla in zip(native_ones, gradients(), strict=True):
        np.testing.assert_allclose(ours, xla, rtol=1e-5, atol=1e-5)


# Features in whole blocks of 64, in parts of one, and both.
@needs_compiler
@pytest.mark.parametrize("features", [64, 7, 131])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_vectors_are_combined_and_compared(features, dtype):
    weights, d = drawn(0, 3, 2, 5), drawn(1, 3, 2, features)
    vectors = drawn(2, 3, 5, features).astype(dtype)
    exact = np.float64(vectors.astype(jnp.float32))
    z = jax.jit(lambda w, a: native.combine(w, a, products._batched))(weights, vectors)
    np.testing.assert_allclose(z, np.float64(weights) @ exact, atol=1e-5)
    compared = jax.jit(lambda d, a: native.compare(d, a, refuse_on_accelerators))(d, vectors)
    np.testing.assert_allclose(compared, np.float64(d) @ exact.swapaxes(1, 2), atol=2e-5)


def refuse_on_accelerators(d, vectors):
    return products._batched(d, vectors.swapaxes(1, 2))


@needs_compiler
@pytest.mark.parametrize("units", [16, 5])
def test_the_cell_and_its_gradient_are_those_of_plain_autodiff(units, monkeypatch):
    c, gates = drawn(0, 3, 2, units), 4 * drawn(1, 3, 2, 4 * units)
    gates = gates.at[0, 0, 0].set(1000.0).at[0, 0, 1].set(-1000.0)  # no overflow
    d = drawn(2, 3, 2, units), drawn(3, 3, 2, units)

    def plain(c, gates):
        i, f, o, g = jnp.split(gates, 4, axis=-1)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        return jax.nn.sigmoid(o) * jnp.tanh(c), c

    expected, pull_back = jax.vjp(plain, c, gates)
    for _ in range(2):  # in C++, then by XLA
        got, own_pull_back = jax.vjp(lstm_cell, c, gates)
        for ours, theirs in zip((*got, *own_pull_back(d)), (*expected, *pull_back(d)), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=2e-5, atol=2e-6)
        monkeypatch.setattr(native, "available", lambda: False)


@needs_compiler
def test_the_library_is_that_of_these_sources_and_this_machine(tmp_path, monkeypatch):
    compiler = tmp_path / "c++"
    compiler.write_text('#!/bin/sh\nwhile [ "$1" != -o ]; do shift; done\ntouch "$2"\n')
    compiler.chmod(0o755)
    monkeypatch.setattr(native, "_folder", lambda: tmp_path / "native")
    first = native._built(str(compiler))
    assert native._built(str(compiler)) == first
    monkeypatch.setattr(native.machine, "processor", lambda: "another")
    other = native._built(str(compiler))
    monkeypatch.setattr(native, "HEADERS", native.HEADERS[:1])
    assert len({first, other, native._built(str(compiler))}) == 3


@needs_compiler
def test_several_devices_and_programs_traced_without_have_none(monkeypatch):
    with native.without():
        assert not native.available()
    assert native.available()
    monkeypatch.setattr(jax, "device_count", lambda: 2)
    native._registered.cache_clear()
    try:
        assert not native.available()
    finally:
        native._registered.cache_clear()


def test_without_a_compiler_xla_computes_the_scores(tmp_path):
    program = (
        "import os, logging; from show_attend_tell.models import native;"
        "logging.basicConfig(level=0);"
        "print(native.available())"
    )
    environment = {"PATH": str(tmp_path), "HOME": str(tmp_path), "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"


def test_a_failing_compiler_is_named_once_and_nothing_breaks(tmp_path, monkeypatch, caplog):
    broken = tmp_path / "c++"
    broken.write_text("#!/bin/sh\nexit 3\n")
    broken.chmod(0o755)
    monkeypatch.setenv("CXX", str(broken))
    monkeypatch.setattr(native, "_folder", lambda: tmp_path / "native")
    native._registered.cache_clear()
    try:
        assert not native.available()
    finally:
        native._registered.cache_clear()
    assert "more slowly" in caplog.text and str(broken) in caplog.text
    assert not list((tmp_path / "native").iterdir())
