"""The exact likelihood of hard attention, with the place of each step summed out.

Where the logits are a sum of a term of the state and a term of the place, and the state does not
depend on the drawn place, hard attention's likelihood

    log p(y|a) = sum_t log sum_i alpha_ti p(y_t | i, y_<t, a)

costs two products (see `models.product_form`). Its gradient needs neither samples nor a baseline
(Wu, Shapiro and Cotterell 2018, arXiv:1808.10024, for transduction; Deng et al. 2018,
arXiv:1807.03756, "exact marginalisation"). It is no bound: by Jensen's inequality it is at least
Xu et al.'s L_s. A model whose state reads the expected context is not Xu et al.'s, whose state
reads the drawn place; for it, too, this likelihood is exact.

A model that is to read one place a word is better trained on a share w of L_s (`hard.bound`),

    sum_t (1 - w) log sum_i alpha_ti p(y_t | i) + w sum_i alpha_ti log p(y_t | i)

which is a bound, too. The likelihood is content if one of many places knows the word. The second
sum is what REINFORCE estimates, here without samples: it wants every place that alpha chooses to
know it, so alpha becomes sharp.

Symbols as in `models.decoder`.
"""

import dataclasses

import jax
from jaxtyping import Array, Float, Int, PRNGKeyArray

from show_attend_tell.models import product_form
from show_attend_tell.models.captioner import Captioner
from show_attend_tell.objectives.objective import Batch, Report, encoder_key
from show_attend_tell.objectives.stepwise import Stepwise


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Marginal(Stepwise):
    """Minus the exact log-likelihood of the references under hard attention, or the module's bound.

    Label smoothing acts on p(y_t | i), weighted by alpha: on the mixture it would cost another
    product. Of `hard` also the share of L_s applies; for the rest see `Stepwise`.
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

        It reports what `Stepwise.of_steps` (`nll` of the likelihood) and `Stepwise.regularized` do.
        """
        annotations = model.annotations(batch["inputs"], encoder_key(key))
        tokens = batch["tokens"]
        out = model.decoder(annotations, tokens, key)
        assert out.factors is not None
        given_place, mean = (
            x.reshape(out.alpha.shape)
            for x in product_form.log_given_place(out.factors, tokens.reshape(len(tokens), -1))
        )
        log_probs = jax.nn.logsumexp(out.log_alpha + given_place, axis=-1)
        bound, uniform = ((out.alpha * x).sum(axis=-1) for x in (given_place, mean))
        share = self.hard.bound
        gains = self.smoothed((1 - share) * log_probs + share * bound, uniform)
        loss, report = self.of_steps(log_probs, gains, out, tokens)
        loss, report = self.regularized(loss, report, out, annotations, batch)
        return loss, state, report
