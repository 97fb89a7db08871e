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

from show_attend_tell.models import product_form
from show_attend_tell.models.captioner import Captioner
from show_attend_tell.objectives.objective import Batch, Report, encoder_key
from show_attend_tell.objectives.stepwise import Stepwise


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Marginal(Stepwise):
    """Minus the exact log-likelihood of the references under hard attention.

    Label smoothing acts on the mixture over places; for the rest see `Stepwise`.
    """

    def loss(
        self,
        model: Captioner,
        batch: Batch,
        key: PRNGKeyArray,
        state: dict[str, Array],
        step: Int[Array, ""] | int,
    ) -> tuple[Float[Array, ""], dict[str, Array], Report]:
        """See `Objective.loss`.

        It reports what `Stepwise.of_steps` and `Stepwise.regularized` do.
        """
        annotations = model.annotations(batch["inputs"], encoder_key(key))
        tokens = batch["tokens"]
        out = model.decoder(annotations, tokens, key)
        assert out.factors is not None
        smoothing = bool(self.regularizers.label_smoothing)
        log_probs, uniform = log_likelihoods(out.factors, tokens, smoothing=smoothing)
        loss, report = self.of_steps(log_probs, self.smoothed(log_probs, uniform), out, tokens)
        loss, report = self.regularized(loss, report, out, annotations, batch)
        return loss, state, report


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
