"""Variational attention: a bound of hard attention's likelihood, by a trained posterior.

An inference network q guesses, from the word, the place that it came from (Deng et al. 2018,
arXiv:1807.03756, section 3). Where the state does not depend on the drawn place, each step has a
bound of its own,

    log p(y_t) = log sum_i alpha_ti p(y_t | i)
               >= sum_i q_ti log p(y_t | i) - KL(q_t || alpha_t),

whose gap is KL(q_t || p(i | y_t)): it closes where q is the posterior. Then value and gradient are
those of the exact marginal (see `marginal`). With q = alpha it is Xu et al.'s L_s. Here

    q_ti = softmax_i(log alpha_ti + k_i^T r_t / sqrt(A)),   r_t = W_r [h; E y_t] + b,  k_i = W_k a_i

has the form of the posterior, alpha_ti p(y_t | i) / p(y_t), and starts as alpha. All inputs of q
enter without a gradient. The decoder's gradient is therefore that of the bound at a fixed q, as in
the M step of EM, and q's that of -KL(q || posterior).

The expectation over q has two forms (`hard.inference`):

    exact     the sum over places, with the product form. Its gradient is the bound's: no variance.
              It costs what the marginal does and q; it is here to compare with, as the marginal
              is then affordable.
    sampled   the mean over N places drawn from q at each step, for any output. log p(y_t | i) is
              differentiated where it is read, and log q_ti has the REINFORCE weight
              log p(y_t | i) - b. The KL is summed exactly. Each place costs one deep output.

The sampled gradient is unbiased for the bound's with every baseline b (see `baselines`), since none
depends on the place it is subtracted from; the bound's own gradient is biased for the likelihood's
as long as q is not the posterior. A word is credited with its own log-probability only: no other
word depends on the place. The baselines `expected` and `self_critical` are log p(y_t) where a step
reads the mean vector under q, or q's most probable place: one output more.

Symbols as in `models.decoder`, A attention units, S places with the null place.
"""

import dataclasses
from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, PRNGKeyArray

from show_attend_tell.models import product_form
from show_attend_tell.models.captioner import Captioner
from show_attend_tell.objectives.baselines import MovingAverage, leave_one_out
from show_attend_tell.objectives.objective import Batch, Report, encoder_key
from show_attend_tell.objectives.reading import Reading
from show_attend_tell.objectives.sampling import entropies, sampling_key
from show_attend_tell.objectives.stepwise import Stepwise, mean_over_words
from show_attend_tell.tokens import PAD


class InferenceNetwork(nnx.Module):
    """q of the module: where the given word came from.

    Args:
      hidden, embedding, features, units: H, E, D and A.
    """

    def __init__(self, hidden: int, embedding: int, features: int, units: int, *, rngs: nnx.Rngs):
        # Zeros: q starts as alpha.
        self.query = nnx.Linear(
            hidden + embedding, units, kernel_init=nnx.initializers.zeros, rngs=rngs
        )
        self.key = nnx.Linear(features, units, use_bias=False, rngs=rngs)

    def __call__(
        self,
        attending: Float[Array, "B R T H"],
        word: Float[Array, "B R T E"],
        vectors: Float[Array, "B S D"],
        log_alpha: Float[Array, "B R T S"],
    ) -> Float[Array, "B R T S"]:
        """log q of every place, in nats; no gradient reaches the inputs.

        Args:
          attending: the state that attends.
          word: the embedded word y_t.
          vectors: what can be read.
          log_alpha: the prior. Where it rules a place out, so does q.
        """
        state, word, vectors, log_alpha = jax.lax.stop_gradient(
            (attending, word.astype(jnp.float32), vectors, log_alpha)
        )
        query = self.query(jnp.concatenate([state, word], axis=-1))
        scores = jnp.einsum("brta,bsa->brts", query, self.key(vectors))
        return jax.nn.log_softmax(log_alpha + scores / jnp.sqrt(query.shape[-1]), axis=-1)


class Terms(NamedTuple):
    """Of each step: the expectation under q of log p(y_t | i) in nats, and what belongs to it."""

    log_prob: Float[Array, "B R T"]  # without label smoothing
    gain: Float[Array, "B R T"]  # with it
    score: Float[Array, "B R T"]  # a term of which only the gradient counts
    square: Float[Array, "B R T"]  # mean over samples of the squared advantage
    credit: Float[Array, "N B R T"]


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Variational(Stepwise):
    """Minus the bound of the module.

    Label smoothing acts on log p(y_t | i), the credit included; for the rest see `Stepwise`. Of
    `hard` also the form of the expectation, N, the baseline and the weight of the score apply.
    """

    def init(self) -> MovingAverage:
        """A moving average of no batch. It is kept whatever the baseline."""
        return MovingAverage.start()

    def loss(
        self,
        model: Captioner,
        batch: Batch,
        key: PRNGKeyArray,
        state: MovingAverage,
        step: Int[Array, ""] | int,
    ) -> tuple[Float[Array, ""], MovingAverage, Report]:
        """See `Objective.loss` and, for what it reports, `loss_at`."""
        annotations = model.annotations(batch["inputs"], encoder_key(key))
        given = Reading.of(model.decoder, annotations, batch["tokens"], key)
        log_q = posterior(cast(InferenceNetwork, model.baseline), given)
        places = None
        if self.hard.inference == "sampled":
            shape = (self.hard.samples, *log_q.shape[:-1])
            places = jax.random.categorical(sampling_key(key), log_q, shape=shape)
        loss, state, report = self.loss_at(given, log_q, places, state)
        loss, report = self.regularized(loss, report, given.out, annotations, batch)
        return loss, state, report

    def loss_at(
        self,
        given: Reading,
        log_q: Float[Array, "B R T S"],
        places: Int[Array, "N B R T"] | None,
        average: MovingAverage,
    ) -> tuple[Float[Array, ""], MovingAverage, Report]:
        """The loss without penalty and supervision.

        Args:
          given: the batch.
          log_q: of every place.
          places: drawn from q at each step; None sums over all.
          average: of the batches before.

        Returns:
          The loss; the next moving average; and a report: `nll` (minus the bound) and `kl` (of q
          and alpha), in nats per real token and without smoothing; `entropy` and `entropy_q`
          (nats, mean over steps of alpha and of q), `advantage` (root mean square; 0 if nothing
          is drawn) and `tokens` (of the references).
        """
        q, out = jnp.exp(log_q), given.out
        kl = (q * (log_q - out.log_alpha)).sum(axis=-1)
        if places is None:
            terms = self._summed(given, q)
        else:
            terms = self._sampled(given, log_q, places, average)
        score = terms.score - jax.lax.stop_gradient(terms.score)
        gains = terms.gain - kl + self.hard.reinforce * score
        loss, report = self.of_steps(terms.log_prob - kl, gains, out, given.tokens)
        report |= {
            "kl": mean_over_words(kl, given.tokens),
            "entropy_q": mean_over_words(entropies(q, log_q), given.tokens),
            "advantage": jnp.sqrt(mean_over_words(terms.square, given.tokens)),
        }
        seen = jnp.broadcast_to(given.tokens != PAD, terms.credit.shape)
        return loss, average.update(terms.credit, seen), report

    def _summed(self, given: Reading, q: Float[Array, "B R T S"]) -> Terms:
        """All places, by the product form."""
        assert given.out.factors is not None
        exps = product_form.exponentials(given.out.factors)
        tokens = given.tokens.reshape(len(given.tokens), -1)
        log_p = product_form.log_given_place(exps, tokens).reshape(q.shape)
        log_prob = gain = (q * log_p).sum(axis=-1)
        if self.regularizers.label_smoothing:
            mean = product_form.mean_log_given_place(exps).reshape(q.shape)
            gain = self.smoothed(log_prob, (q * mean).sum(axis=-1))
        nothing = jnp.zeros_like(gain)
        return Terms(log_prob, gain, nothing, nothing, jnp.zeros((0, *gain.shape)))

    def _sampled(
        self,
        given: Reading,
        log_q: Float[Array, "B R T S"],
        places: Int[Array, "N B R T"],
        average: MovingAverage,
    ) -> Terms:
        """The drawn places, and the score of q."""
        log_probs, gains = self.of_words(given.log_softmax_at(places), given.tokens)
        credit = jax.lax.stop_gradient(gains)
        advantage = credit - jax.lax.stop_gradient(self._baseline(given, log_q, credit, average))
        log_q_read = jnp.take_along_axis(log_q[None], places[..., None], axis=-1)[..., 0]
        score = (advantage * log_q_read).mean(axis=0)
        square = jnp.square(advantage).mean(axis=0)
        return Terms(log_probs.mean(axis=0), gains.mean(axis=0), score, square, credit)

    def _baseline(
        self,
        given: Reading,
        log_q: Float[Array, "B R T S"],
        credit: Float[Array, "N B R T"],
        average: MovingAverage,
    ) -> Float[Array, "_ _ _ _"]:
        """b in nats, see the module."""
        kind = self.hard.baseline
        if kind == "leave_one_out":
            return leave_one_out(credit[None])[0]
        if kind == "expected":
            mean = given.expectation(jnp.exp(log_q))
            return self.of_words(given.log_softmax(mean)[None], given.tokens)[1]
        if kind == "self_critical":
            likeliest = jnp.argmax(log_q, axis=-1)[None]
            return self.of_words(given.log_softmax_at(likeliest), given.tokens)[1]
        b = average.value() if kind == "moving_average" else jnp.zeros(())
        return b.reshape(1, 1, 1, 1)


def posterior(network: InferenceNetwork, given: Reading) -> Float[Array, "B R T S"]:
    """log q of every place at every step."""
    word = given.decoder.embed(given.tokens)
    return network(given.attending, word, given.vectors, given.out.log_alpha)
