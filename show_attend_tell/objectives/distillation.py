"""What other models would say, as a further target of likelihood training.

With teachers, the target of each word of a reference is their distribution beside the word itself
(Hinton, Vinyals and Dean 2015, arXiv:1503.02531; word by word over references as in Kim and Rush
2016, arXiv:1606.07947, section 3.1):

    (1 - lambda) L(y_t) - lambda sum_w p_T(w | y_<t, a) log p(w | y_<t, a)

L is the loss of the word, smoothed; p_T is the mean of the teachers' distributions, in which
nothing is dropped.

Symbols: as in `models.decoder`; V words.
"""

import dataclasses
from collections.abc import Sequence
from functools import partial

import jax
from flax import nnx
from jaxtyping import Array, Float, Int, PyTree

from show_attend_tell.models.captioner import Captioner, Inputs


@partial(jax.tree_util.register_dataclass, data_fields=["weights"], meta_fields=["graph"])
@dataclasses.dataclass(frozen=True)
class Teacher:
    """A trained captioner with soft attention, whose weights stay as they are.

    Attributes:
      graph: of the model.
      weights: all of them, see `models.captioner.all_weights`.
    """

    graph: nnx.GraphDef
    weights: PyTree

    @classmethod
    def of(cls, model: Captioner, weights: PyTree) -> "Teacher":
        """Takes the structure of a model, and weights for it."""
        return cls(nnx.graphdef(model), weights)

    def distribution(self, inputs: Inputs, tokens: Int[Array, "B R T"]) -> Float[Array, "B R T V"]:
        """p(w | y_<t, a) of every word at every step of given captions."""
        model = nnx.merge(self.graph, self.weights)
        return jax.nn.softmax(model.decoder(model.annotations(inputs), tokens).logits)


def mean_distribution(
    teachers: Sequence[Teacher], inputs: Inputs, tokens: Int[Array, "B R T"]
) -> Float[Array, "B R T V"]:
    """p_T: the mean of the teachers' distributions. No gradient flows through it."""
    said = [teacher.distribution(inputs, tokens) for teacher in teachers]
    return jax.lax.stop_gradient(sum(said[1:], said[0]) / len(said))


def cross_entropy(taught: Float[Array, "*S V"], logits: Float[Array, "*S V"]) -> Float[Array, "*S"]:
    """- sum_w p_T(w) log p(w), in nats."""
    return jax.nn.logsumexp(logits, axis=-1) - (taught * logits).sum(axis=-1)
