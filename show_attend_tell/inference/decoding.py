"""The program that decodes: one jitted function for a model, or for an ensemble of models.

Symbols: B inputs, K beams, N models, T steps, L places, V words.
"""

import dataclasses
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int, Key, PRNGKeyArray, PyTree

from show_attend_tell import devices
from show_attend_tell.errors import UserError
from show_attend_tell.inference.given_steps import GivenSteps, choice_of
from show_attend_tell.inference.neighbours import Neighbours, seen_in
from show_attend_tell.models import recurrence, search
from show_attend_tell.models.attention import Annotations, Choice
from show_attend_tell.models.captioner import Captioner
from show_attend_tell.models.choosing import Sampling
from show_attend_tell.models.consensus import by_consensus
from show_attend_tell.settings import Decode
from show_attend_tell.tokens import EOS, PAD, UNK

# (parameters, inputs (B, ...), numbers (B,), given steps and neighbours if any) -> hypotheses.
DecodeFunction = Callable[..., search.Hypotheses]
_WORDS = 0x3A3  # folded into the key of drawn words, apart from that of drawn places
_PICTURE = 0x1000  # for places of a picture, apart from those of words
_MODELS = 0x3A40  # with a number, into those of an ensemble's further models


def make_decode(
    model: Captioner | Sequence[Captioner],
    decoding: Decode,
    contexts: Sequence[str] | None = None,
    *,
    per_token: bool = False,
) -> DecodeFunction:
    """A jitted function (parameters, inputs (B, ...), numbers (B,), ...) -> hypotheses.

    Only the structure of `model` matters. The numbers of the inputs and `decoding.seed` seed their
    random draws (of places with context `sample`, of words with search `sample`). With `given`
    (`GivenSteps`) some steps are decided from outside; with `near` (`Neighbours`, of the first
    model) the consensus asks training pictures, too. The same arguments give the same function, so
    that nothing compiles twice.

    Captions begin as the first model speaks (`packed.Starts`).

    Several models are an ensemble: at every step their distributions over the next word are
    averaged (`mean_of_distributions`). The function then takes tuples of parameters and of inputs,
    one of each for a model, and the trace is a tuple, too.

    Args:
      model: one or several.
      decoding: how to search.
      contexts: what each model's steps read; None: `decoding.context`.
      per_token: whether the hypotheses have the log-probability of each token.

    Raises:
      UserError: a model has no mixture of places to read.
    """
    models = (model,) if isinstance(model, Captioner) else tuple(model)
    contexts = tuple(contexts or [decoding.context] * len(models))
    for one, context in zip(models, contexts, strict=True):
        if context == "mixture" and not one.decoder.product_form:
            raise UserError(
                "config.decode.context is mixture: the model's output is no sum of a term of the "
                "state and one of the place (config.decoder.product_form); choose another context"
            )
    decoding = as_compiled(decoding)
    return _decode_function(tuple(map(nnx.graphdef, models)), contexts, decoding, per_token)


def as_compiled(decoding: Decode) -> Decode:
    """The options, equal where programs are: these ask whether one caption counts or several."""
    return dataclasses.replace(decoding, n_best=min(decoding.n_best, 2))


@lru_cache(maxsize=16)
def _decode_function(
    graphs: tuple[nnx.GraphDef, ...], contexts: tuple[str, ...], decoding: Decode, per_token: bool
) -> DecodeFunction:
    unknown = (UNK,) if decoding.ban_unk else ()

    @partial(jax.jit, out_shardings=devices.everywhere())
    def run(
        params: Any,
        inputs: Any,
        numbers: Int[Array, " B"],
        given: GivenSteps | None = None,
        near: Neighbours | None = None,
    ) -> search.Hypotheses:
        if len(graphs) == 1:
            params, inputs = (params,), (inputs,)
        models = [nnx.merge(*pair) for pair in zip(graphs, params, strict=True)]
        first = models[0].decoder  # the models of an ensemble share a vocabulary
        keys = _keys(jax.random.key(decoding.seed), numbers)
        annotated = [model.annotations(one) for model, one in zip(models, inputs, strict=True)]
        steps, states = zip(
            *(
                _step_of(model, one, context, _of_model(keys, i), decoding.max_length, given)
                for i, (model, one, context) in enumerate(
                    zip(models, annotated, contexts, strict=True)
                )
            ),
            strict=True,
        )

        def step(states: tuple[recurrence.State, ...], words: Int[Array, "B K"]):
            told = [one(state, words) for one, state in zip(steps, states, strict=True)]
            logits, states, traces = zip(*told, strict=True)
            if len(graphs) == 1:
                return logits[0], states, traces[0]
            return mean_of_distributions(logits), states, traces

        found = search.beam_search(
            step,
            states,
            batch=len(numbers),
            beam=decoding.beam,
            max_length=decoding.max_length,
            bos=first.starts.spoken[0],
            eos=EOS,
            pad=PAD,
            banned=(*first.starts.unsaid, *unknown),
            length_penalty=decoding.length_penalty,
            given=None if given is None else jnp.asarray(given.words),
            min_length=decoding.min_length,
            no_repeat=decoding.no_repeat,
            groups=decoding.groups,
            diversity=decoding.diversity,
            sampling=_sampling(decoding, numbers),
            per_token=per_token,
            several=decoding.n_best > 1 or decoding.consensus,
        )
        if not decoding.consensus:
            return found
        if near is None:
            return by_consensus(found)
        seen = seen_in(models[0], annotated[0])
        return by_consensus(found, near.agreement(found.tokens, seen, decoding.neighbours))

    return run


def mean_of_distributions(logits: Sequence[Float[Array, "B K V"]]) -> Float[Array, "B K V"]:
    """The log of the mean over models of p, not the mean of log p.

    A word is thus as probable as if one of the models, chosen anew at each step, said it.
    """
    log_probs = [jax.nn.log_softmax(one.astype(jnp.float32)) for one in logits]
    return jax.nn.logsumexp(jnp.stack(log_probs), axis=0) - np.float32(np.log(len(logits)))


def _keys(key: PRNGKeyArray, numbers: Int[Array, " B"]) -> Key[Array, " B"]:
    """A key for each input."""
    return jax.vmap(jax.random.fold_in, (None, 0))(key, numbers)


def _of_model(keys: Key[Array, " B"], number: int) -> Key[Array, " B"]:
    """The keys of one model of an ensemble; the first has those of a model by itself."""
    return jax.vmap(jax.random.fold_in, (0, None))(keys, _MODELS + number) if number else keys


def _sampling(decoding: Decode, numbers: Int[Array, " B"]) -> Sampling | None:
    """How words are drawn, reproducible per input, step and beam; None: they are searched for."""
    if decoding.search != "sample":
        return None
    keys = _keys(jax.random.fold_in(jax.random.key(decoding.seed), _WORDS), numbers)

    def noise(time: Int[Array, ""], shape: tuple[int, ...]) -> Float[Array, "B K V"]:
        now = jax.vmap(jax.random.fold_in, (0, None))(keys, time)
        return jax.vmap(lambda key: jax.random.gumbel(key, shape[1:]))(now)

    return Sampling(noise, decoding.temperature, decoding.top_k, decoding.top_p)


def _step_of(
    model: Captioner,
    annotations: Annotations,
    context: str,
    keys: Key[Array, " B"],
    max_length: int,
    given: GivenSteps | None,
) -> tuple[search.Step, PyTree]:
    """The step function of one model, and its initial state."""
    decoder = model.decoder
    memory, locations = decoder.memory(annotations), annotations.vectors.shape[1]
    weights = decoder.weights()

    def noise_of(time: Int[Array, "B K"], places: int, keys: Key[Array, " B"]) -> Array:
        shape = (*time.shape, places)
        if context != "sample":
            return jnp.zeros(shape)
        step_keys = jax.vmap(jax.random.fold_in)(keys, time[:, 0])
        return jax.vmap(lambda key: jax.random.gumbel(key, shape[1:]))(step_keys)

    def choose(time: Int[Array, "B K"]) -> Choice | None:
        assert memory.annotations is not None
        noise = noise_of(time, memory.annotations.shape[1], keys)
        places = None if given is None else jnp.asarray(given.places)[:, time[0, 0]]
        choice = choice_of(context, noise, places)
        if choice is None or memory.seen is None or not (decoder.sight and decoder.sight.hard):
            return choice
        # The context is that of every attention which is hard.
        noise = noise_of(time, memory.seen.annotations.shape[1], _of_model(keys, _PICTURE))
        if not decoder.step_config.renormalise:
            free = True if places is None else (places < 0)[:, None]
            choice = choice._replace(expected=choice.expected | free)
        return choice._replace(of_picture=choice_of(context, noise))

    def step(state: recurrence.State, words: Int[Array, "B K"]):
        choice = choose(state.time)
        mixture = context == "mixture"
        logits, state, output = decoder.emit(weights, memory, state, words, choice, mixture=mixture)
        alpha, location = output.alpha[..., :locations], cast(Array, output.location)
        location = jnp.where(location < locations, location, jnp.argmax(alpha, axis=-1))
        trace = {"alpha": alpha, "beta": output.beta, "location": location}
        if output.self_log_alpha is not None:
            trace["self_alpha"] = jnp.exp(output.self_log_alpha)
        if output.look is not None:
            look = output.look
            trace["picture"] = jnp.exp(look.log_alpha), look.beta, look.location
        return logits, state, trace

    initial = recurrence.initial_state(weights, memory, 1, max_length)
    return step, jax.tree.map(lambda s: s[:, 0], initial)
