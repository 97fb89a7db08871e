"""The LSTM decoder of Xu et al. 2015: init MLPs, attention, gate beta, deep output; and its kin.

Symbols: B images, R caption rows of an image, T steps, L locations, D annotation features,
H LSTM units, E embedding, V words; and the paper's a, h, c, z, alpha, beta.

A row of `tokens` holds one or more captions of one image, each closed by <eos>, then <pad>. What
a caption's first step sees (<bos> and the initial state) depends on the image alone, so packing
several captions into one row changes no number, only how many steps are spent on padding.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from show_attend_tell.models import fast_scan, recurrence
from show_attend_tell.models.attention import Annotations, Attention, Choice
from show_attend_tell.models.recurrence import Memory, WordInputs
from show_attend_tell.tokens import BOS, EOS, PAD


class TeacherForced(NamedTuple):
    """The decoder run over given captions."""

    logits: Float[Array, "B R T V"]
    log_alpha: Float[Array, "B R T L"]
    location: Int[Array, "B R T"]
    beta: Float[Array, "B R T"]
    previous_h: Float[Array, "B R T H"]  # h_{t-1}
    mean_annotation: Float[Array, "B D"]

    @property
    def alpha(self) -> Float[Array, "B R T L"]:
        return jnp.exp(self.log_alpha)


def caption_starts(tokens: Int[Array, "B R T"]) -> Bool[Array, "B R T"]:
    """Whether a caption begins at a position: the first one, or the one after an <eos>."""
    first = jnp.ones_like(tokens[..., :1], bool)
    return jnp.concatenate([first, tokens[..., :-1] == EOS], axis=-1)


def input_words(tokens: Int[Array, "B R T"]) -> Int[Array, "B R T"]:
    """y_{t-1} for every position: <bos> where a caption begins, else the previous word."""
    previous = jnp.roll(tokens, 1, axis=-1)
    return jnp.where(caption_starts(tokens), BOS, previous)


def same_caption(tokens: Int[Array, "B R T"]) -> Float[Array, "B R T T"]:
    """M[t, s] = 1 where steps t and s belong to one caption and neither is padding, else 0."""
    caption = jnp.cumsum(caption_starts(tokens), axis=-1)
    real = tokens != PAD
    same = caption[..., :, None] == caption[..., None, :]
    return (same & real[..., :, None] & real[..., None, :]).astype(jnp.float32)


class Decoder(nnx.Module):
    """Decoder of "Show, Attend and Tell" (Xu et al. 2015, section 3.1.2).

    Args:
      vocabulary: V, number of words, the four special ones included.
      features: annotation features that the encoder gives.
      projection: D, size to which annotation vectors are first brought by a linear map; 0 leaves
        them as they are (the paper's 512 come from VGG itself).
      embedding, hidden, attention: E, H, A.
      score, window, reach, temperature: of attention, see there.
      grid: (h, w) of the places, row by row; None in a row, as of a sentence.
      renormalise: whether alpha sums to 1 within the Gaussian window of `local_p`.
      order: whether a step attends with the `previous` state h_{t-1} (Bahdanau, Xu) or with the
        `current` one h_t, whose attentional state h~_t is fed to the next step (Luong).
      self_attention: whether the LSTM goes on from an attended summary of all states before (LSTMN,
        Cheng et al. 2016), instead of from the last. All states before are kept at every step of
        training, so its memory grows with the square of a row's length.
      dropout: rate on word inputs and on the deep output, in [0, 1).
      annotation_dropout: rate on annotation vectors, each feature of each location by itself, in
        [0, 1).
      output_tanh: the released code's tanh around the deep output's sum; the paper (eq. 7) has
        none.
      deep_output: whether a word hangs on y_{t-1}, h_t and z_t (eq. 7), or on h_t alone. With
        order `current` h~_t has the place of h_t: Luong's output (eq. 6) is that without
        deep_output and output_tanh, but that L_o L_h stand for his one matrix.
      gate: whether beta_t scales the context; without it beta is 1.
      tied: whether L_o of the deep output is the transpose of the embedding E (Press and Wolf
        2017, arXiv 1608.05859), and not a matrix of its own as in the paper.
      dtype: number format of products, "float32" or, for accelerators, "bfloat16". Weights, sums,
        scores, the softmax, the LSTM's state and logits are in float32 in either case.
    """

    def __init__(
        self,
        *,
        vocabulary: int,
        features: int,
        projection: int,
        embedding: int,
        hidden: int,
        attention: int,
        score: str = "additive",
        window: str = "global",
        reach: int = 10,
        temperature: float = 1.0,
        grid: tuple[int, int] | None = None,
        renormalise: bool = False,
        order: str = "previous",
        self_attention: bool = False,
        dropout: float,
        annotation_dropout: float,
        output_tanh: bool,
        gate: bool,
        tied: bool,
        dtype: str = "float32",
        deep_output: bool = True,
        rngs: nnx.Rngs,
    ):
        self.dtype = jnp.dtype(dtype)
        linear = partial(nnx.Linear, dtype=self.dtype, rngs=rngs)
        self.projection = linear(features, projection) if projection else None
        size = projection or features
        self.init_h = linear(size, hidden)
        self.init_c = linear(size, hidden)
        self.embed = nnx.Embed(
            vocabulary,
            embedding,
            embedding_init=nnx.initializers.normal(0.1),
            dtype=self.dtype,
            rngs=rngs,
        )
        self.attention = Attention(
            size,
            hidden,
            attention,
            score=score,
            window=window,
            coordinates=1 if grid is None else 2,
            temperature=temperature,
            dtype=self.dtype,
            rngs=rngs,
        )
        self.grid = grid
        self.step_config = recurrence.StepConfig(
            window=window, reach=reach, renormalise=renormalise
        )
        self.gate = nnx.Linear(hidden, 1, rngs=rngs) if gate else None
        # The LSTM's weights are kept by input, since words enter in one product before the scan.
        self.lstm_word = linear(embedding, 4 * hidden, bias_init=recurrence.forget_one)
        read = hidden if order == "current" else size
        self.lstm_state = linear(hidden + read, 4 * hidden, use_bias=False)
        luong = order == "current"
        self.combine = linear(size + hidden, hidden, use_bias=False) if luong else None
        self.self_attention = (
            recurrence.SelfAttention(embedding, hidden, attention, dtype=self.dtype, rngs=rngs)
            if self_attention
            else None
        )
        self.output_h = linear(hidden, embedding, use_bias=False)
        self.output_z = linear(size, embedding) if deep_output else None
        self.output_word = None if tied else linear(embedding, vocabulary)
        self.output_bias = nnx.Param(jnp.zeros(vocabulary)) if tied else None
        self.dropout = nnx.Dropout(dropout)
        self.annotation_dropout = nnx.Dropout(annotation_dropout)
        self.output_tanh = output_tanh

    def memory(self, annotations: Annotations, key: PRNGKeyArray | None = None) -> Memory:
        """Everything of the inputs (B, L, F) that no step changes. `key` switches dropout on."""
        a, mask = annotations.vectors.astype(jnp.float32), annotations.mask
        a = self.annotation_dropout(a, deterministic=key is None, rngs=key)
        if self.projection is not None:
            a = self.projection(a)
        mean = _mean(a, mask)
        places, extent = None, None
        if self.step_config.window != "global":
            places, extent = _places(a, mask, self.grid)
        return Memory(
            annotations=a.astype(self.dtype),
            keys=self.attention.keys(a),
            h0=jnp.tanh(self.init_h(mean).astype(jnp.float32)),
            c0=jnp.tanh(self.init_c(mean).astype(jnp.float32)),
            mask=mask,
            places=places,
            extent=extent,
        )

    def words(self, embedded: Float[Array, "*S E"]) -> WordInputs:
        """The input words' shares of the steps' pre-activations (G = 4 H)."""
        query = None
        if self.self_attention is not None:
            query = self.self_attention.word(embedded).astype(jnp.float32)
        return WordInputs(self.lstm_word(embedded).astype(jnp.float32), query)

    def weights(self) -> recurrence.Weights:
        """What every step of the recurrence computes with."""

        def matrix(layer: nnx.Linear | None, *, exact: bool = False) -> Array | None:
            if layer is None:
                return None
            return jnp.asarray(layer.kernel[...], jnp.float32 if exact else self.dtype)

        attention, back = self.attention, self.self_attention
        additive = attention.score is not None
        score = attention.score.kernel[...][:, 0] / attention.temperature if additive else None
        return recurrence.Weights(
            matrices=recurrence.Matrices(
                lstm=matrix(self.lstm_state),
                query=matrix(attention.query) if additive else None,
                beta=matrix(self.gate, exact=True),
                centre=matrix(attention.centre),
                combine=matrix(self.combine),
                self_key=None if back is None else matrix(back.key),
                self_query=None if back is None else matrix(back.query),
            ),
            score=score,
            beta_bias=None if self.gate is None else self.gate.bias[...][0],
            centre_score=matrix(attention.centre_score, exact=True),
            self_score=None if back is None else back.score.kernel[...][:, 0],
            config=self.step_config,
        )

    def output(
        self,
        embedded: Float[Array, "*S E"],
        h: Float[Array, "*S H"],
        z: Float[Array, "*S D"],
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "*S V"]:
        """The deep output (eq. 7): L_o (E y_{t-1} + L_h h_t + L_z z_t), as logits."""
        hidden = self.output_h(h)
        if self.output_z is not None:
            hidden = embedded + hidden + self.output_z(z)
        if self.output_tanh:
            hidden = jnp.tanh(hidden)
        hidden = self.dropout(hidden, deterministic=key is None, rngs=key)
        if self.output_word is None:
            logits = self.embed.attend(hidden).astype(jnp.float32)
            return logits + self.output_bias[...].reshape((1,) * (logits.ndim - 1) + (-1,))
        return self.output_word(hidden).astype(jnp.float32)

    def emit(
        self,
        weights: recurrence.Weights,
        memory: Memory,
        state: recurrence.State,
        words: Int[Array, "B K"],
        choice: Choice | None = None,
    ) -> tuple[Float[Array, "B K V"], recurrence.State, recurrence.StepOutput]:
        """One step of decoding: the next word's logits after `words`, without dropout."""
        embedded = self.embed(words)
        state, output = recurrence.step(weights, memory, state, self.words(embedded), choice)
        h = state.h if output.attentional is None else output.attentional
        return self.output(embedded, h, output.z), state, output

    def __call__(
        self,
        annotations: Annotations,
        tokens: Int[Array, "B R T"],
        key: PRNGKeyArray | None = None,
        choice: Choice | None = None,
    ) -> TeacherForced:
        """Runs over given captions (packed rows, see the module).

        Args:
          annotations: (B, L, F).
          tokens: R rows of captions for each.
          key: switches dropout on.
          choice: hard attention's noise for every step (B, R, T, L), and the rows (B, R) that
            take the expectation; None is soft attention.
        """
        keys = (None,) * 3 if key is None else tuple(jax.random.split(key, 3))
        memory = self.memory(annotations, keys[0])
        # Time comes first up to the recurrence, so that gates, by far the largest, never move.
        starts = caption_starts(tokens)
        embedded = self.embed(_time_first(input_words(tokens)))
        embedded = self.dropout(embedded, deterministic=key is None, rngs=keys[1])
        if choice is not None:
            choice = choice._replace(noise=_time_first(choice.noise))
        words = self.words(embedded)
        h, output = fast_scan.run(self.weights(), memory, words, _time_first(starts), choice)
        embedded, h, output = jax.tree.map(_time_last, (embedded, h, output))
        before = jnp.roll(h, 1, axis=2)
        previous_h = jnp.where(starts[..., None], memory.h0[:, None, None], before)
        put_out = h if output.attentional is None else output.attentional
        logits = self.output(embedded, put_out, output.z, keys[2])
        mean = _mean(memory.annotations, memory.mask)
        return TeacherForced(
            logits, output.log_alpha, output.location, output.beta, previous_h, mean
        )


def _mean(a: Float[Array, "B L D"], mask: Bool[Array, "B L"] | None) -> Float[Array, "B D"]:
    """The mean annotation vector, without padding, in float32."""
    a = a.astype(jnp.float32)
    if mask is None:
        return a.mean(axis=1)
    real = mask[..., None].astype(a.dtype)
    return (a * real).sum(axis=1) / real.sum(axis=1)


def _places(
    a: Float[Array, "B L D"], mask: Bool[Array, "B L"] | None, grid: tuple[int, int] | None
) -> tuple[Float[Array, "L K"], Float[Array, "B K"]]:
    """Where each place lies, counted along each coordinate, and how many there are along it."""
    images, count = a.shape[:2]
    if grid is not None:
        places = jnp.stack(jnp.divmod(jnp.arange(count), grid[1]), axis=-1)
        extent = jnp.broadcast_to(jnp.array([grid]), (images, 2))
    else:
        places = jnp.arange(count)[:, None]
        lengths = jnp.full(images, count) if mask is None else mask.sum(axis=1)
        extent = lengths[:, None]
    return places.astype(jnp.float32), extent.astype(jnp.float32)


def _time_first(x: Array) -> Array:
    return jnp.moveaxis(x, 2, 0)


def _time_last(x: Array) -> Array:
    return jnp.moveaxis(x, 0, 2)
