"""The multi-sample bound of VIMCO (Mnih and Rezende 2016, arXiv:1602.06725).

N paths s^n of a caption give E log(1/N sum_n p(y|s^n)), a tighter bound of log p(y) than the
E log p(y|s) of REINFORCE. Symbols as in `models.decoder`.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from show_attend_tell.objectives.baselines import leave_one_out
from show_attend_tell.tokens import EOS


def multi_sample_bound(
    log_likelihood: Float[Array, "B N *S"],
) -> tuple[Float[Array, "B *S"], Float[Array, "B N *S"]]:  # noqa: F821  ("B *S" is a shape)
    """log(1/N sum_n p_n) in nats, and each sample's learning signal (eq. 9 and 10).

    The signal is the bound minus the bound in which p_n is replaced by the geometric mean of the
    others. The part that is subtracted does not depend on sample n, so it adds no bias.
    """
    samples = log_likelihood.shape[1]
    bound = jax.nn.logsumexp(log_likelihood, axis=1) - jnp.log(samples)
    others = leave_one_out(log_likelihood)
    replaced = jnp.where(
        jnp.eye(samples, dtype=bool).reshape(1, samples, samples, *[1] * (others.ndim - 2)),
        others[:, None],
        log_likelihood[:, None],
    )
    without = jax.nn.logsumexp(replaced, axis=2) - jnp.log(samples)
    return bound, bound[:, None] - without


def multi_sample_terms(
    likelihood: Float[Array, "B Q T"], tokens: Int[Array, "B R T"]
) -> tuple[Float[Array, ""], Float[Array, "B Q T"]]:
    """The batch's bound to maximise, and each step's advantage; both times N.

    The bound is summed over samples where J of `reinforce` is their mean. With the factor N both
    share a divisor, the number of real tokens of all samples.

    Args:
      likelihood: log p of the caption that a step belongs to, the same at all of its steps.
      tokens: the captions; each counts once, at its <eos>.

    Returns:
      N times the sum of the captions' bounds, differentiable; and N times the learning signals,
      for the caller to stop gradients at.
    """
    images, rows, steps = tokens.shape
    samples = likelihood.shape[1] // rows
    bound, signal = multi_sample_bound(likelihood.reshape(images, samples, rows, steps))
    ends = (tokens == EOS).astype(bound.dtype)
    return (ends * bound).sum() * samples, samples * signal.reshape(likelihood.shape)
