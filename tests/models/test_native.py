"""A step's functions in C++, beside NumPy with float64 and beside XLA."""

import subprocess
import sys
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from show_attend_tell.models import attention, native

needs_compiler = pytest.mark.skipif(
    not native.available(), reason="no C++ compiler, or not one CPU device"
)


def drawn(number, *shape):
    # By NumPy: of JAX, each shape would be a program.
    return jnp.asarray(np.random.default_rng(number).standard_normal(shape), jnp.float32)


# Units in whole blocks of 64, in parts of one, and both.
@needs_compiler
@pytest.mark.parametrize("units", [64, 7, 131])
def test_sums_for_the_memory_are_numpys(units):
    B, R, L = 3, 2, 5
    query, keys = jnp.exp(2 * drawn(0, B, R, units)), jnp.exp(2 * drawn(1, B, L, units))
    d = drawn(3, B, R, L)
    r = 1 / (1 + np.float64(keys)[:, None] * np.float64(query)[:, :, None])
    exact_d = np.float64(d)[..., None]
    plain = attention._memory_sums
    of_keys, of_v = jax.jit(lambda q, k, d: native.memory_sums(q, k, d, plain))(query, keys, d)
    np.testing.assert_allclose(of_keys, (exact_d * r * (1 - r)).sum(1), atol=2e-6)
    np.testing.assert_allclose(of_v, (exact_d * r).sum((1, 2)), atol=1e-5)


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
def test_small_numbers_stay_what_they_are():
    if not native.available():
        pytest.skip("no compiler")
    assert np.float32(1e-39) * np.float32(1) > 0 and float("5e-324") > 0
    found = []
    thread = threading.Thread(target=lambda: found.append(float("5e-324")))
    thread.start()
    thread.join()
    assert found[0] > 0


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


def test_a_compiler_that_is_not_there_is_named(monkeypatch, caplog):
    monkeypatch.setenv("CXX", "g++-99")
    native._registered.cache_clear()
    try:
        assert not native.available()
    finally:
        native._registered.cache_clear()
    assert "more slowly: CXX names no program (g++-99)" in caplog.text


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
    assert {path.suffix for path in (tmp_path / "native").iterdir()} == {".lock"}
