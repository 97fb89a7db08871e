"""Credit: which log-likelihoods a choice of location is rewarded with.

Symbols as in `models.decoder`; Q = N R rows, row n R + r being sample n of row r. A credit sums
log p(y_s) over a part of the caption that step t belongs to:

    sequence  all words of the caption, as in Xu et al. 2015, section 4.1.
    to_go     the words from t on. s_t cannot change earlier words, so leaving these out is
              unbiased (Sutton et al. 2000) and lowers the variance.
    word      the word of step t alone. Unbiased where the state does not read the drawn place, so
              that s_t changes no other word; biased elsewhere.
    mean      the mean over the caption's words. The released code uses it; it is biased in scale.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float


def credited(same: Float[Array, "B R T T"], kind: str) -> Float[Array, "B R T T"]:
    """C[t, s]: the weight with which log p(y_s) enters the credit of the choice at step t.

    Args:
      same: which steps share a caption, see `models.decoder.same_caption`.
      kind: `sequence`, `to_go`, `word` or `mean`.
    """
    if kind == "word":
        return jnp.tril(jnp.triu(same))
    if kind == "to_go":
        return jnp.triu(same)
    if kind == "mean":
        return same / jnp.maximum(same.sum(axis=-1, keepdims=True), 1.0)
    return same


def credit_of(
    log_probs: Float[Array, "B Q T"], weights: Float[Array, "B R T T"]
) -> Float[Array, "B Q T"]:
    """The credit of each step in nats; `weights` (see `credited`) hold for all samples of a row."""
    images, rows, steps, _ = weights.shape
    by_row = log_probs.reshape(images, -1, rows, steps)
    return jnp.einsum("brts,bnrs->bnrt", weights, by_row).reshape(log_probs.shape)


def averaged_by(weights: Float[Array, "B R T T"], credit: str) -> Float[Array, "B R T"]:
    """The divisor of a credit in the moving average: its number of words with `to_go`, else 1."""
    words = weights.sum(axis=-1)
    return jnp.maximum(words, 1.0) if credit == "to_go" else jnp.ones_like(words)
