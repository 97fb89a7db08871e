"""What a run computes over given texts: where it looks for each token, before and after saying it.

Two kinds of map. The prior alpha is where a model looks before it speaks. The posterior is where
the word came from: alpha, reweighed by how probable each place makes the word that was said. Only a
model with a product form has a posterior (see `models.product_form`).

Symbols: n images, R texts of an image, T steps, L places, M places with the null place, K measured
steps.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from show_attend_tell.data.batches import Inputs
from show_attend_tell.inference.run import Run
from show_attend_tell.models import product_form
from show_attend_tell.models.teacher_forced import TeacherForced
from show_attend_tell.tokens import EOS

IMAGES_AT_ONCE = 25


class Maps(NamedTuple):
    """The maps of some steps; rows sum to 1, less the share that a null place took."""

    prior: Float[np.ndarray, "K L"]
    posterior: Float[np.ndarray, "K L"] | None


def encoded_texts(texts: Sequence[Sequence[Sequence[int]]], rows: int) -> Int[np.ndarray, "n R T"]:
    """Word ids of each image's texts, each closed by <eos>, then <pad>, as rows of one length."""
    longest = max((len(ids) for of_image in texts for ids in of_image), default=0)
    tokens = np.zeros((len(texts), rows, longest + 1), np.int32)
    for image, of_image in enumerate(texts):
        for row, ids in enumerate(of_image):
            tokens[image, row, : len(ids) + 1] = [*ids, EOS]
    return tokens


def maps_at(
    run: Run,
    inputs: Inputs,
    tokens: Int[np.ndarray, "n R T"],
    steps: Int[np.ndarray, "K 3"],
    pictures: Int[np.ndarray, " n"] | None = None,
) -> Maps:
    """Teacher-forced maps of some steps.

    Args:
      run: a trained run.
      inputs: of the images.
      tokens: the texts of each image.
      steps: (image, row, step) of each map, in the order of the images.
      pictures: which image's input each text is read with; None: its own.
    """
    compute = _compute(nnx.graphdef(run.model))
    pictures = np.arange(len(tokens)) if pictures is None else pictures
    priors, posteriors = [], []
    for begin in range(0, len(tokens), IMAGES_AT_ONCE):
        numbers = np.arange(begin, min(begin + IMAGES_AT_ONCE, len(tokens)))
        here = steps[(steps[:, 0] >= begin) & (steps[:, 0] < begin + IMAGES_AT_ONCE)]
        if not len(here):
            continue
        filled = np.resize(numbers, IMAGES_AT_ONCE)  # one shape for all batches
        given = jnp.asarray(inputs[pictures[filled]]), jnp.asarray(tokens[filled])
        prior, posterior = compute(run.params, *given)
        image, row, step = (here - [begin, 0, 0]).T
        priors.append(np.asarray(prior)[image, row, step])
        if posterior is not None:
            posteriors.append(np.asarray(posterior)[image, row, step])
    return Maps(np.concatenate(priors), np.concatenate(posteriors) if posteriors else None)


_Computed = tuple[Float[Array, "B R T L"], Float[Array, "B R T L"] | None]


@lru_cache(maxsize=4)
def _compute(graph: nnx.GraphDef) -> Callable[[Any, Array, Array], _Computed]:
    """A jitted function (parameters, inputs, tokens) -> prior and posterior of all steps."""

    @jax.jit
    def run(params: Any, inputs: Array, tokens: Int[Array, "B R T"]) -> _Computed:
        model = nnx.merge(graph, params)
        annotations = model.annotations(inputs)
        out = model.decoder(annotations, tokens)
        real = slice(annotations.vectors.shape[1])
        posterior = log_posteriors(out, tokens)
        if posterior is not None:
            posterior = jnp.exp(posterior)[..., real]
        return out.alpha[..., real], posterior

    return run


def log_posteriors(
    out: TeacherForced, tokens: Int[Array, "B R T"]
) -> Float[Array, "B R T M"] | None:
    """The log of the posterior given each word of texts; None without a product form."""
    if out.factors is None:
        return None
    flat = tokens.reshape(len(tokens), -1)
    _, found = product_form.log_marginal(product_form.exponentials(out.factors), flat)
    return found.reshape(out.log_alpha.shape)
