"""REBAR: REINFORCE with a relaxation of the drawn place as control variate.

Where the state does not depend on the drawn place, each step's place is one categorical variable
s ~ alpha_t, rewarded with f(s) = log p(y_t | s). The objective is Xu et al.'s bound of `reinforce`,
L_s = sum_t E[f(s)]. Tucker et al. 2017 (arXiv:1703.07370; categorical variables in their appendix)
subtract from REINFORCE's estimate one whose mean is known to be 0. With theta = log alpha_t,

    z  = theta + G,    s = argmax z,    w  = softmax(z / tau)      G, G' independent Gumbel noise
    z~ = theta + G' given that its argmax is s,    w~ = softmax(z~ / tau)
    f(w) = log p(y_t | sum_i w_i a_i)                              the reward of a relaxed reading

the gradient of every parameter is estimated by

    d f(s) + [f(s) - eta f(w~)] d log alpha_s + eta d_theta f(w) - eta d_theta f(w~)

where z~ is differentiated through its reparameterisation by uniform noise (Grathwohl et al. 2018,
arXiv:1711.00123, appendix B; see `models.straight_through.perturbed_given`) with s held fixed.

It is unbiased for every eta and tau. E d f(s) + E[f(s) d log alpha_s] is the gradient of E f(s).
What eta multiplies has mean 0: w has the distribution that w~ has if s is drawn first, so

    E[d_theta f(w)] = d_theta E[f(w)] = d_theta E_s E[f(w~) | s]
                    = E[f(w~) d log alpha_s + d_theta f(w~)].

d_theta follows f(w) and f(w~) into w and w~ only: the decoder's weights, its state and the vectors
are constants there. Their own terms, eta d f(w) - eta d f(w~), have mean 0, too. They would only
add noise: given s, w and w~ are independent draws of the same distribution. So the output's weights
have the gradient of f(s), as in REINFORCE.

f(w~) is a baseline that may depend on s, since the two last terms undo what it changes in the mean.
With eta = 0 this is REINFORCE with the credit `word` and no baseline. It costs one scan and three
deep outputs for each of the N draws; a baseline and another credit have no effect.

Symbols as in `models.decoder`, S places with the null place, N draws a step.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from show_attend_tell.models.captioner import Captioner
from show_attend_tell.models.straight_through import perturbed_given
from show_attend_tell.objectives.objective import Batch, Report, encoder_key
from show_attend_tell.objectives.reading import Reading
from show_attend_tell.objectives.sampling import draw_choice, sampling_key
from show_attend_tell.objectives.stepwise import Stepwise, mean_over_words

_GIVEN = 0x2EBA  # folded into the key of the places: the noise of z~


class Noise(NamedTuple):
    """Independent Gumbel noise: G, which draws the places, and G'."""

    drawing: Float[Array, "N B R T S"]
    given: Float[Array, "N B R T S"]


class Perturbed(NamedTuple):
    """A step's draws: z, its argmax s, and z~, whose argmax is s as well."""

    free: Float[Array, "N B R T S"]
    places: Int[Array, "N B R T"]
    tied: Float[Array, "N B R T S"]


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Rebar(Stepwise):
    """Minus the mean of log p(y_t | s_t) over drawn places, with the gradient of the module.

    Label smoothing acts on log p wherever it stands, the credit included; for the rest see
    `Stepwise`. Of `hard` also N, tau, eta and the weight of the estimate for alpha apply.
    """

    def loss(
        self,
        model: Captioner,
        batch: Batch,
        key: PRNGKeyArray,
        state: dict[str, Array],
        step: Int[Array, ""] | int,
    ) -> tuple[Float[Array, ""], dict[str, Array], Report]:
        """See `Objective.loss` and, for what it reports, `loss_at`."""
        annotations = model.annotations(batch["inputs"], encoder_key(key))
        given = Reading.of(model.decoder, annotations, batch["tokens"], key)
        noise = draw_noise(sampling_key(key), self.hard.samples, given.out.log_alpha.shape)
        loss, report = self.loss_at(given, noise)
        loss, report = self.regularized(loss, report, given.out, annotations, batch)
        return loss, state, report

    def loss_at(self, given: Reading, noise: Noise) -> tuple[Float[Array, ""], Report]:
        """The loss without penalty and supervision.

        Args:
          given: the batch.
          noise: of N draws at each step.

        Returns:
          The loss, and a report: `nll` (nats per real token, mean over draws, without smoothing),
          `entropy` (nats, mean over steps of alpha), `advantage` (root mean square of
          f(s) - eta f(w~)) and `tokens` (of the references).
        """
        eta, tau = self.hard.control, self.hard.relaxation_temperature
        log_alpha, tokens = given.out.log_alpha, given.tokens
        drawn, held = perturbed(log_alpha, noise), given.held()
        log_probs, gains = self.of_words(given.log_softmax_at(drawn.places), tokens)

        def relaxed(z: Float[Array, "N B R T S"]) -> Float[Array, "N B R T"]:
            weights = jax.nn.softmax(z / tau, axis=-1)
            return self.of_words(held.log_softmax_of(weights), tokens)[1]

        free, tied = relaxed(drawn.free), relaxed(drawn.tied)
        log_p_s = jnp.take_along_axis(log_alpha[None], drawn.places[..., None], axis=-1)[..., 0]
        advantage = jax.lax.stop_gradient(gains - eta * tied)
        estimate = advantage * log_p_s + eta * (free - tied)
        # Only the gradient of the estimate counts.
        gains += self.hard.reinforce * (estimate - jax.lax.stop_gradient(estimate))
        loss, report = self.of_steps(log_probs.mean(axis=0), gains.mean(axis=0), given.out, tokens)
        square = mean_over_words(jnp.square(advantage).mean(axis=0), tokens)
        return loss, report | {"advantage": jnp.sqrt(square)}


def draw_noise(key: PRNGKeyArray, samples: int, shape: tuple[int, ...]) -> Noise:
    """The noise of a training step; the places are those of `draw_choice` with the same key.

    Args:
      key: of all draws.
      samples: N.
      shape: (B, R, T, S).
    """
    images, rows, steps, places = shape

    def one(key: PRNGKeyArray) -> Float[Array, "N B R T S"]:
        noise = draw_choice(key, (images, samples * rows, steps, places)).noise
        return jnp.moveaxis(noise.reshape(images, samples, rows, steps, places), 1, 0)

    return Noise(one(key), one(jax.random.fold_in(key, _GIVEN)))


def perturbed(log_alpha: Float[Array, "B R T S"], noise: Noise) -> Perturbed:
    """z, s and z~ of the module, differentiable in log alpha.

    Args:
      log_alpha: normalised.
      noise: of N draws.
    """
    wide = jnp.broadcast_to(log_alpha[None], noise.drawing.shape)
    free = wide + noise.drawing
    places = jnp.argmax(free, axis=-1)
    drawn = jax.nn.one_hot(places, wide.shape[-1], dtype=bool)
    return Perturbed(free, places, perturbed_given(drawn, wide, noise.given))
