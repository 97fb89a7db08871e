"""Which features of an annotation vector do what.

An encoder may lay several of its stages side by side. Early stages see the surroundings of a place,
late ones the whole picture. A decoder can take the keys, the vectors that it reads, and a vector of
the whole scene from stages of their own.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from show_attend_tell import settings
from show_attend_tell.errors import UserError


@dataclasses.dataclass(frozen=True)
class Part:
    """Some sections of the features.

    Attributes:
      spans: (start, stop) of each section.
    """

    spans: tuple[tuple[int, int], ...]

    @property
    def size(self) -> int:
        """The number of features."""
        return sum(stop - start for start, stop in self.spans)

    def of(self, a: Float[Array, "B L F"], *, normalised: bool = False) -> Float[Array, "B L _"]:
        """These sections of annotation vectors; `normalised`: each to mean 0 and variance 1."""
        sections = [a[..., start:stop] for start, stop in self.spans]
        if normalised:
            sections = [jax.nn.standardize(section, axis=-1) for section in sections]
        return sections[0] if len(sections) == 1 else jnp.concatenate(sections, axis=-1)


@dataclasses.dataclass(frozen=True)
class Parts:
    """The parts that make keys, vectors, the scene, and h_0 and c_0 if they have their own."""

    keys: Part
    values: Part
    scene: Part
    first: Part

    @classmethod
    def chosen(
        cls,
        sections: tuple[tuple[str, int], ...],
        features: int,
        sizes: settings.Decoder,
        attention: settings.Attention,
    ) -> "Parts":
        """The parts that settings name.

        Args:
          sections: of the features, see `Encoder`; may be empty where none is named.
          features: F.
          sizes, attention: of which `scene`, `initial_from`, `keys` and `values` count.

        Raises:
          UserError: a stage that the encoder does not have.
        """
        whole = Part(((0, features),))
        stops, stop = [], 0
        for _, size in sections:
            stop += size
            stops.append((stop - size, stop))

        def part(setting: str, names: tuple[str, ...]) -> Part:
            known = dict.fromkeys(name for name, _ in sections)
            for name in names:
                if name not in known:
                    raise UserError(
                        f"config.{setting} names {name!r}: the annotation vectors have "
                        f"{', '.join(known) or 'one part only'}; see config.encoder.endpoints"
                    )
            spans = [span for span, (name, _) in zip(stops, sections, strict=True) if name in names]
            return Part(tuple(spans))

        own = part("decoder.scene", sizes.scene)
        values = part("attention.values", attention.values) if attention.values else whole
        keys = part("attention.keys", attention.keys) if attention.keys else values
        first = part("decoder.initial_from", sizes.initial_from)
        return cls(keys, values, own, first)

    def to_begin_with(
        self, read: Float[Array, "B L D"], encoded: Float[Array, "B L F"], normalised: bool
    ) -> Float[Array, "B L _"]:
        """What h_0 and c_0 are made of: their own part of the encoded vectors, or those read."""
        if not self.first.size:
            return read
        return self.first.of(encoded.astype(jnp.float32), normalised=normalised)


def with_scene(
    hidden: Float[Array, "B *S E"], scene: Float[Array, "B E"] | None
) -> Float[Array, "B *S E"]:
    """What the whole picture adds, added to every step of an image."""
    return hidden if scene is None else hidden + jnp.expand_dims(scene, range(1, hidden.ndim - 1))


def bias_of(layer: nnx.Linear) -> Float[Array, " J"]:
    """The bias of a layer that has one."""
    assert layer.bias is not None
    return jnp.asarray(layer.bias[...])
