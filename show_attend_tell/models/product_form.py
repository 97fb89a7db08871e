"""Exact sums over the places of a step, where the logits are a sum of two terms.

Let the logits of word y, given place i, be b_ty + g_iy: a term of the state and a term of the
place. Then p(y | i) = exp(b_ty + g_iy) / Z_ti, and all normalisers of an image's steps are one
product, Z = exp(b) exp(g)^T. From it follow, exactly,

    the mixture     p(y_t) = sum_i alpha_ti p(y_t | i) = exp(b_ty) sum_i (alpha_ti / Z_ti) exp(g_iy)
    the posterior   p(i | y_t) = alpha_ti p(y_t | i) / p(y_t)

The mixture is the likelihood of hard attention with the place summed out (Wu, Shapiro and Cotterell
2018, arXiv:1808.10024; Deng et al. 2018, arXiv:1807.03756), provided that the state does not depend
on the drawn place. It needs neither samples nor a bound.

Exponentials are taken of what lies below the maximum, so Z is 0 only where all words of a step and
place are 87 nats below; it is kept above the smallest float.

Symbols: B images, N steps of an image's captions, L places, V words.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

_LEAST = 1e-37  # a normaliser's smallest value


class Factors(NamedTuple):
    """The two terms of the logits, and the weights of the places."""

    state: Float[Array, "B N V"]  # b
    place: Float[Array, "B L V"]  # g
    log_alpha: Float[Array, "B N L"]


class Exponentials(NamedTuple):
    """What all sums over places are made of. Sums of the same factors should share it."""

    log_state: Float[Array, "B N V"]  # b - max over words
    log_place: Float[Array, "B L V"]  # g - max over words
    place: Float[Array, "B L V"]  # exp(log_place)
    log_normalisers: Float[Array, "B N L"]  # log Z of these two
    log_alpha: Float[Array, "B N L"]

    def thinned(self, every: int) -> "Exponentials":
        """Of each `every`-th step, from the first."""
        state, z, alpha = (
            x[:, ::every] for x in (self.log_state, self.log_normalisers, self.log_alpha)
        )
        return self._replace(log_state=state, log_normalisers=z, log_alpha=alpha)


def balanced(
    state: Float[Array, "B N V"],
    place: Float[Array, "B L V"],
    mask: Bool[Array, "B L"] | None = None,
) -> tuple[Float[Array, "B N V"], Float[Array, "B L V"]]:
    """The same logits, with the mean over places in the state's term, so that exponents are small.

    Args:
      mask: False at padded places, which the mean leaves out.
    """
    if mask is None:
        mean = place.mean(axis=1, keepdims=True)
    else:
        real = mask[..., None]
        mean = jnp.where(real, place, 0.0).sum(1, keepdims=True) / real.sum(1, keepdims=True)
    mean = jax.lax.stop_gradient(mean)
    return state + mean, place - mean


def exponentials(factors: Factors) -> Exponentials:
    """The exponentials of the factors, and the normalisers: one product."""
    state, place = below_maximum(factors.state), below_maximum(factors.place)
    exp_place = jnp.exp(place)
    log_z = log_normalisers(state, exp_place)
    return Exponentials(state, place, exp_place, log_z, factors.log_alpha)


def below_maximum(logits: Float[Array, "B M V"]) -> Float[Array, "B M V"]:
    """A term of the logits, less its largest value over the words."""
    return logits - _maximum(logits)


def log_normalisers(
    log_state: Float[Array, "B N V"], exp_place: Float[Array, "B L V"]
) -> Float[Array, "B N L"]:
    """log Z, of terms `below_maximum` of which the second is exponentiated."""
    z = jnp.einsum(
        "bnv,blv->bnl", jnp.exp(log_state), exp_place, preferred_element_type=jnp.float32
    )
    return jnp.log(jnp.maximum(z, _LEAST))


def log_mixture(exps: Exponentials) -> Float[Array, "B N V"]:
    """log p(y) of every word in nats: the places' distributions, averaged by alpha."""
    # Logarithms until a step's largest weight is known: 1 / Z alone may exceed the largest float.
    log_weights = exps.log_alpha - exps.log_normalisers
    largest = _maximum(log_weights)
    weights = jnp.exp(log_weights - largest)
    summed = jnp.einsum("bnl,blv->bnv", weights, exps.place, preferred_element_type=jnp.float32)
    return exps.log_state + largest + jnp.log(jnp.maximum(summed, _LEAST))


def log_given_place(exps: Exponentials, tokens: Int[Array, "B N"]) -> Float[Array, "B N L"]:
    """log p(y_t | i) in nats of given words, for every place."""
    of_state = jnp.take_along_axis(exps.log_state, tokens[..., None], axis=-1)
    of_place = jax.vmap(lambda place, words: place[:, words].T)(exps.log_place, tokens)
    return of_state + of_place - exps.log_normalisers


def mean_log_given_place(exps: Exponentials) -> Float[Array, "B N L"]:
    """The mean over the vocabulary of log p(y | i) in nats, for every place."""
    mean = exps.log_state.mean(axis=-1)[..., None] + exps.log_place.mean(axis=-1)[:, None]
    return mean - exps.log_normalisers


def log_marginal(
    exps: Exponentials, tokens: Int[Array, "B N"]
) -> tuple[Float[Array, "B N"], Float[Array, "B N L"]]:
    """log p(y_t) and the log of the posterior over places, of given words, in nats."""
    joint = exps.log_alpha + log_given_place(exps, tokens)
    total = jax.nn.logsumexp(joint, axis=-1)
    return total, joint - total[..., None]


def _maximum(x: Float[Array, "B M K"]) -> Float[Array, "B M 1"]:
    return jax.lax.stop_gradient(x.max(axis=-1, keepdims=True))
