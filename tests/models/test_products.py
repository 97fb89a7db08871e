"""Products in a number format, beside NumPy's products of the same rounded numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from show_attend_tell.models import native, products

FORMATS = ["float32", "bfloat16"]


def drawn(number, *shape):
    # By NumPy: of JAX, each shape would be a program.
    return jnp.asarray(np.random.default_rng(number).standard_normal(shape), jnp.float32)


def rounded(x, dtype):
    return np.asarray(x.astype(dtype).astype(jnp.float32))


@pytest.mark.parametrize("dtype", FORMATS)
def test_matmul_and_both_its_gradients(dtype):
    x, matrix, d = drawn(0, 2, 3, 8), drawn(1, 8, 5).astype(dtype), drawn(2, 2, 3, 5)
    y, pull_back = jax.vjp(products.matmul, x, matrix)
    d_x, d_matrix = pull_back(d)
    exact_x, exact, exact_d = rounded(x, dtype), rounded(matrix, dtype), rounded(d, dtype)
    assert y.dtype == d_x.dtype == jnp.float32
    assert d_matrix.dtype == matrix.dtype
    np.testing.assert_allclose(y, exact_x @ exact, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(d_x, exact_d @ exact.T, rtol=1e-5, atol=1e-5)
    expected = np.einsum("abi,abj->ij", exact_x, exact_d)
    np.testing.assert_allclose(
        d_matrix.astype(jnp.float32),
        expected,
        rtol=1e-2 if dtype == "bfloat16" else 1e-5,
        atol=1e-5,
    )


def test_matmul_with_the_transposed_matrix_given():
    x, matrix, d = drawn(0, 3, 8), drawn(1, 8, 5).astype("bfloat16"), drawn(2, 3, 5)
    plain, pull_back = jax.vjp(lambda x: products.matmul(x, matrix), x)
    given, pull_back_given = jax.vjp(lambda x: products.matmul(x, matrix, matrix.T), x)
    np.testing.assert_array_equal(given, plain)
    np.testing.assert_allclose(pull_back_given(d)[0], pull_back(d)[0], rtol=1e-6)


@pytest.mark.parametrize("dtype", FORMATS)
def test_a_layer_adds_its_bias_and_has_unrounded_gradients(dtype):
    layer = products.Linear(8, 5, dtype=jnp.dtype(dtype), rngs=nnx.Rngs(0))
    layer.bias[...] = drawn(3, 5)
    x, d = drawn(0, 2, 3, 8), drawn(2, 2, 3, 5)
    graph, state = nnx.split(layer)
    y, pull_back = jax.vjp(lambda state: nnx.merge(graph, state)(x), state)
    gradients = pull_back(d)[0]
    kernel, bias = layer.kernel[...], np.asarray(layer.bias[...])
    expected = rounded(x, dtype) @ rounded(kernel, dtype) + bias
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)
    d_kernel = np.einsum("abi,abj->ij", rounded(x, dtype), rounded(d, dtype))
    np.testing.assert_allclose(gradients["kernel"][...], d_kernel, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(gradients["bias"][...], d.sum((0, 1)), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", FORMATS)
def test_an_embedding_attends_to_all_words(dtype):
    embedding = products.Embedding(7, 8, product_dtype=jnp.dtype(dtype), rngs=nnx.Rngs(0))
    query, d = drawn(0, 3, 8), drawn(1, 3, 7)
    vectors = embedding.embedding[...]
    graph, state = nnx.split(embedding)
    logits, pull_back = jax.vjp(lambda s, q: nnx.merge(graph, s).attend(q), state, query)
    d_state, d_query = pull_back(d)
    exact, exact_d = rounded(vectors, dtype), rounded(d, dtype)
    np.testing.assert_allclose(logits, rounded(query, dtype) @ exact.T, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(d_query, exact_d @ exact, rtol=1e-5, atol=1e-5)
    d_vectors = d_state["embedding"][...]
    np.testing.assert_allclose(d_vectors, exact_d.T @ rounded(query, dtype), rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(embedding(jnp.array([2]))[0], vectors[2])  # not rounded


@pytest.mark.parametrize("dtype", FORMATS)
def test_sums_over_places_and_inner_products_with_them(dtype):
    weights, vectors, x = drawn(0, 2, 3, 5), drawn(1, 2, 5, 8).astype(dtype), drawn(2, 2, 3, 8)
    exact = rounded(vectors, dtype)
    z, of_combine = jax.vjp(products.combine, weights, vectors)
    e, of_compare = jax.vjp(products.compare, x, vectors)
    np.testing.assert_allclose(z, rounded(weights, dtype) @ exact, rtol=1e-5, atol=1e-5)
    inner = rounded(x, dtype) @ exact.swapaxes(1, 2)
    np.testing.assert_allclose(e, inner, rtol=1e-5, atol=1e-5)
    # The gradients of each are the other, and sums over rows.
    rough = {"rtol": 1e-2, "atol": 1e-2} if dtype == "bfloat16" else {"rtol": 1e-5, "atol": 1e-5}
    d_weights, d_vectors = of_combine(x)
    np.testing.assert_allclose(d_weights, inner, rtol=1e-5, atol=1e-5)
    expected = np.einsum("brl,brd->bld", rounded(weights, dtype), rounded(x, dtype))
    np.testing.assert_allclose(d_vectors.astype(jnp.float32), expected, **rough)
    d_x, d_compared = of_compare(weights)
    np.testing.assert_allclose(d_x, rounded(weights, dtype) @ exact, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(d_compared.astype(jnp.float32), expected, **rough)
    turned = vectors.swapaxes(1, 2)
    given, of_given = jax.vjp(lambda w: products.combine(w, vectors, turned), weights)
    # In C++ only the vectors are rounded.
    near = rough if native.available() else {"rtol": 1e-6, "atol": 1e-6}
    np.testing.assert_allclose(given, z, **near)
    np.testing.assert_allclose(of_given(x)[0], d_weights, **near | {"atol": 3e-2})


def test_products_of_a_training_step_stay_in_bfloat16_on_cpus():
    def loss(x, matrix):
        return jnp.square(products.matmul(x, matrix)).sum()

    x, matrix = drawn(0, 64, 32), drawn(1, 32, 48).astype("bfloat16")
    compiled = jax.jit(jax.grad(loss, (0, 1))).lower(x, matrix).compile().as_text()
    dots = [line for line in compiled.splitlines() if " dot(" in line]
    assert len(dots) == 3  # one forward, two backward
    widened = [line for line in dots if "f32[64,32]" in line.split("dot(")[1]]
    if jax.default_backend() == "cpu":
        assert not widened and "convert(f32" not in compiled.replace(" ", "")
        assert not any("contracting_dims={0}, rhs" in line for line in dots)  # none transposed
