"""Pretrained weights: finding the file that a name stands for, and reading it name by name."""

import contextlib
import copy
from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx
from jaxtyping import Float

from show_attend_tell import hub
from show_attend_tell.errors import UserError
from show_attend_tell.files import user_path
from show_attend_tell.models.encoders.torch_weights import file_sha256, read_state_dict

# The first of these that a repository on the hub has.
HUB_FILES = ("model.safetensors", "pytorch_model.bin")
_NORM = ("weight", "bias", "running_mean", "running_var")  # of a batch norm
_SUFFIXES = (".bin", ".pt", ".pth", ".safetensors")


class Weights:
    """Hands out the weights of a file by name; at the end it reports those nobody asked for.

    Attributes:
        kind: the type of the variables that `convolution` returns.
        dtype: number format of the products with them.
    """

    kind: type[nnx.Variable] = nnx.Param
    dtype: str = "float32"

    def __init__(
        self,
        path: Path,
        *,
        ignored_prefixes: tuple[str, ...] = (),
        ignored_suffixes: tuple[str, ...] = (),
        epsilon: float = 1e-5,
    ):
        """Reads a file.

        Args:
            path: see `read_state_dict`.
            ignored_prefixes: beginnings of names to leave out, such as the classifier's.
            ignored_suffixes: ends of such names.
            epsilon: number that batch norm adds to the variance.

        Raises:
            UserError: the file cannot be read.
        """
        self.source = str(path)
        self.epsilon = epsilon
        self.arrays = {
            name: array
            for name, array in read_state_dict(path, ignored_prefixes).items()
            if not name.endswith(ignored_suffixes)
        }

    def again(self) -> "Weights":
        """All of them for another network."""
        other = copy.copy(self)
        other.arrays = dict(self.arrays)
        return other

    def drop_prefix(self, prefix: str) -> None:
        """Takes a prefix off the names that have it."""
        self.arrays = {name.removeprefix(prefix): array for name, array in self.arrays.items()}

    def named_by(
        self, libraries: Mapping[Any, str], prefixes: Sequence[str], what: str, name: str
    ) -> Any:
        """The library whose names the file has; takes off what stands before them.

        Args:
            libraries: each with the name of weights that only its files have.
            prefixes: that may stand before all names; "" is none.
            what, name: the kind of network, and the encoder's name, for the message.

        Raises:
            UserError: the names are nobody's.
        """
        for library, mark in libraries.items():
            for prefix in prefixes:
                if prefix + mark in self.arrays:
                    self.drop_prefix(prefix)
                    return library
        raise UserError(
            f"{self.source} holds no {what} by the names of timm or transformers; are these "
            f"weights of {name}?"
        )

    def take(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        """The array with this name.

        Raises:
            UserError: there is none, or it has another shape.
        """
        if name not in self.arrays:
            raise UserError(
                f"{self.source} lacks the weights {name}; is it another network's? Name one of "
                "this network"
            )
        array = self.arrays.pop(name)
        if array.shape != shape:
            raise UserError(f"{self.source}: {name} has shape {array.shape}, expected {shape}")
        return array

    def convolution(
        self, conv: str, norm: str | None, shape: tuple[int, int, int, int]
    ) -> tuple[nnx.Variable, nnx.Variable]:
        """Kernel (k, k, in, out) and bias (out,) of a convolution.

        Args:
            conv: name of the convolution.
            norm: name of its batch norm, which is folded in; None if it has a bias instead.
            shape: (out, in, k, k).

        Raises:
            UserError: see `take`.
        """
        given = self.take(f"{conv}.weight", shape)
        names = [f"{conv}.bias"] if norm is None else [f"{norm}.{part}" for part in _NORM]
        others = [self.take(name, shape[:1]) for name in names]
        kernel, bias = map(self.variable, _folded(given, others, self.epsilon))
        return kernel, bias

    def linear(
        self,
        names: Sequence[str],
        shape: tuple[int, int],
        *,
        bias: bool = True,
        scale: str | None = None,
    ) -> tuple[nnx.Variable, nnx.Variable]:
        """Kernel (in, n * out) and bias (n * out,) of n linear layers laid side by side.

        Args:
            names: of the layers, or of one layer that already holds several.
            shape: (out, in) of each.
            bias: whether they have one; else it is 0.
            scale: name of factors (out,) of the outputs, which are multiplied in.

        Raises:
            UserError: see `take`.
        """
        kernels = [self.take(f"{name}.weight", shape) for name in names]
        outputs = shape[:1]
        offsets = [
            self.take(f"{name}.bias", outputs) if bias else np.zeros(outputs) for name in names
        ]
        factors = np.ones(1) if scale is None else self.take(scale, outputs)

        # Through float32, since a file may hold half precision.
        kernel, offset = (
            self.variable(x.astype(np.float32) * factors.astype(np.float32))
            for x in (np.concatenate(kernels).T, np.concatenate(offsets))
        )
        return kernel, offset

    def variable(self, array: Float[np.ndarray, "..."]) -> nnx.Variable:
        """A variable made of arrays that were taken."""
        # `jnp.asarray` would compile a program for each shape.
        return self.kind(jax.device_put(np.ascontiguousarray(array, np.float32)))

    def finish(self) -> None:
        """Call this when all weights have been taken.

        Raises:
            UserError: some weights are left.
        """
        if self.arrays:
            raise UserError(
                f"{self.source} holds weights unknown to the network: {[*self.arrays][:5]}"
            )


class WeightFiles:
    """Weight files, each read once for all networks of an ensemble.

    Attributes:
        frozen_stages: for each kind of network, its frozen stages by their names, with their
            numbers of channels. Networks of that kind share them.
    """

    def __init__(self):
        self.checksum = cache(file_sha256)
        self._read = cache(Weights)
        self.frozen_stages: defaultdict[Hashable, dict[str, Any]] = defaultdict(dict)

    def read(self, path: Path, **options: Any) -> Weights:
        """The weights of a file; see `Weights`."""
        return self._read(path, **options).again()


def _folded(
    kernel: Float[np.ndarray, "O I k k"], others: Sequence[Float[np.ndarray, " O"]], epsilon: float
) -> tuple[Float[np.ndarray, "k k I O"], Float[np.ndarray, " O"]]:
    """A kernel and a bias; of the numbers of a batch norm, multiplied into both, in float64."""
    kernel = kernel.transpose(2, 3, 1, 0)
    if len(others) == 1:
        return np.ascontiguousarray(kernel, np.float32), others[0].astype(np.float32)
    scale, shift, mean, variance = (array.astype(np.float64) for array in others)
    scale = scale / np.sqrt(variance + epsilon)
    folded = np.empty(kernel.shape, np.float32)
    np.multiply(kernel, scale, out=folded, dtype=np.float64, casting="same_kind")
    return folded, (shift - mean * scale).astype(np.float32)


def find_weights(name: str, beside: Sequence[str] = ()) -> Path:
    """The file of weights that a name stands for.

    Args:
        name: the path of a file; or OWNER/NAME, a repository on the Hugging Face hub, whose file
            is fetched once and kept in the hub's own cache. With HF_HUB_OFFLINE=1 only the cache is
            used.
        beside: further files of a repository to fetch into the same folder, if it has them.

    Raises:
        UserError: no such file or repository, no network, or the extra `hub` is not installed.
    """
    path = user_path(name)
    if path.is_file():
        return path
    if not hub.is_repo(name) or path.suffix in _SUFFIXES:
        raise UserError(
            f"no weights {name}: there is no such file, and it is not the OWNER/NAME of a "
            "repository on the hub; check the path"
        )
    what, instead = f"the weights {name}", ", or name a file"
    library, missing, here = hub.client(what, instead), None, False
    for file in HUB_FILES:
        try:
            # A hub that cannot be reached is not asked twice: each time takes half a minute.
            found = Path(library.hf_hub_download(name, file, local_files_only=here))
            for other in beside:
                with contextlib.suppress(library.errors.EntryNotFoundError):
                    library.hf_hub_download(name, other, local_files_only=here)
            return found
        except Exception as error:  # a full disk, the server, or the network of any library
            missing = missing if here else error
        # The other file may exist, or be in the cache.
        if not isinstance(missing, library.errors.EntryNotFoundError):
            break
        here = isinstance(missing, library.errors.LocalEntryNotFoundError)
    assert missing is not None
    if isinstance(missing, library.errors.EntryNotFoundError) and not here:
        raise UserError(
            f"{what} have no file {' or '.join(HUB_FILES)} on the hub: name another "
            "repository, or a file"
        ) from missing
    raise hub.explained(missing, what, hub.Name(name), instead) from missing
