"""The Gumbel-softmax straight-through read: a drawn place forwards, a softmax backwards.

Let theta = log alpha and G be independent Gumbel noise. Then s = argmax(theta + G) is a draw from
alpha. The forward pass reads the one-hot vector of s. The backward pass takes the derivative of

    softmax((theta + G) / tau)          Jang et al. 2017, arXiv:1611.01144; Maddison et al. 2017,
                                        arXiv:1611.00712
    E[softmax((theta + G) / tau) | s]   Gumbel-Rao (Paulus et al. 2021, arXiv:2010.04838), here the
                                        mean over the noise that drew s and K - 1 more draws

with respect to theta, G held fixed, in place of that of the one-hot vector. Both have the same
mean; the second has the lower variance, for K softmaxes more and no pass of the decoder. Both are
biased, since they differentiate another function than the one that is computed.

Given s and with Gumbel noise g of its own, theta + G is (Maddison et al. 2014, arXiv:1411.0030)

    at s          g_s                                        the largest, of location log sum = 0
    elsewhere     -log(exp(-(theta_i + g_i)) + exp(-g_s))    a Gumbel truncated at g_s

Symbols as in `attention`; K draws of noise.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


class Relaxation(NamedTuple):
    """What the backward pass of a drawn place needs.

    `more` is Gumbel noise of K - 1 more draws given the place; `temperature` is tau, above 0.
    """

    more: Float[Array, "B R *T J L"]
    temperature: Float[Array, ""]


def perturbed_given(
    drawn: Bool[Array, "*S L"], log_alpha: Float[Array, "*S L"], noise: Float[Array, "*S L"]
) -> Float[Array, "*S L"]:
    """A draw of log alpha + G, given that its largest entry is the drawn place.

    Args:
      drawn: True at the drawn place only.
      log_alpha: normalised.
      noise: Gumbel noise, independent of what drew the place.
    """
    largest = jnp.where(drawn, noise, 0.0).sum(axis=-1, keepdims=True)
    return jnp.where(drawn, largest, -jnp.logaddexp(-(log_alpha + noise), -largest))


def straight_through(
    drawn: Bool[Array, "B R L"],
    log_alpha: Float[Array, "B R L"],
    noise: Float[Array, "B R L"],
    relaxation: Relaxation,
) -> Float[Array, "B R L"]:
    """The one-hot weights of the drawn place, with the derivative of the mean softmax.

    Args:
      drawn: True at argmax(log_alpha + noise) only.
      log_alpha: normalised.
      noise: the Gumbel noise that drew the place; it counts as the first of K draws.
      relaxation: the other draws, and the temperature.
    """
    theta = log_alpha[:, :, None]
    shape = relaxation.more.shape
    others = perturbed_given(
        jnp.broadcast_to(drawn[:, :, None], shape), jnp.broadcast_to(theta, shape), relaxation.more
    )
    first = (log_alpha + noise)[:, :, None]
    fixed = jax.lax.stop_gradient(jnp.concatenate([first, others], axis=2) - theta)
    soft = jax.nn.softmax((theta + fixed) / relaxation.temperature, axis=-1).mean(axis=2)
    return drawn.astype(soft.dtype) + (soft - jax.lax.stop_gradient(soft))
