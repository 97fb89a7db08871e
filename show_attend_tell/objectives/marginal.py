"""The exact likelihood of hard attention, with the place of each step summed out.

Where the logits are a sum of a term of the state and a term of the place, and the state does not
depend on the drawn place, hard attention's likelihood

    log p(y|a) = sum_t log sum_i alpha_ti p(y_t | i, y_<t, a)

costs two products (see `models.product_form`). Its gradient needs neither samples nor a baseline
(Wu, Shapiro and Cotterell 2018, arXiv:1808.10024, for transduction; Deng et al. 2018,
arXiv:1807.03756, "exact marginalisation"). It is no bound: by Jensen's inequality it is at least
Xu et al.'s L_s. A model whose state reads nothing, or the expected or posterior context, is not
Xu et al.'s, whose state reads the drawn place; for it, too, this likelihood is exact.

The likelihood is high as soon as one of the attended places predicts the word. A model decoded from
one place a word needs more: each place that alpha favours must predict it by itself. `hard.bound`,
a weight w, therefore mixes in L_s, which has an exact sum, too,

    sum_t (1 - w) log sum_i alpha_ti p(y_t | i) + w sum_i alpha_ti log p(y_t | i)

This is a lower bound of the log-likelihood. With w = 1 it is what REINFORCE estimates.

Symbols as in `models.decoder`.
"""

import dataclasses

import jax
from jaxtyping import Array, Float, Int, PRNGKeyArray

from show_attend_tell.models import product_form
from show_attend_tell.models.captioner import Captioner
from show_attend_tell.objectives.objective import Batch, Report, encoder_key
from show_attend_tell.objectives.stepwise import Stepwise, mean_over_words

_EVERY = 4  # steps of which one is smoothed


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Marginal(Stepwise):
    """Minus the log-likelihood of the references, with the weight `hard.bound` on L_s instead.

    Label smoothing acts on the mixture over places, which costs a product: so on every fourth step
    only. For the rest see `Stepwise`.
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

        It reports what `Stepwise.of_steps` and `Stepwise.regularized` do; `nll` is the exact one,
        whatever `hard.bound`.
        """
        annotations = model.annotations(batch["inputs"], encoder_key(key))
        tokens = batch["tokens"]
        out = model.decoder(annotations, tokens, key)
        assert out.factors is not None
        exps = product_form.exponentials(out.factors)
        flat = tokens.reshape(len(tokens), -1)
        log_p = product_form.log_given_place(exps, flat).reshape(out.alpha.shape)
        log_probs = jax.nn.logsumexp(out.log_alpha + log_p, axis=-1)
        bound, share = (out.alpha * log_p).sum(axis=-1), self.hard.bound
        smoothing = self.regularizers.label_smoothing
        gains = (1 - smoothing) * ((1 - share) * log_probs + share * bound)
        loss, report = self.of_steps(log_probs, gains, out, tokens)
        if smoothing:
            mixture = product_form.log_mixture(exps.thinned(_EVERY))
            loss -= smoothing * mean_over_words(mixture.mean(axis=-1), flat[:, ::_EVERY])
        loss, report = self.regularized(loss, report, out, annotations, batch)
        return loss, state, report
