"""The likelihood of hard attention, with the places beyond the K most probable ones merged.

Where the output has no product form, the sum over places of `marginal` needs a deep output for
each. Here only the K places with the largest alpha are read, and all others at once, as their mean:

    log p(y_t) ~ log [ sum_(i in K) alpha_ti p(y_t | i) + m_t p(y_t | r_t) ],
    m_t = 1 - sum_(i in K) alpha_ti,    r_t = sum_(i not in K) alpha_ti a_i / m_t

after the sum over the K best of Wu, Shapiro and Cotterell 2018 (arXiv:1808.10024) and Deng et al.
2018 (arXiv:1807.03756). With K = 0 it would be soft attention, with all places it is the exact
marginal. Between the two it is biased and no bound: p(y | r) may lie above or below the mean of
p(y | i). Its gradient has no variance. It costs K + 1 deep outputs; the state must not depend on
the drawn place.

Symbols as in `models.decoder`, S places with the null place.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from show_attend_tell.models.captioner import Captioner
from show_attend_tell.objectives.objective import Batch, Report, encoder_key
from show_attend_tell.objectives.reading import Reading
from show_attend_tell.objectives.stepwise import Stepwise, mean_over_words

_LEAST = 1e-30  # of the merged places' probability, so that their mean exists


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class TopK(Stepwise):
    """Minus the merged log-likelihood of the module, with K = `hard.samples`.

    It is divided and regularised like `marginal.Marginal`. Label smoothing acts on the merged
    mixture of every step.
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

        It reports what `Marginal.loss` does, and `merged`: the mean over steps of m_t.
        """
        annotations = model.annotations(batch["inputs"], encoder_key(key))
        tokens = batch["tokens"]
        given = Reading.of(model.decoder, annotations, tokens, key)
        smoothing = bool(self.regularizers.label_smoothing)
        log_probs, uniform, merged = log_merged(given, self.hard.samples, smoothing=smoothing)
        gains = self.smoothed(log_probs, uniform)
        loss, report = self.of_steps(log_probs, gains, given.out, tokens)
        loss, report = self.regularized(loss, report, given.out, annotations, batch)
        return loss, state, report | {"merged": mean_over_words(merged, tokens)}


def log_merged(
    given: Reading, k: int, *, smoothing: bool
) -> tuple[Float[Array, "B R T"], Float[Array, "B R T"], Float[Array, "B R T"]]:
    """The module's approximation in nats: log p of the given words, its mean over the vocabulary.

    The third is m of every step. Without `smoothing` the second is 0, and the sum over places is
    taken for the given words only.
    """
    words = given.tokens[..., None]

    def needed(log_p: Float[Array, "*N B R T V"]) -> Float[Array, "*N B R T _"]:
        if smoothing:
            return log_p
        index = jnp.broadcast_to(words, (*log_p.shape[:-1], 1))
        return jnp.take_along_axis(log_p, index, axis=-1)

    log_alpha = given.out.log_alpha
    largest, places = jax.lax.top_k(log_alpha, min(k, log_alpha.shape[-1]))
    chosen = jax.nn.one_hot(places, log_alpha.shape[-1], dtype=bool).any(axis=-2)
    others = jnp.where(chosen, 0.0, jnp.exp(log_alpha))
    merged = others.sum(axis=-1)
    probability = jnp.maximum(merged, _LEAST)
    rest = needed(given.log_softmax(given.expectation(others) / probability[..., None]))
    read = needed(given.log_softmax_at(jnp.moveaxis(places, -1, 0)))
    terms = jnp.moveaxis(largest, -1, 0)[..., None] + read
    last = jnp.log(probability)[..., None] + rest
    mixture = jnp.logaddexp(jax.nn.logsumexp(terms, axis=0), last)
    if not smoothing:
        return mixture[..., 0], jnp.zeros(words.shape[:-1]), merged
    of_words = jnp.take_along_axis(mixture, words, axis=-1)[..., 0]
    return of_words, mixture.mean(axis=-1), merged
