"""Training objectives: arrays in, a scalar and what to report out.

Symbols as in `decoder`; a packed row holds several captions.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from show_attend_tell.tokens import EOS, PAD


def token_log_probs(logits: Float[Array, "*S V"], tokens: Int[Array, "*S"]) -> Float[Array, "*S"]:
    """log p(y_t) of the given words; 0 at padding."""
    chosen = jnp.take_along_axis(logits, tokens[..., None], axis=-1)[..., 0]
    log_probs = chosen - jax.nn.logsumexp(logits, axis=-1)
    return jnp.where(tokens == PAD, 0.0, log_probs)


def doubly_stochastic_penalty(
    alpha: Float[Array, "B R T L"],
    tokens: Int[Array, "B R T"],
    mask: Bool[Array, "B L"] | None = None,
) -> Float[Array, ""]:
    """Sum over captions of sum_i (1 - sum_t alpha_ti)^2 (Xu et al. 2015, eq. 14).

    The inner sum runs over a caption's own steps, its <eos> included and padding excluded. It is
    a sum over the L locations, as in the paper, not a mean; `mask` leaves padding out of it.
    """
    end = tokens == EOS
    rows, steps = end[..., 0].size, end.shape[-1]
    # The captions of a row by their order; what follows the last <eos> comes behind them.
    order = jnp.cumsum(end, axis=-1) - end
    first = steps * jnp.arange(rows).reshape(*end.shape[:-1], 1)
    paid = jax.ops.segment_sum(
        alpha.reshape(-1, alpha.shape[-1]),
        (first + order).reshape(-1),
        num_segments=rows * steps,
        indices_are_sorted=True,
    )
    is_caption = jnp.arange(steps)[None, None] < end.sum(axis=-1, keepdims=True)
    unpaid = jnp.where(is_caption.reshape(-1, 1), jnp.square(1.0 - paid), 0.0)
    if mask is not None:
        unpaid = unpaid.reshape(len(mask), -1, mask.shape[1]) * mask[:, None]
    return unpaid.sum()


def smooth(
    nll: Float[Array, ""],
    logits: Float[Array, "*S V"],
    real: Bool[Array, "*S"],
    label_smoothing: float,
) -> Float[Array, ""]:
    """nll with the share `label_smoothing` of each target spread evenly over the vocabulary."""
    if not label_smoothing:
        return nll
    mean_log_prob = logits.mean(axis=-1) - jax.nn.logsumexp(logits, axis=-1)
    uniform = -jnp.where(real, mean_log_prob, 0.0).sum() / jnp.maximum(real.sum(), 1)
    return (1 - label_smoothing) * nll + label_smoothing * uniform


def soft_loss(
    logits: Float[Array, "B R T V"],
    alpha: Float[Array, "B R T L"],
    tokens: Int[Array, "B R T"],
    *,
    doubly_stochastic: float,
    label_smoothing: float,
    mask: Bool[Array, "B L"] | None = None,
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """The loss of deterministic attention (Xu et al. 2015, eq. 14).

    L_d = sum over captions of [-log p(y|x) + lambda sum_i (1 - sum_t alpha_ti)^2], divided by the
    batch's number of real tokens (words and <eos>, no padding). The division leaves the paper's
    ratio of the two terms as it is. A penalty that is averaged over the L locations and added to
    a mean token loss, as in other codebases, corresponds here to
    lambda = lambda_mean * (tokens per caption) / L.

    Args:
      doubly_stochastic: lambda, at least 0.
      label_smoothing: the share of each target spread evenly over the vocabulary, in [0, 1);
        0 is the paper's loss.
      mask: False at padding among the places, which the penalty leaves out.

    Returns:
      The loss, and for reporting `nll` (nats per real token, without smoothing), `penalty` (mean
      over captions of the unweighted penalty) and `tokens` (the number of real tokens).
    """
    real = tokens != PAD
    count = jnp.maximum(real.sum(), 1)
    captions = jnp.maximum((tokens == EOS).sum(), 1)
    nll = -token_log_probs(logits, tokens).sum() / count
    penalty = doubly_stochastic_penalty(alpha, tokens, mask)
    loss = smooth(nll, logits, real, label_smoothing) + doubly_stochastic * penalty / count
    return loss, {
        "nll": nll,
        "penalty": penalty / captions,
        "tokens": count.astype(jnp.float32),
    }
