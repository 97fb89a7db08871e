"""The encoder of sentences: source words in, one annotation vector for each word out.

Symbols: B sentences, S source words, E embedding, H units of each direction, D annotation features.
"""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from show_attend_tell import settings
from show_attend_tell.models import fast_scan, recurrence
from show_attend_tell.models.attention import Annotations
from show_attend_tell.models.encoders.base import Encoder
from show_attend_tell.tokens import PAD


class SentenceEncoder(Encoder):
    """The states of a recurrent network over the source words (Bahdanau et al. 2015, A.2.1).

    h_i = [forward_i; backward_i]. With annotations `last` there is a single vector: the last state
    of each direction. It is the fixed context of sequence-to-sequence models (Cho et al. 2014;
    Sutskever et al. 2014), and attention has nothing to choose from.

    Args:
      options: see `settings.SentenceEncoder`. The cell `lstmn` is an LSTM with self-attention
        (Cheng et al. 2016).
      vocabulary: number of source words, the four special ones included.

    Attributes:
      tied: whether whoever builds a captioner makes the word vectors those of its decoder.
      features: D, which is H or, with two directions, 2 H.
      grid: None, since the places form a sequence.
    """

    def __init__(self, options: settings.SentenceEncoder, *, vocabulary: int, rngs: nnx.Rngs):
        self.embed = nnx.Embed(
            vocabulary,
            options.embedding,
            embedding_init=nnx.initializers.normal(0.1),
            rngs=rngs,
        )
        self.tied = options.tied
        self.dropout = nnx.Dropout(options.dropout)
        directions = 2 if options.bidirectional else 1
        self.directions = nnx.List(
            _Direction(options.name, options.embedding, options.hidden, rngs=rngs)
            for _ in range(directions)
        )
        self.features = directions * options.hidden
        self.grid = None
        self.all_states = options.annotations == "all"

    def sharing(self, vectors: nnx.Param) -> "SentenceEncoder":
        if not self.tied:
            return self
        shared = nnx.clone(self)
        shared.embed.embedding = vectors
        return shared

    def annotations(
        self, inputs: Int[Array, "B S"], key: PRNGKeyArray | None = None
    ) -> Annotations:
        """Annotation vectors (B, S, D), or (B, 1, D) of the last states.

        Args:
          inputs: words of the source sentences, then <pad>.
          key: switches dropout on.
        """
        mask = inputs != PAD
        lengths = mask.sum(axis=1)
        embedded = self.dropout(self.embed(inputs), deterministic=key is None, rngs=key)
        # The second direction reads each sentence from its own end, so padding comes last.
        position = jnp.arange(inputs.shape[1])[None]
        mirrored = jnp.where(mask, lengths[:, None] - 1 - position, position)
        states = []
        for direction, order in zip(self.directions, (None, mirrored), strict=False):
            h = direction(_in_order(embedded, order))
            if not self.all_states:
                states.append(_in_order(h, lengths[:, None] - 1))
            else:
                states.append(_in_order(h, order))
        annotations = jnp.concatenate(states, axis=-1)
        return Annotations(annotations, mask if self.all_states else None)


def _in_order(x: Float[Array, "B S N"], order: Int[Array, "B P"] | None) -> Float[Array, "B P N"]:
    """The vectors of each sentence in another order."""
    return x if order is None else jnp.take_along_axis(x, order[..., None], axis=1)


class _Direction(nnx.Module):
    """One recurrent network.

    Args:
      name: the cell, `gru`, `lstm` or `lstmn`.
      embedding, hidden: E and H.
    """

    def __init__(self, name: str, embedding: int, hidden: int, *, rngs: nnx.Rngs):
        self.step_config = recurrence.StepConfig(cell="gru" if name == "gru" else "lstm")
        self.hidden = hidden
        gates = (3 if name == "gru" else 4) * hidden
        biases = nnx.initializers.zeros if name == "gru" else recurrence.forget_one
        self.word = nnx.Linear(embedding, gates, bias_init=biases, rngs=rngs)
        self.state = nnx.Linear(hidden, gates, use_bias=False, rngs=rngs)
        self.self_attention = (
            recurrence.SelfAttention(embedding, hidden, hidden, rngs=rngs)
            if name == "lstmn"
            else None
        )

    def __call__(self, embedded: Float[Array, "B S E"]) -> Float[Array, "B S H"]:
        """The state after each word; the first state is zero."""
        count, steps, _ = embedded.shape
        zeros = jnp.zeros((count, self.hidden))
        memory = recurrence.Memory(None, None, zeros, zeros)
        # Steps first, and one row for each sentence.
        embedded = jnp.moveaxis(embedded, 1, 0)[:, :, None]
        back = self.self_attention
        words = recurrence.WordInputs(
            self.word(embedded), None if back is None else back.word(embedded)
        )
        weights = recurrence.Weights(
            matrices=recurrence.Matrices(
                lstm=self.state.kernel[...],
                self_key=None if back is None else back.key.kernel[...],
                self_query=None if back is None else back.query.kernel[...],
            ),
            self_score=None if back is None else back.score.kernel[...][:, 0],
            config=self.step_config,
        )
        starts: Bool[Array, "S B 1"] = jnp.zeros((steps, count, 1), bool).at[0].set(True)
        h, _ = fast_scan.run(weights, memory, words, starts)
        return jnp.moveaxis(h[:, :, 0], 0, 1)
