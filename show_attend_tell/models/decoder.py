"""The LSTM decoder of Xu et al. 2015 and its relatives.

It consists of initial-state MLPs, attention, the gate beta, an LSTM and the deep output.
Symbols: B images, R caption rows of an image, T steps, L locations, F features of an encoder's
annotation vectors, D those after the projection, H LSTM units, E embedding, V words; and the
paper's a, h, c, z, alpha, beta.

A row of `tokens` holds one or more captions of one image, each closed by <eos>, then <pad>. What a
caption's first step sees (<bos> and the initial state) depends on the image only. Packing several
captions into a row therefore changes no number; it only spends fewer steps on padding.
"""

from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from show_attend_tell import settings
from show_attend_tell.models import (
    packed,
    posterior_reading,
    product_form,
    recurrence,
    sight,
    step_weights,
    unroll,
)
from show_attend_tell.models.attention import (
    Annotations,
    Attention,
    Choice,
    coordinates,
    mean_vector,
)
from show_attend_tell.models.dropouts import Dropout, shared_dropout, withheld
from show_attend_tell.models.packed import caption_starts, input_words, time_first, time_last
from show_attend_tell.models.parts import Parts, with_scene
from show_attend_tell.models.products import Embedding, Linear, matmul
from show_attend_tell.models.recurrence import Memory, WordInputs
from show_attend_tell.models.teacher_forced import TeacherForced


class Decoder(nnx.Module):
    """Decoder of "Show, Attend and Tell" (Xu et al. 2015, section 3.1.2).

    Args:
      sizes: sizes, dropout rates and variants; `settings.Decoder` says what each one means. With
        `self_attention` every step of training keeps all earlier states, so memory grows with the
        square of a row's length. With `tied` L_o of the deep output is the transpose of the
        embedding E (Press and Wolf 2017, arXiv 1608.05859). With dtype `bfloat16` weights, sums,
        scores, softmax, the LSTM's state and logits still are float32; `auto` is float32 here.
      attention: kind, score, window, order and temperature. Order `previous` attends with h_{t-1}
        (Bahdanau, Xu). Order `current` attends with h_t and, unless the state reads nothing or a
        posterior, feeds its attentional state h~_t to the next step (Luong); h~_t then replaces h_t
        in the output. Luong's output (eq. 6) is the one without `deep_output` and `output_tanh`,
        with L_o L_h in place of his single matrix.
      vocabulary: V, the four special words included.
      features: F.
      grid: (h, w) of the locations, in reading order; None for the words of a sentence.
      sections, starts: of the features, see `Encoder`; of captions, see `packed.Starts`.
      picture: options and features of a picture beside the sentence; see `sight`.

    Attributes:
      features: D.

    Raises:
      UserError: the score `dot` cannot multiply vectors of these sizes.
    """

    features: int

    def __init__(
        self,
        sizes: settings.Decoder,
        attention: settings.Attention,
        *,
        vocabulary: int,
        features: int,
        grid: tuple[int, int] | None,
        sections: tuple[tuple[str, int], ...] = (),
        starts: packed.Starts = packed.BOS_ONLY,
        picture: tuple[settings.Picture, int] | None = None,
        rngs: nnx.Rngs,
    ):
        # Every layer draws its initial values from `rngs` in turn: their order must not change.
        self.dtype = jnp.dtype("float32" if sizes.dtype == "auto" else sizes.dtype)
        self.grid, self.starts = grid, starts
        self.step_config = recurrence.StepConfig(
            window=attention.window,
            reach=attention.reach,
            renormalise=attention.hard,
            order=attention.order,
            reads=attention.state_reads,
            read_out=attention.read_out,
            state_tanh=sizes.state_tanh,
        )
        self.parts = Parts.chosen(sections, features, sizes, attention)
        self.own_keys = bool(attention.keys)
        self.layer_norm = sizes.layer_norm
        features = self.parts.values.size
        linear = partial(Linear, dtype=self.dtype, rngs=rngs)
        self.projection = linear(features, sizes.projection) if sizes.projection else None
        self.features = features = sizes.projection or features
        first = (self.parts.first.size or features) if sizes.initial_state == "mean" else 0
        self.init_h = linear(first, sizes.hidden) if first else None
        self.init_c = linear(first, sizes.hidden) if first else None
        self.embed = Embedding(
            vocabulary,
            sizes.embedding,
            product_dtype=self.dtype,
            embedding_init=nnx.initializers.normal(0.1),
            rngs=rngs,
        )
        self.attention = Attention(
            attention,
            features=self.parts.keys.size if self.own_keys else features,
            hidden=sizes.hidden,
            coordinates=1 if grid is None else 2,
            grid=grid,
            dtype=self.dtype,
            rngs=rngs,
        )
        self.gate = nnx.Linear(sizes.hidden, 1, rngs=rngs) if sizes.gate else None
        self._make_recurrent_layers(sizes, attention, features, rngs)
        self.sight = (
            sight.Sight(*picture, attention, features, sizes, self.dtype, rngs) if picture else None
        )
        self._make_output_layers(sizes, vocabulary, features, rngs)
        self.dropout = Dropout(sizes.dropout, sizes.dropout_bits)
        self.annotation_dropout = Dropout(sizes.annotation_dropout, sizes.dropout_bits)
        constant = nnx.Param(jnp.zeros((2, sizes.hidden)))  # h_0 and c_0 before tanh
        self.first_state = constant if sizes.initial_state == "learned" else None

    def _make_recurrent_layers(
        self,
        sizes: settings.Decoder,
        attention: settings.Attention,
        features: int,
        rngs: nnx.Rngs,
    ) -> None:
        linear = partial(Linear, dtype=self.dtype, rngs=rngs)
        hidden, reads = sizes.hidden, attention.state_reads
        luong = attention.order == "current" and reads not in ("nothing", "posterior")
        # One layer for words and one for the state: words enter in one product before the scan.
        self.lstm_word = linear(sizes.embedding, 4 * hidden, bias_init=recurrence.forget_one)
        read = 0 if reads == "nothing" else hidden if luong else features
        self.lstm_state = linear(hidden + read, 4 * hidden, use_bias=False)
        self.combine = linear(features + hidden, hidden, use_bias=False) if luong else None
        self.self_attention = (
            recurrence.SelfAttention(
                sizes.embedding, hidden, attention.units, dtype=self.dtype, rngs=rngs
            )
            if sizes.self_attention
            else None
        )

    def _make_output_layers(
        self, sizes: settings.Decoder, vocabulary: int, features: int, rngs: nnx.Rngs
    ) -> None:
        linear = partial(Linear, dtype=self.dtype, rngs=rngs)
        self.output_tanh, self.state_tanh = sizes.output_tanh, sizes.state_tanh
        self.product_form = sizes.product_form
        self.output_h = linear(sizes.hidden, sizes.embedding, use_bias=False)
        self.output_z = linear(features, sizes.embedding) if sizes.deep_output else None
        self.output_word = None if sizes.tied else linear(sizes.embedding, vocabulary)
        self.output_bias = nnx.Param(jnp.zeros(vocabulary)) if sizes.tied else None
        self.scene_dropout, self.scene_scale = sizes.scene_dropout, sizes.scene_scale
        self.place_dropout, self.places_kept = sizes.place_dropout, sizes.places_kept
        seen = self.parts.scene.size
        self.output_scene = linear(seen, sizes.embedding, use_bias=False) if seen else None

    def places(self, locations: int) -> int:
        """The number of places that a step attends to, the null place included."""
        return locations + (self.attention.null_key is not None)

    def memory(self, annotations: Annotations, key: PRNGKeyArray | None = None) -> Memory:
        """What the steps need of annotation vectors (B, L, F). A `key` switches dropout on."""
        encoded, mask = annotations.vectors.astype(jnp.float32), annotations.mask
        a = self.parts.values.of(encoded, normalised=self.layer_norm)
        a = self.annotation_dropout(a, key)
        if self.projection is not None:
            a = self.projection(a)
        h0, c0 = self.begin(self.parts.to_begin_with(a, encoded, self.layer_norm), mask)
        places, extent = None, None
        if self.step_config.window != "global":
            places, extent = coordinates(a, mask, self.grid)
        of_keys = a
        if self.own_keys:
            of_keys = self.parts.keys.of(encoded, normalised=self.layer_norm)
        keys = self.attention.keys(of_keys, annotations.numbers)
        scene = self.scene(encoded, mask, key)
        if self.attention.null_key is not None:
            a, keys, mask = self.attention.with_null_place(a, keys, mask)
        return Memory(
            annotations=a.astype(self.dtype),
            keys=keys,
            h0=h0,
            c0=c0,
            mask=mask,
            places=places,
            extent=extent,
            scene=scene,
            seen=self._seen(annotations, key),
        )

    def _seen(self, annotations: Annotations, key: PRNGKeyArray | None) -> sight.Seen | None:
        if self.sight is None:
            return None
        assert annotations.picture is not None
        own = None if key is None else jax.random.fold_in(key, 2)
        return self.sight.seen(annotations.picture, own)

    def scene(
        self,
        encoded: Float[Array, "B L F"],
        mask: Bool[Array, "B L"] | None,
        key: PRNGKeyArray | None,
    ) -> Float[Array, "B E"] | None:
        """What the whole picture adds to every prediction; in training withheld from some images.

        A model that always had it, or learned it first, would not look for what it says.
        """
        if self.output_scene is None:
            return None
        scene = self.parts.scene.of(encoded, normalised=self.layer_norm)
        seen = self.scene_scale * mean_vector(scene, mask)
        own = None if key is None else jax.random.fold_in(key, 1)
        seen = self.annotation_dropout(seen, own)
        return withheld(self.output_scene(seen).astype(jnp.float32), self.scene_dropout, key)

    def begin(
        self, a: Float[Array, "B L _"], mask: Bool[Array, "B L"] | None
    ) -> tuple[Float[Array, "B H"], Float[Array, "B H"]]:
        """h_0 and c_0, of what `Parts.to_begin_with` chooses, without a null place."""
        if self.init_h is not None and self.init_c is not None:
            mean = mean_vector(a, mask)
            h, c = self.init_h(mean), self.init_c(mean)
            return jnp.tanh(h.astype(jnp.float32)), jnp.tanh(c.astype(jnp.float32))
        shape = (len(a), self.output_h.in_features)
        if self.first_state is None:
            return jnp.zeros(shape), jnp.zeros(shape)
        h, c = jnp.tanh(self.first_state[...])
        return jnp.broadcast_to(h[None], shape), jnp.broadcast_to(c[None], shape)

    def word_inputs(
        self, memory: Memory, words: Int[Array, "*T B R"], embedded: Float[Array, "*T B R E"]
    ) -> WordInputs:
        """What input words, also given embedded, contribute to the steps' pre-activations."""
        query, terms = None, None
        if self.self_attention is not None:
            query = self.self_attention.word(embedded).astype(jnp.float32)
        if memory.place_terms is not None:
            places, scene = memory.place_terms, memory.scene
            terms = posterior_reading.word_terms(places, words, embedded, scene, self.starts)
        return WordInputs(self.lstm_word(embedded).astype(jnp.float32), query, terms)

    def with_place_terms(self, memory: Memory) -> Memory:
        """The memory with all that steps need; it differs only where they read a posterior."""
        if self.step_config.reads != "posterior" or memory.place_terms is not None:
            return memory
        assert memory.annotations is not None
        logits = self.place_logits(memory.annotations)
        return memory._replace(place_terms=posterior_reading.place_terms(logits, memory.mask))

    def weights(self) -> recurrence.Weights:
        """What every step of the recurrence computes with; see `step_weights`."""
        own = (self.lstm_state, self.gate, self.combine)
        layers = step_weights.Layers(*own, self.attention, self.self_attention, self.sight)
        return step_weights.weights(layers, self.step_config, self.dtype, self._predictor())

    def _predictor(self) -> posterior_reading.Predictor | None:
        if self.step_config.reads != "posterior":
            return None
        word, bias = self.embed.embedding[...].T, self.output_bias
        if self.output_word is not None:
            word, bias = self.output_word.kernel[...], self.output_word.bias
        assert bias is not None
        h, word = (jnp.asarray(x, self.dtype) for x in (self.output_h.kernel[...], word))
        return posterior_reading.Predictor(h, word, jnp.asarray(bias[...]))

    def output(
        self,
        embedded: Float[Array, "*S E"],
        h: Float[Array, "*S H"],
        z: Float[Array, "*S D"],
        key: PRNGKeyArray | None = None,
        scene: Float[Array, "B E"] | None = None,
        paths: int = 1,
    ) -> Float[Array, "*S V"]:
        """Logits of the deep output (eq. 7): L_o (E y_{t-1} + L_h h_t + L_z z_t).

        In product form the terms of state and place have dropouts of their own.
        """
        if self.product_form:
            state = self._state_term(embedded, h, scene, key, paths)
            return self._logits(state + self._place_term(z, key))
        hidden = with_scene(self.output_h(h), scene)
        if self.output_z is not None:
            hidden = embedded + hidden + self.output_z(z)
        if self.output_tanh:
            hidden = jnp.tanh(hidden)
        return self._logits(self.dropout(hidden, key, paths))

    def _state_term(
        self,
        embedded: Float[Array, "*S E"],
        h: Float[Array, "*S H"],
        scene: Float[Array, "B E"] | None,
        key: PRNGKeyArray | None,
        paths: int,
    ) -> Float[Array, "*S E"]:
        hidden = with_scene(embedded + self.output_h(h), scene)
        if self.state_tanh:
            hidden = jnp.tanh(hidden)
        return self.dropout(hidden, key, paths)

    def _place_term(
        self, read: Float[Array, "B *S D"], key: PRNGKeyArray | None
    ) -> Float[Array, "B *S E"]:
        """L_z z_t."""
        assert self.output_z is not None
        return shared_dropout(self.output_z(read), self.place_dropout, key)

    def place_logits(
        self, annotations: Float[Array, "B L D"], key: PRNGKeyArray | None = None
    ) -> Float[Array, "B L V"]:
        """The places' term of the logits in product form, without a bias."""
        return self._words(self._place_term(annotations, key))

    def factors(
        self,
        memory: Memory,
        embedded: Float[Array, "B N E"],
        h: Float[Array, "B N H"],
        log_alpha: Float[Array, "B N L"],
        key: PRNGKeyArray | None = None,
        paths: int = 1,
    ) -> product_form.Factors:
        """The terms of the logits of N steps, for sums over places; see `models.product_form`."""
        assert memory.annotations is not None
        state = self._logits(self._state_term(embedded, h, memory.scene, key, paths))
        place = self.place_logits(memory.annotations, key)
        return product_form.Factors(*product_form.balanced(state, place, memory.mask), log_alpha)

    def _words(self, hidden: Float[Array, "*S E"]) -> Float[Array, "*S V"]:
        """L_o times a vector, without the bias."""
        if self.output_word is None:
            return self.embed.attend(hidden).astype(jnp.float32)
        return matmul(hidden, self.output_word.kernel[...].astype(self.dtype))

    def _logits(self, hidden: Float[Array, "*S E"]) -> Float[Array, "*S V"]:
        if self.output_word is None:
            assert self.output_bias is not None
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
        *,
        mixture: bool = False,
    ) -> tuple[Float[Array, "B K V"], recurrence.State, recurrence.StepOutput]:
        """One step of decoding, without dropout: the logits of the next word after `words`.

        With `mixture` they are the log-probabilities with the place summed out, which needs the
        product form; rows of a choice that read one place keep to it.
        """
        embedded, memory = self.embed(words), self.with_place_terms(memory)
        inputs = self.word_inputs(memory, words, embedded)
        state, out = recurrence.step(weights, memory, state, inputs, choice)
        assert out.z is not None and out.log_alpha is not None
        h = state.h if out.attentional is None else out.attentional
        mixed = None
        if mixture:
            factors = self.factors(memory, embedded, h, out.log_alpha)
            mixed = product_form.log_mixture(product_form.exponentials(factors))
            if choice is None:
                return mixed, state, out
        logits = self.output(embedded, h, out.z, None, memory.scene)
        if mixed is not None and choice is not None:
            # The mixture is normalised, so what takes its place must be, too.
            logits = jnp.where(choice.expected[..., None], mixed, jax.nn.log_softmax(logits))
        return logits, state, out

    def __call__(
        self,
        annotations: Annotations,
        tokens: Int[Array, "B R T"],
        key: PRNGKeyArray | None = None,
        choice: Choice | None = None,
        paths: int = 1,
    ) -> TeacherForced:
        """Runs over given captions (packed rows, see the module).

        Args:
          annotations: (B, L, F).
          tokens: R rows of captions for each.
          key: switches dropout on.
          choice: hard attention's noise for every step (B, R, T, L), and the rows (B, R) that
            take the expectation; None is soft attention.
          paths: N, where the rows are N times the same captions: all N lose the same features.
        """
        first, *rest = (None, None, None) if key is None else jax.random.split(key, 3)
        return self.over(self.memory(annotations, first), tokens, (rest[0], rest[1]), choice, paths)

    def over(
        self,
        memory: Memory,
        tokens: Int[Array, "B R T"],
        keys: tuple[PRNGKeyArray | None, PRNGKeyArray | None] = (None, None),
        choice: Choice | None = None,
        paths: int = 1,
    ) -> TeacherForced:
        """Runs over given captions with a memory, which may have been changed.

        Args:
          memory: of `memory`.
          tokens, choice, paths: as above.
          keys: of the dropout of words and of the output.
        """
        # Time comes first until after the recurrence: the gates, the largest arrays, stay in place.
        starts = caption_starts(tokens)
        given, memory = time_first(input_words(tokens, self.starts)), self.with_place_terms(memory)
        embedded = self.dropout(self.embed(given), keys[0], paths, axis=2)
        if choice is not None:
            choice = choice.with_noises(jax.tree.map(time_first, choice.noises))
        words = self.word_inputs(memory, given, embedded)
        h, out = unroll.run(self.weights(), memory, words, time_first(starts), choice)
        embedded, h, out = jax.tree.map(time_last, (embedded, h, out))
        before = jnp.roll(h, 1, axis=2)
        previous_h = jnp.where(starts[..., None], memory.h0[:, None, None], before)
        current = h if out.attentional is None else out.attentional
        logits = self.output(embedded, current, out.z, keys[1], memory.scene, paths)
        assert memory.annotations is not None
        real = slice(None) if self.attention.null_key is None else slice(-1)
        mask = None if memory.mask is None else memory.mask[:, real]
        mean = mean_vector(memory.annotations[:, real], mask)
        factors = None
        if self.product_form:
            rows = [x.reshape(len(x), -1, x.shape[-1]) for x in (embedded, current, out.log_alpha)]
            factors = self.factors(memory, rows[0], rows[1], rows[2], keys[1], paths)
        read = (out.log_alpha, out.location, out.beta)
        return TeacherForced(logits, *read, previous_h, mean, factors, embedded, current, out.look)
