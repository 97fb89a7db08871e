"""Reads PyTorch weight files without PyTorch, and without running what they hold.

A `.pth` file is a pickle, and a pickle can call any function. The unpickler here knows four kinds
of name only (ordered dictionary, tensor, storage type, nothing else), so a hostile file ends in an
error and not in a call. The layout is that of `torch.save` before 1.6 ("legacy"): five pickles in a
row (magic number, protocol, machine description, object, storage keys), then the storages.
"""

import hashlib
import io
import math
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from show_attend_tell.errors import UserError

_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001
_STORAGE_DTYPES = {
    "DoubleStorage": "<f8",
    "FloatStorage": "<f4",
    "HalfStorage": "<f2",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "i1",
    "ByteStorage": "u1",
    "BoolStorage": "?",
}


class _Storage(NamedTuple):
    key: str
    dtype: np.dtype
    size: int


class _Tensor(NamedTuple):
    """A view into a storage whose bytes come later in the file."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def read(self, storages: dict[str, np.ndarray]) -> np.ndarray:
        flat = storages[self.storage.key]
        # as_strided checks nothing: a view outside the storage would read foreign memory, and one
        # with zero strides could ask for any amount of it.
        numbers = (self.offset, *self.shape, *self.strides)
        if len(self.shape) != len(self.strides) or not all(
            isinstance(n, int) and n >= 0 for n in numbers
        ):
            raise ValueError("a tensor has a shape that cannot be")
        last = self.offset + sum((n - 1) * s for n, s in zip(self.shape, self.strides, strict=True))
        if math.prod(self.shape) > flat.size or (math.prod(self.shape) and last >= flat.size):
            raise ValueError("a tensor reaches beyond its storage")
        view = np.lib.stride_tricks.as_strided(
            flat[self.offset :], self.shape, tuple(s * flat.itemsize for s in self.strides)
        )
        return view.copy()


class _Dictionary(OrderedDict):
    """A state dictionary; the attributes PyTorch hangs on it (module versions) are dropped."""

    def __setstate__(self, state: Any) -> None:
        pass


def _rebuild_tensor(storage, offset, shape, strides, requires_grad, hooks, *_) -> _Tensor:
    return _Tensor(storage, offset, tuple(shape), tuple(strides))


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return _Dictionary
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuild_tensor
        if module == "torch" and name in _STORAGE_DTYPES:
            return np.dtype(_STORAGE_DTYPES[name])
        raise pickle.UnpicklingError(f"it names {module}.{name}, which is neither tensor nor dict")

    def persistent_load(self, pid: Any) -> _Storage:
        kind, dtype, key, _location, size, *view = pid
        if kind != "storage" or not isinstance(dtype, np.dtype) or any(view):
            raise pickle.UnpicklingError("it refers to something that is not a plain storage")
        return _Storage(str(key), dtype, int(size))


class _PlainUnpickler(pickle.Unpickler):
    """For the pickles around the weights: numbers, strings, lists and dictionaries of them."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"it names {module}.{name} in its header")


def _read_legacy(file: io.BytesIO) -> dict[str, np.ndarray]:
    if _PlainUnpickler(file).load() != _MAGIC or _PlainUnpickler(file).load() != _PROTOCOL:
        raise ValueError("it does not begin as a PyTorch weight file does")
    if _PlainUnpickler(file).load().get("little_endian") is not True:
        raise ValueError("it is not little-endian")
    tensors = _Unpickler(file).load()
    if not isinstance(tensors, dict) or not all(
        isinstance(name, str) and isinstance(tensor, _Tensor) for name, tensor in tensors.items()
    ):
        raise ValueError("it holds something other than a dictionary of tensors")
    declared = {tensor.storage.key: tensor.storage for tensor in tensors.values()}
    storages = {}
    for key in _PlainUnpickler(file).load():
        size = int.from_bytes(file.read(8), "little")
        if key not in declared or size != declared[key].size:
            raise ValueError("its storages do not fit its tensors")
        dtype = declared[key].dtype
        data = file.read(size * dtype.itemsize)
        if len(data) != size * dtype.itemsize:
            raise ValueError("it ends too early")
        storages[key] = np.frombuffer(data, dtype)
    return {name: tensor.read(storages) for name, tensor in tensors.items()}


def read_torch_weights(path: Path) -> dict[str, np.ndarray]:
    """Reads a state dictionary that `torch.save` wrote in the legacy (not zip) layout.

    Args:
        path: a `.pth` file.

    Returns:
        One array per name, in the file's order, with the shapes and types of the file.

    Raises:
        UserError: the file is missing, truncated, not a legacy PyTorch file, or holds anything but
            a dictionary of tensors. Nothing the file names is imported or called.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"cannot read the weights {path}: {error.strerror}") from error
    if data[:4] == b"PK\x03\x04":
        raise UserError(
            f"{path} is in PyTorch's zip layout; save it again with "
            "torch.save(..., _use_new_zipfile_serialization=False)"
        )
    try:
        return _read_legacy(io.BytesIO(data))
    except Exception as error:  # a damaged pickle can raise nearly anything
        raise UserError(
            f"{path} is not a usable PyTorch weight file ({error}); fetch or install it again"
        ) from error


def file_sha256(path: Path) -> str:
    """SHA-256 of a file in hexadecimal.

    Raises:
        UserError: the file cannot be read.
    """
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"cannot read the weights {path}: {error.strerror}") from error
