"""Pretrained networks in stages: reading their weights, choosing stages, running them."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, UInt8

from show_attend_tell import settings
from show_attend_tell.errors import UserError
from show_attend_tell.models.encoders.base import Apply, Each, Frozen, ImageEncoder
from show_attend_tell.models.encoders.layers import Sequential
from show_attend_tell.models.encoders.weights import WeightFiles, Weights, find_weights

# Normalisation of ImageNet, on the scale of 0 to 255: that of most weights in PyTorch.
IMAGENET_MEAN, IMAGENET_DEVIATION = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


class StoredEncoder(ImageEncoder):
    """Annotation vectors from the outputs of a pretrained network's stages.

    A network is a class with the attributes below and the methods `make_stage`, `place` and
    `annotation_layer`. Stages pass arrays on of any shape that begins with the images. The weights
    are read once; training changes those of the later stages, if any.

    Attributes:
        name: of the encoder.
        stage_names: in order.
        pixel_mean, pixel_deviation: of RGB values from 0 to 255; one for all channels or for each.
        repository: the hub's repository with the weights.
        ignored_prefixes, ignored_suffixes, epsilon: see `Weights`.
        default_endpoints: used if the options name none.
        single: endpoints with one vector of the whole image, which is the same at all places.
        dtype: number format of products with matrices.
        images_at_once: batch on a CPU: few, so that a layer's activations stay in the cache. Stages
            in C++ take all images at once.
        stages: those up to the last endpoint.
        pooled_endpoints: those of which only the mean over the places is kept.
    """

    own_options = ("endpoints", "pooled", "weights", "weights_sha256", "checkpointing", "dtype")

    name: str
    stage_names: tuple[str, ...]
    pixel_mean: float | tuple[float, ...] = IMAGENET_MEAN
    pixel_deviation: float | tuple[float, ...] = IMAGENET_DEVIATION
    repository: str
    ignored_prefixes: tuple[str, ...]
    ignored_suffixes: tuple[str, ...] = (".num_batches_tracked",)
    epsilon: float = 1e-5
    default_endpoints: tuple[str, ...]
    single: tuple[str, ...] = ()
    images_at_once: int = 2

    def __init__(self, options: settings.ImageEncoder, *, files: WeightFiles):
        """Reads the stored weights.

        Args:
            options: `image_size` as `place` says; each class says what its weights were trained
                with. `endpoints` are the stages whose channels are concatenated; none means the
                class's own choice; of those in `pooled` every place has the mean over all places.
                `weights` is the path of a file or a repository on the hub, see `find_weights`;
                empty means the class's own. `trainable_from` is empty, "all" or a stage, see
                `ImageEncoder`; no gradient flows further back. `checkpointing` saves memory: the
                backward pass recomputes what happens inside the blocks of trained stages. `dtype`
                is the number format of products with matrices; their sums and all else are float32.
            files: reads the weights; encoders that share it read no file twice.

        Raises:
            UserError: an option is out of range, or the weights are missing, damaged or do not fit.
        """
        names = [*self.stage_names]
        self.endpoints = self._check_endpoints(options.endpoints)
        self.image_size = options.image_size
        self.fields = self.place(options)
        self.grid = (len(self.fields), len(self.fields))
        last = max(map(names.index, self.endpoints))
        self.first_trained = self._first_trained(options.trainable_from, names, last)
        self.dtype = options.dtype
        stages, channels = self._stages(options, files)
        # Every stage was made, so that weights of no stage are found.
        self.stages = nnx.List(stages[: last + 1])
        self.sections = tuple((endpoint, channels[endpoint]) for endpoint in self.endpoints)
        pooled = (*options.pooled, *self.single)
        self.pooled_endpoints = tuple(e for e in self.endpoints if e in pooled)
        self.pooled = self.pooled_endpoints
        self.features = sum(channels[endpoint] for endpoint in self.endpoints)
        if not options.trainable_from:
            self.shift = self.known_shift(dict(self.sections))

    @property
    def trained(self) -> bool:
        return self.first_trained < len(self.stages)

    def _stages(
        self, options: settings.ImageEncoder, files: WeightFiles
    ) -> tuple[list[Sequential], dict[str, int]]:
        """All stages, of which equal networks share the frozen ones, and their channels."""
        weights = self._read_weights(options, files)
        # A stage depends on these alone; that of patches on the grid, too.
        known = files.frozen_stages[type(self), self.checksum, self.dtype, self.grid]
        first = not known
        stages, channels = [], {}
        for i, name in enumerate(self.stage_names):
            frozen = i < self.first_trained
            if frozen and name in known:
                stage, channels[name] = known[name]
            else:
                weights.kind = Frozen if frozen else nnx.Param
                layers, channels[name] = self.make_stage(name, weights)
                stage = Sequential(layers, options.checkpointing and not frozen)
            if frozen:
                known[name] = stage, channels[name]
            stages.append(stage)
        if first:
            weights.finish()
        return stages, channels

    def _check_endpoints(self, endpoints: Sequence[str]) -> tuple[str, ...]:
        """The endpoints, or the class's own if there are none."""
        endpoints, names = tuple(endpoints) or self.default_endpoints, [*self.stage_names]
        if len(set(endpoints)) < len(endpoints) or set(endpoints) - set(names):
            raise UserError(
                f"config.encoder.endpoints of {self.name} must be different names of {names}, not "
                f"{endpoints}"
            )
        return endpoints

    def _read_weights(self, options: settings.ImageEncoder, files: WeightFiles) -> Weights:
        """The file's weights; sets `checksum`."""
        path = find_weights(options.weights) if options.weights else self.own_weights()
        self.checksum = files.checksum(path)
        wanted = options.weights_sha256
        if wanted and wanted.lower() != self.checksum:
            raise UserError(
                f"the weights {path} have the SHA-256 {self.checksum}, not the wanted {wanted}: "
                "name the right file with --config.encoder.weights=FILE"
            )
        weights = files.read(
            path,
            ignored_prefixes=self.ignored_prefixes,
            ignored_suffixes=self.ignored_suffixes,
            epsilon=self.epsilon,
        )
        weights.dtype = options.dtype
        return weights

    def _first_trained(self, trainable_from: str, names: list[str], last: int) -> int:
        """Index of the first trained stage; the number of stages if none is trained."""
        if not trainable_from:
            return len(names)
        if trainable_from not in ("all", *names):
            raise UserError(
                f"config.encoder.trainable_from of {self.name} must be empty, 'all' or one of "
                f"{names}, not {trainable_from!r}"
            )
        first = 0 if trainable_from == "all" else names.index(trainable_from)
        if first > last:
            raise UserError(
                f"config.encoder.trainable_from={trainable_from} trains nothing: the last endpoint "
                f"of {self.name} is {names[last]}"
            )
        return first

    def own_weights(self) -> Path:
        """The weight file used if the options name none."""
        return find_weights(self.repository)

    def place(self, options: settings.ImageEncoder) -> tuple[float, ...]:
        """The `fields` of the places.

        Raises:
            UserError: the image's size or another option does not suit the network.
        """
        raise NotImplementedError

    def known_shift(self, channels: Mapping[str, int]) -> float | None:
        """The `shift` of frozen weights with the channels of each endpoint; None if unknown."""
        del channels
        return None

    def make_stage(self, name: str, weights: Weights) -> tuple[list[Callable[[Array], Array]], int]:
        """The layers of a stage, with checkpoints between them, and its number of channels."""
        raise NotImplementedError

    def annotation_layer(self) -> "AnnotationLayer":
        """What makes annotation vectors of the endpoints' outputs."""
        raise NotImplementedError

    def frozen_at_once(self) -> bool:
        """Whether frozen stages are computed in C++, which takes any number of images."""
        return False

    def __call__(self, images: UInt8[Array, "B S S 3"]) -> Float[Array, "B L D"]:
        if not self.frozen_at_once():
            return self._in_turn(lambda images: self._trained(self._frozen(images)), images)
        maps = self._frozen(images)
        if self.first_trained >= len(self.stages):
            return self._trained(maps)
        return self._in_turn(self._trained, maps)

    def _in_turn(self, function: Callable[[Any], Array], inputs: Any) -> Array:
        """A function of images or maps; on CPUs of few images at a time."""
        if len(jax.tree.leaves(inputs)[0]) <= self.images_at_once:
            return function(inputs)

        def few_at_once(inputs: Any) -> Array:
            def of_one(inputs: Any) -> Array:
                return function(jax.tree.map(lambda x: x[None], inputs))[0]

            return jax.lax.map(of_one, inputs, batch_size=self.images_at_once)

        # Chosen as a program is lowered, perhaps for other devices than this process has.
        return jax.lax.platform_dependent(inputs, cpu=few_at_once, default=function)

    def _frozen(self, images: UInt8[Array, "B S S 3"]) -> dict[str, Float[Array, "B *S C"]]:
        """Outputs of frozen stages: the endpoints and the last, under the empty name."""
        x = _Normalised(self.pixel_mean, self.pixel_deviation)(images)
        return self._through(0, self.first_trained, {"": x})

    def _through(self, first: int, stop: int, maps: dict[str, Array]) -> dict[str, Array]:
        """Adds the outputs of stages `first` up to, not including, `stop`."""
        maps = dict(maps)
        stages = [*zip(self.stage_names, self.stages, strict=False)]
        for name, stage in stages[first:stop]:
            maps[""] = stage(maps[""])
            if name in self.endpoints:
                maps[name] = maps[""]
        return maps

    def _trained(self, maps: dict[str, Float[Array, "B *S C"]]) -> Float[Array, "B L D"]:
        """Annotation vectors from what `_frozen` returns."""
        if self.first_trained < len(self.stages):
            maps = maps | {"": jax.lax.stop_gradient(maps[""])}
            maps = self._through(self.first_trained, len(self.stages), maps)
        return self.annotation_layer()([maps[name] for name in self.endpoints])

    def in_pieces(
        self, images: UInt8[Array, "B S S 3"], apply: Apply, each: Each = map
    ) -> Float[Array, "B L D"]:
        del each
        x = apply(_Normalised(self.pixel_mean, self.pixel_deviation), images)
        maps = {}
        for name, stage in zip(self.stage_names, self.stages, strict=False):
            for layer in stage.layers:
                x = apply(cast(nnx.Module, layer), x)
            maps[name] = x
        return apply(self.annotation_layer(), [maps[name] for name in self.endpoints])

    def fingerprint(self) -> dict[str, str | int]:
        found: dict[str, str | int] = {
            "name": self.name,
            "weights": self.checksum,
            "preprocessing": f"(rgb - {self.pixel_mean}) / {self.pixel_deviation}",
            "image_size": self.image_size,
            "endpoints": "+".join(self.endpoints),
            "grid": "x".join(map(str, self.grid)),
        }
        if self.pooled_endpoints:  # else caches of earlier versions stay valid
            # Commas, since a concatenation joins its parts by +.
            found["pooled"] = ",".join(self.pooled_endpoints)
        if self.dtype != "float32":  # likewise
            found["dtype"] = self.dtype
        return found


class AnnotationLayer(nnx.Module):
    """Makes annotation vectors of the outputs of stages, in the order of the endpoints."""

    def __call__(self, maps: Sequence[Float[Array, "B ... C"]]) -> Float[Array, "B L D"]:
        raise NotImplementedError


class _Normalised(nnx.Module):
    """RGB values from 0 to 255 as a network expects them."""

    def __init__(self, mean: float | tuple[float, ...], deviation: float | tuple[float, ...]):
        self.mean, self.deviation = mean, deviation

    def __call__(self, images: UInt8[Array, "B S S 3"]) -> Float[Array, "B S S 3"]:
        mean, deviation = (
            np.reshape(np.asarray(value, np.float32), (1, 1, 1, -1))
            for value in (self.mean, self.deviation)
        )
        return (images.astype(jnp.float32) - mean) / deviation
