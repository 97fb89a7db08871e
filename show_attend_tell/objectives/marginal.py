"""The exact likelihood of hard attention, with the place of each step summed out.

Where the logits are a sum of a term of the state and a term of the place, and the state does not
depend on the drawn place, hard attention's likelihood

    log p(y|a) = sum_t log sum_i alpha_ti p(y_t | i, y_<t, a)

costs two products (see `models.product_form`). Its gradient needs neither samples nor a baseline
(Wu, Shapiro and Cotterell 2018, arXiv:1808.10024, for transduction; Deng et al. 2018,
arXiv:1807.03756, "exact marginalisation"). It is no bound: by Jensen's inequality it is at least
Xu et al.'s L_s. A model whose state reads the expected context is not Xu et al.'s, whose state
reads the drawn place; for it, too, this likelihood is exact.

Symbols as in `models.decoder`.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from show_attend_tell import settings
from show_attend_tell.models import product_form
from show_attend_tell.models.captioner import Captioner
from show_attend_tell.objectives.likelihood import doubly_stochastic_penalty
from show_attend_tell.objectives.objective import Batch, Report, encoder_key
from show_attend_tell.objectives.sampling import entropies
from show_attend_tell.tokens import EOS, PAD


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Marginal:
    """Minus the exact log-likelihood of the references under hard attention.

    Like `likelihood.soft_loss` it is divided by the batch's number of real tokens. Label smoothing
    acts on the mixture over places; the penalty is that of soft attention; `hard.entropy` weighs
    the entropy of alpha.

    Attributes:
      hard: of which the weight of the entropy applies.
      regularizers: the doubly stochastic penalty and label smoothing.
    """

    hard: settings.Hard
    regularizers: settings.Loss

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
        """See `Objective.loss`.

        It reports `nll` (nats per real token, without smoothing), `entropy` (nats, mean over steps
        of alpha), `penalty` (mean over captions, unweighted) and `tokens` (of the references).
        """
        annotations = model.annotations(batch["inputs"], encoder_key(key))
        tokens = batch["tokens"]
        out = model.decoder(annotations, tokens, key)
        assert out.factors is not None
        real = tokens != PAD
        count = jnp.maximum(real.sum(), 1)
        captions = jnp.maximum((tokens == EOS).sum(), 1)
        smoothing = self.regularizers.label_smoothing
        log_probs, uniform = log_likelihoods(out.factors, tokens, smoothing=bool(smoothing))
        nll = -jnp.where(real, log_probs, 0.0).sum() / count
        smoothed = -jnp.where(real, uniform, 0.0).sum() / count

        entropy = jnp.where(real, entropies(out.alpha, out.log_alpha), 0.0).sum() / count
        locations = annotations.vectors.shape[1]
        penalty = doubly_stochastic_penalty(out.alpha[..., :locations], tokens, annotations.mask)
        loss = (
            (1 - smoothing) * nll
            + smoothing * smoothed
            - self.hard.entropy * entropy
            + self.regularizers.doubly_stochastic * penalty / count
        )
        return (
            loss,
            state,
            {
                "nll": nll,
                "entropy": entropy,
                "penalty": penalty / captions,
                "tokens": count.astype(jnp.float32),
            },
        )


def log_likelihoods(
    factors: product_form.Factors, tokens: Int[Array, "B R T"], *, smoothing: bool
) -> tuple[Float[Array, "B R T"], Float[Array, "B R T"]]:
    """log p of the given words, and the mean over the vocabulary of the mixture's log p, in nats.

    Without `smoothing` the second is 0, and one product is saved.
    """
    flat = tokens.reshape(len(tokens), -1)
    if not smoothing:
        log_probs, _ = product_form.log_marginal(factors, flat)
        return log_probs.reshape(tokens.shape), jnp.zeros(tokens.shape)
    mixture = product_form.log_mixture(factors)
    log_probs = jnp.take_along_axis(mixture, flat[..., None], axis=-1)[..., 0]
    return log_probs.reshape(tokens.shape), mixture.mean(axis=-1).reshape(tokens.shape)
