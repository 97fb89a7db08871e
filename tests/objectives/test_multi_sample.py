"""The multi-sample bound and its learning signals, against loops in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from show_attend_tell.objectives.multi_sample import multi_sample_bound, multi_sample_terms

EOS = 2


def signals(log_p):
    """Mnih and Rezende 2016, eq. 9 and 10, of one caption's N log-likelihoods."""
    n = len(log_p)
    bound = np.log(np.mean(np.exp(log_p)))
    found = []
    for own in range(n):
        others = np.delete(log_p, own)
        geometric = np.exp(others.mean())
        found.append(bound - np.log((np.exp(others).sum() + geometric) / n))
    return bound, np.array(found)


def test_bound_and_signals_of_three_samples():
    # With two samples the arithmetic, the geometric and any other mean of the others are the same.
    log_p = np.log([1 / 8, 1 / 2, 1 / 64])
    bound, signal = multi_sample_bound(jnp.asarray(log_p, jnp.float32)[None])
    wanted_bound, wanted = signals(log_p)
    assert float(bound[0]) == pytest.approx(wanted_bound, rel=1e-6)
    np.testing.assert_allclose(signal[0], wanted, rtol=1e-5)
    # The first by hand: the others are 1/2 and 1/64, whose geometric mean is 1/sqrt(128).
    by_hand = np.log(41 / 64) - np.log(33 / 64 + 128**-0.5)
    assert float(signal[0, 0]) == pytest.approx(by_hand, rel=1e-5)


def test_what_is_subtracted_does_not_depend_on_the_own_sample():
    def without(own):
        log_p = jnp.array([[own, -1.0, -3.0]])
        bound, signal = multi_sample_bound(log_p)
        return bound[0] - signal[0, 0]

    for own in (-9.0, -0.1):
        assert float(jax.grad(without)(own)) == pytest.approx(0.0, abs=1e-6)


def test_terms_count_a_caption_once_and_scale_by_the_samples():
    # Two captions in a row, two samples; the likelihood stands at all steps of a caption.
    tokens = jnp.array([[[4, EOS, EOS, 0]]])
    first, second = np.array([-1.0, -3.0]), np.array([-0.5, -2.0])
    likelihood = np.stack([first, first, second, [0.0, 0.0]], axis=1)
    total, advantage = multi_sample_terms(jnp.asarray(likelihood, jnp.float32)[None], tokens)
    (bound, signal), (other_bound, other_signal) = signals(first), signals(second)
    assert float(total) == pytest.approx(2 * (bound + other_bound), rel=1e-5)
    wanted = 2 * np.stack([signal, signal, other_signal, [0.0, 0.0]], axis=1)
    np.testing.assert_allclose(advantage[0], wanted, rtol=1e-5, atol=1e-6)
