"""Supervised attention: maps are taught to cover what the words name (Liu et al. 2017).

After "Attention Correctness in Neural Image Captioning" (arXiv:1605.09553), the loss of a step t
whose word names something with boxes is the cross entropy

    - sum_i beta_ti log m_ti

of the step's map m and the target beta, which `training.phrase_maps` makes from boxes. It pulls m
towards even cover of the boxes. `attention.supervision_loss` "share" leaves open where in the boxes
m lies, and minimises

    - log sum_i (beta_ti / max_j beta_tj) m_ti

minus the log of m's share in the boxes (where they cover the whole cell of at least one place).
Where training keeps some of the places only, it is multiplied by the target's share that is kept,
as the cross entropy is by itself.

The map is the prior alpha, as in the paper, or the posterior over places given the word
(`settings.Attention`). A null place is no place of the picture: beta is 0 there, and m sums to less
than 1 over the others, so attention that it takes counts as outside of the boxes.

The sum over steps is divided by the number of supervised steps, not by that of all words. So the
weight means the same whatever share of the words have boxes.

Where attention reads drawn places, and the state them, alpha depends on the drawn path. The loss is
then the mean over the paths that the objective draws; its gradient leaves out how the weights
change which paths are drawn.

Symbols as in `models.decoder`; N paths a row, Q = N R; S places with the null place.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from show_attend_tell import settings
from show_attend_tell.models import product_form
from show_attend_tell.models.attention import Annotations
from show_attend_tell.objectives.objective import Batch, Report


def maps_over(annotations: Annotations, batch: Batch) -> Float[Array, "B R T L"] | None:
    """beta over the places that training keeps, if attention is supervised.

    It then sums to the target's share that is kept, so what is hardly to be seen hardly counts.
    """
    maps = batch.get("maps")
    if maps is None or annotations.numbers is None:
        return maps
    return jnp.take_along_axis(maps, annotations.numbers[:, None, None], axis=-1)


def supervised(
    loss: Float[Array, ""],
    report: Report,
    attention: settings.Attention,
    maps: Float[Array, "B R T L"] | None,
    log_alpha: Float[Array, "B Q T S"],
    tokens: Int[Array, "B R T"] | None = None,
    factors: product_form.Factors | None = None,
) -> tuple[Float[Array, ""], Report]:
    """Adds the weighted loss of the module, and reports it as `supervision`; nothing if it is off.

    Args:
      loss, report: of an objective.
      attention: of which the weight and the choice of the map apply.
      maps: beta; all 0 at steps without a target. Needed if the weight is over 0.
      log_alpha: the prior. Row n R + r belongs to row r.
      tokens, factors: the words and the terms of their logits, which a posterior needs; then Q = R.

    Returns:
      The loss; and the report with `supervision`, in nats per supervised step (0 if there is none).
    """
    if not attention.supervision:
        return loss, report
    assert maps is not None
    log_map = log_alpha
    if attention.supervised_map == "posterior":
        assert factors is not None and tokens is not None
        exps = product_form.exponentials(factors)
        _, log_map = product_form.log_marginal(exps, tokens.reshape(len(tokens), -1))
    images, rows, steps, locations = maps.shape
    log_map = log_map.reshape(images, -1, rows, steps, log_map.shape[-1])[..., :locations]
    beta = maps[:, None].astype(jnp.float32)
    count = jnp.maximum(log_map.shape[1] * (beta > 0).any(axis=-1).sum(), 1)
    terms = beta * log_map
    if attention.supervision_loss == "share":
        largest = beta.max(axis=-1, keepdims=True)
        # A step without a target sums over all places instead, whose logarithm is finite.
        cover = jnp.where(largest > 0, beta / jnp.where(largest > 0, largest, 1), 1)
        share = jax.nn.logsumexp(log_map, axis=-1, b=cover)
        terms = jnp.where(largest[..., 0] > 0, beta.sum(axis=-1) * share, 0)
    value = -terms.sum() / count
    return loss + attention.supervision * value, report | {"supervision": value}
