"""Maximum likelihood under soft attention, and the terms that other objectives share.

Symbols as in `models.decoder`. A packed row holds several captions.
"""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from show_attend_tell import settings
from show_attend_tell.models.captioner import Captioner
from show_attend_tell.objectives.distillation import Teacher, cross_entropy, mean_distribution
from show_attend_tell.objectives.objective import Batch, Report, encoder_key
from show_attend_tell.objectives.supervision import maps_over, supervised
from show_attend_tell.tokens import EOS, PAD


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["teachers"],
    meta_fields=["regularizers", "attention"],
)
@dataclasses.dataclass(frozen=True)
class Likelihood:
    """Minus the log-likelihood of the references under soft attention; see `soft_loss`.

    Attributes:
      regularizers: the doubly stochastic penalty, label smoothing and the teachers' share.
      attention: of which the supervision applies.
      teachers: whose words are a part of the target, see `distillation`; empty: none.
    """

    regularizers: settings.Loss
    attention: settings.Attention = settings.Attention()
    teachers: tuple[Teacher, ...] = ()

    def init(self) -> dict[str, Array]:
        """No state."""
        return {}

    def loss(
        self,
        model: Captioner,
        batch: Batch,
        key: PRNGKeyArray,
        state: dict[str, Array],
        step: Int[Array, ""] | int,
    ) -> tuple[Float[Array, ""], dict[str, Array], Report]:
        """See `Objective.loss`; reports what `soft_loss` and `supervised` do."""
        annotations = model.annotations(batch["inputs"], encoder_key(key))
        tokens, taught = batch["tokens"], None
        out = model.decoder(annotations, tokens, key)
        if self.teachers:
            taught = mean_distribution(self.teachers, batch["inputs"], tokens)
        loss, report = soft_loss(
            out.logits,
            out.alpha[..., : annotations.vectors.shape[1]],
            tokens,
            doubly_stochastic=self.regularizers.doubly_stochastic,
            label_smoothing=self.regularizers.label_smoothing,
            mask=annotations.mask,
            taught=taught,
            distillation=self.regularizers.distillation,
        )
        maps = maps_over(annotations, batch)
        loss, report = supervised(loss, report, self.attention, maps, out.log_alpha)
        return loss, state, report


def token_log_probs(logits: Float[Array, "*S V"], tokens: Int[Array, "*S"]) -> Float[Array, "*S"]:
    """log p(y_t) of the given words in nats; 0 at padding."""
    chosen = jnp.take_along_axis(logits, tokens[..., None], axis=-1)[..., 0]
    log_probs = chosen - jax.nn.logsumexp(logits, axis=-1)
    return jnp.where(tokens == PAD, 0.0, log_probs)


def doubly_stochastic_penalty(
    alpha: Float[Array, "B R T L"],
    tokens: Int[Array, "B R T"],
    mask: Bool[Array, "B L"] | None = None,
) -> Float[Array, ""]:
    """Sum over captions of sum_i (1 - sum_t alpha_ti)^2 (Xu et al. 2015, eq. 14).

    The inner sum runs over a caption's own steps, its <eos> included and padding excluded. Like
    the paper, it sums over the L locations instead of averaging; `mask` leaves out padded ones.
    """
    end = tokens == EOS
    rows, steps = end[..., 0].size, end.shape[-1]
    # A row's captions are numbered in order; steps after its last <eos> get the next number.
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
    taught: Float[Array, "B R T V"] | None = None,
    distillation: float = 0.0,
) -> tuple[Float[Array, ""], Report]:
    """The loss of deterministic attention (Xu et al. 2015, eq. 14).

    L_d = sum over captions of [-log p(y|x) + lambda sum_i (1 - sum_t alpha_ti)^2], divided by the
    batch's number of real tokens (words and <eos>, no padding). The division keeps the paper's
    ratio of the two terms. Other codebases average the penalty over the L locations and add it to
    a mean token loss; their lambda_mean corresponds to
    lambda = lambda_mean * (tokens per caption) / L.

    Args:
      doubly_stochastic: lambda, at least 0.
      label_smoothing: the share of each target spread evenly over the vocabulary, in [0, 1);
        0 is the paper's loss.
      mask: False at padded places, which the penalty leaves out.
      taught: what teachers would say, see `distillation`; None: there are none.
      distillation: lambda of `distillation`, the teachers' share of the target.

    Returns:
      The loss, and a report: `nll` (nats per real token, without smoothing), `penalty` (mean over
      captions of the unweighted penalty), `tokens` (the number of real tokens) and, with teachers,
      `taught_nll` (the cross-entropy with what they would say, nats per real token).
    """
    real = tokens != PAD
    count = jnp.maximum(real.sum(), 1)
    captions = jnp.maximum((tokens == EOS).sum(), 1)
    nll = -token_log_probs(logits, tokens).sum() / count
    penalty = doubly_stochastic_penalty(alpha, tokens, mask)
    loss = smooth(nll, logits, real, label_smoothing)
    report = {
        "nll": nll,
        "penalty": penalty / captions,
        "tokens": count.astype(jnp.float32),
    }
    if taught is not None:
        report["taught_nll"] = jnp.where(real, cross_entropy(taught, logits), 0.0).sum() / count
        loss = (1 - distillation) * loss + distillation * report["taught_nll"]
    return loss + doubly_stochastic * penalty / count, report
