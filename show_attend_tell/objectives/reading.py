"""What a step says when its output reads another context than the scan's.

Where the state does not read the drawn place, a place changes the word of its own step only. One
scan then serves any number of readings: each costs one deep output.

Symbols as in `models.decoder`, S places with the null place.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from show_attend_tell.models.attention import Annotations
from show_attend_tell.models.decoder import Decoder
from show_attend_tell.models.recurrence import Memory
from show_attend_tell.models.teacher_forced import TeacherForced


@dataclasses.dataclass(frozen=True)
class Reading:
    """Given captions, run once, whose steps can read anything. Make one with `of`.

    Attributes:
      decoder, memory: what ran, and over what.
      tokens: the captions (B, R, T).
      out: of the scan.
      key: of the output's dropout, the same for every reading; None switches it off.
    """

    decoder: Decoder
    memory: Memory
    tokens: Int[Array, "B R T"]
    out: TeacherForced
    key: PRNGKeyArray | None

    @classmethod
    def of(
        cls,
        decoder: Decoder,
        annotations: Annotations,
        tokens: Int[Array, "B R T"],
        key: PRNGKeyArray | None,
    ) -> "Reading":
        """Runs the decoder, with the dropout that `Decoder.__call__` has for this key."""
        first, words, output = (None,) * 3 if key is None else jax.random.split(key, 3)
        memory = decoder.memory(annotations, first)
        out = decoder.over(memory, tokens, (words, output))
        return cls(decoder, memory, tokens, out, output)

    def held(self) -> "Reading":
        """The same, with a gradient only for what is read, as if all else were constant."""
        decoder, memory, out = jax.lax.stop_gradient((self.decoder, self.memory, self.out))
        return dataclasses.replace(self, decoder=decoder, memory=memory, out=out)

    @property
    def vectors(self) -> Float[Array, "B S D"]:
        """The annotation vectors that can be read, the null place's zeros included."""
        assert self.memory.annotations is not None
        return self.memory.annotations.astype(jnp.float32)

    @property
    def attending(self) -> Float[Array, "B R T H"]:
        """The states that attend: h_{t-1}, or h_t with order `current`."""
        order = self.decoder.step_config.order
        return self.out.previous_h if order == "previous" else self.out.h

    def expectation(self, weights: Float[Array, "B R T S"]) -> Float[Array, "B R T D"]:
        """The mean vector under weights of the places."""
        return jnp.einsum("brts,bsd->brtd", weights, self.vectors)

    def log_softmax(self, contexts: Float[Array, "B R T D"]) -> Float[Array, "B R T V"]:
        """log p of every word in nats, where each step reads its context."""
        out, z = self.out, self.out.beta[..., None] * contexts
        logits = self.decoder.output(out.embedded, out.h, z, self.key, self.memory.scene)
        return jax.nn.log_softmax(logits)

    def log_softmax_at(self, places: Int[Array, "N B R T"]) -> Float[Array, "N B R T V"]:
        """The same, where each step reads one place, for N choices of places."""
        vectors = self.vectors[:, None, None]

        def one(places: Int[Array, "B R T"]) -> Float[Array, "B R T V"]:
            read = jnp.take_along_axis(vectors, places[..., None, None], axis=-2)[..., 0, :]
            return self.log_softmax(read)

        return jax.vmap(one)(places)

    def log_softmax_of(self, weights: Float[Array, "N B R T S"]) -> Float[Array, "N B R T V"]:
        """The same, where each step reads a weighted mean of places, for N choices of weights."""
        return jax.vmap(lambda each: self.log_softmax(self.expectation(each)))(weights)
