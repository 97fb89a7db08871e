"""Does a word change when its step reads another place?

Forced gaze: up to a phrase's last word a run reads as it was trained to. At that step it reads one
place, each of all in turn, with its gate as it is. That gives p(word | look at i) for all places i
at the cost of one step for as many rows. If the state reads the place, it does so here, too.

Measured between the places inside of the phrase's boxes (whose centre lies in one) and all others:

- `inside_minus_outside`: the mean log-probability of the phrase's noun, in nats.
- `divergence`: the Jensen-Shannon divergence, in nats, between the next word's distributions of the
  two sets of places, each an even mixture. It is 0 where words do not depend on the place, and at
  most log 2 = 0.693.

Symbols: B words, T steps, L places, M places with the null place, V words of the vocabulary.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.scipy.special import entr
from jaxtyping import Array, Bool, Float, Int

from show_attend_tell.evaluation.boxes import Places, points_inside
from show_attend_tell.evaluation.given_split import Words
from show_attend_tell.evaluation.mentions import Mention
from show_attend_tell.inference.explaining import log_p_of_gaze
from show_attend_tell.inference.given_steps import FREE, GivenSteps
from show_attend_tell.inference.run import Run
from show_attend_tell.models.captioner import Captioner

WORDS_AT_ONCE = 50  # each has a row for every place
MOST_WORDS = 500  # phrases that are measured, drawn at random


def forced_gaze(
    run: Run, words: Words, mentions: Sequence[Mention], places: Places
) -> dict[str, Any] | None:
    """Measures how words change with the place that their step reads; see the module.

    Args:
      run: a trained run over images.
      words: of which at most `MOST_WORDS` are measured.
      mentions: what each word names.
      places: of the maps.

    Returns:
      `words` (how many were measured: those with a place inside and one outside of the boxes) and
      the means of `inside_minus_outside` and `divergence`; None without any such word.
    """
    drawn = words.drawn(MOST_WORDS)
    inside = np.stack([_inside(mentions[k], places) for k in drawn]) if len(drawn) else None
    if inside is None:
        return None
    split = inside.any(axis=1) & ~inside.all(axis=1)
    inside_of = dict(zip(drawn[split].tolist(), inside[split], strict=True))
    if not inside_of:
        return None
    compute, sums = _gaze(nnx.graphdef(run.model)), np.zeros(2)
    for batch in words.batches(drawn[split], WORDS_AT_ONCE):
        boxed = np.stack([inside_of[k] for k in batch.numbers.tolist()])
        found = compute(run.params, batch.inputs, batch.tokens, batch.step, boxed)
        sums += np.asarray(found)[:, : len(batch.step) - batch.filled].sum(axis=1)
    gain, divergence = (sums / len(inside_of)).tolist()
    return {"words": len(inside_of), "inside_minus_outside": gain, "divergence": divergence}


def _inside(mention: Mention, places: Places) -> Bool[np.ndarray, " L"]:
    return points_inside(places.centres, [mention.boxes] * len(places))


@lru_cache(maxsize=4)
def _gaze(graph: nnx.GraphDef) -> Callable[..., Float[Array, "2 B"]]:
    @jax.jit
    def run(
        params: Any,
        inputs: Array,
        tokens: Int[Array, "B T"],
        step: Int[Array, " B"],
        inside: Bool[Array, "B L"],
    ) -> Float[Array, "2 B"]:
        model: Captioner = nnx.merge(graph, params)
        given = GivenSteps(tokens, jnp.full(tokens.shape, FREE))
        log_p = log_p_of_gaze(model, inputs, given, step)
        word = jnp.take_along_axis(tokens, step[:, None], axis=1)[:, None]
        of_word = jnp.take_along_axis(log_p, word, axis=-1)[..., 0]
        share = jnp.stack([inside, ~inside], axis=1).astype(jnp.float32)
        share = share / share.sum(axis=-1, keepdims=True)
        within, outside = jnp.einsum("bkl,bl->kb", share, of_word)
        mixtures = jnp.einsum("bkl,blv->bkv", share, jnp.exp(log_p))
        divergence = entr(mixtures.mean(axis=1)).sum(-1) - entr(mixtures).sum(-1).mean(axis=1)
        return jnp.stack([within - outside, divergence])

    return run
