"""Pretrained weights: finding the file that a name stands for, and reading it name by name."""

import re
from pathlib import Path

import jax
import numpy as np
from flax import nnx

from show_attend_tell.errors import UserError
from show_attend_tell.models.encoders.torch_weights import read_state_dict

# The first of these that a repository on the hub has.
_HUB_FILES = ("model.safetensors", "pytorch_model.bin")
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

    def take(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        """The array with this name, as float64.

        Raises:
            UserError: there is none, or it has another shape.
        """
        if name not in self.arrays:
            raise UserError(f"{self.source} lacks the weights {name}; is it another network's?")
        array = self.arrays.pop(name)
        if array.shape != shape:
            raise UserError(f"{self.source}: {name} has shape {array.shape}, expected {shape}")
        return array.astype(np.float64)

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
        kernel = self.take(f"{conv}.weight", shape)
        if norm is None:
            bias = self.take(f"{conv}.bias", shape[:1])
        else:
            scale, shift, mean, variance = (
                self.take(f"{norm}.{name}", shape[:1])
                for name in ("weight", "bias", "running_mean", "running_var")
            )
            scale = scale / np.sqrt(variance + self.epsilon)
            kernel, bias = kernel * scale[:, None, None, None], shift - mean * scale
        values = kernel.transpose(2, 3, 1, 0), bias
        # `jnp.asarray` would compile a program for each shape.
        kernel, bias = (
            self.kind(jax.device_put(np.ascontiguousarray(value, np.float32))) for value in values
        )
        return kernel, bias

    def finish(self) -> None:
        """Call this when all weights have been taken.

        Raises:
            UserError: some weights are left.
        """
        if self.arrays:
            raise UserError(
                f"{self.source} holds weights unknown to the network: {[*self.arrays][:5]}"
            )


def find_weights(name: str) -> Path:
    """The file of weights that a name stands for.

    Args:
        name: the path of a file; or OWNER/NAME, a repository on the Hugging Face hub, whose file
            is fetched once and kept in the hub's own cache. With HF_HUB_OFFLINE=1 only the cache is
            used.

    Raises:
        UserError: no such file or repository, no network, or the extra `hub` is not installed.
    """
    path = Path(name).expanduser()
    if path.is_file():
        return path
    if not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", name, re.ASCII) or path.suffix in _SUFFIXES:
        raise UserError(
            f"no weights {name}: there is no such file, and it is not the OWNER/NAME of a "
            "repository on the hub"
        )
    try:
        import huggingface_hub  # pyright: ignore[reportMissingImports]
        from huggingface_hub import errors  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise UserError(
            f"the weights {name} are on the Hugging Face hub: pip install 'show-attend-tell[hub]' "
            "(or start ./launch.sh once with SHOW_ATTEND_TELL_EXTRA=hub), or name a file"
        ) from error
    missing: Exception | None = None
    for file in _HUB_FILES:
        try:
            return Path(huggingface_hub.hf_hub_download(name, file))
        except errors.RepositoryNotFoundError as error:
            raise UserError(
                f"the hub has no repository {name}, or it is not open to you: check its spelling"
            ) from error
        except errors.EntryNotFoundError as error:
            missing = error  # the other file may exist, or be in the cache
        except Exception as error:  # a full disk, the server, or the network of any library
            raise UserError(
                f"cannot fetch the weights {name} from the hub ({error}): try again, or name a file"
            ) from error
    if isinstance(missing, errors.LocalEntryNotFoundError):
        raise UserError(
            f"the weights {name} are not in the hub's cache, and the hub cannot be reached: "
            "check the network and HF_HUB_OFFLINE, or name a file"
        ) from missing
    raise UserError(
        f"the weights {name} have no file {' or '.join(_HUB_FILES)} on the hub: name another "
        "repository, or a file"
    ) from missing
