"""Reads weight files (PyTorch, safetensors) without PyTorch, and without running what they hold.

A `.pth` file is a pickle, and a pickle can call any function. The unpickler here knows only a few
names (ordered dictionary, tensor, parameter, storage types), so a hostile file causes an error and
not a call. `torch.save` has two layouts. Today's is a zip archive without compression: the pickle
is its member `NAME/data.pkl`, and each storage a member `NAME/data/KEY`. The one before version 1.6
("legacy") is a sequence of five pickles (magic number, protocol, machine description, object,
storage keys) and then the storages.
"""

import hashlib
import math
import os
import pickle
import pickletools
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterable
from io import BufferedIOBase, BufferedReader, BytesIO
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

import ml_dtypes
import numpy as np
import safetensors

from show_attend_tell.errors import UserError
from show_attend_tell.files import stands_in

_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001
_WRAPPERS = {"module", "model", "_orig_mod"}  # first words that wrappers put before all names
_SINGLE = ((), (1,))  # shapes of one number
_MOST_TUPLES = 50_000  # of a pickle; a checkpoint has four a tensor
_MOST_WRAPPERS = 4  # around each other
_STORAGE_DTYPES = {
    "DoubleStorage": "<f8",
    "FloatStorage": "<f4",
    "HalfStorage": "<f2",
    "BFloat16Storage": ml_dtypes.bfloat16,
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

    @property
    def nbytes(self) -> int:
        return self.size * self.dtype.itemsize


class _Tensor(NamedTuple):
    """A view into a storage whose bytes come later in the file."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def read(self, storages: dict[str, np.ndarray]) -> np.ndarray:
        if self.storage.key not in storages:
            raise ValueError("a tensor has no storage")
        flat = storages[self.storage.key]
        # A view with zero strides could claim any amount of memory.
        numbers = (self.offset, *self.shape, *self.strides)
        if len(self.shape) != len(self.strides) or not all(
            isinstance(n, int) and n >= 0 for n in numbers
        ):
            raise ValueError("a tensor has an impossible shape")
        last = self.offset + sum((n - 1) * s for n, s in zip(self.shape, self.strides, strict=True))
        if math.prod(self.shape) > flat.size or (math.prod(self.shape) and last >= flat.size):
            raise ValueError("a tensor reaches beyond its storage")
        if not math.prod(self.shape):
            return np.empty(self.shape, flat.dtype)
        # as_strided takes ten times as long, and a file has a thousand tensors.
        size, pairs = flat.itemsize, zip(self.shape, self.strides, strict=True)
        strides = tuple(s * size if n > 1 else 0 for n, s in pairs)
        return np.ndarray(self.shape, flat.dtype, flat.view(np.uint8), self.offset * size, strides)


class _Kind(NamedTuple):
    """Stands for a type of storage."""

    name: str


class _Dictionary(OrderedDict):
    """A state dictionary, without the attributes that PyTorch adds to it (module versions)."""

    def __setstate__(self, state: Any) -> None:
        pass


def _tensor(storage, offset, shape, strides, requires_grad, hooks, metadata=None) -> _Tensor:
    if metadata:
        raise pickle.UnpicklingError("a tensor is a negated or conjugated view")
    return _Tensor(storage, offset, tuple(shape), tuple(strides))


def _parameter(tensor, requires_grad, hooks) -> _Tensor:
    return tensor


_BUILDERS = {"_rebuild_tensor_v2": _tensor, "_rebuild_parameter": _parameter}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return _Dictionary
        if module == "torch._utils" and name in _BUILDERS:
            # A pickle may set attributes of what it names, so it gets a function of its own.
            return lambda *parts: _BUILDERS[name](*parts)
        if module == "torch" and name in _STORAGE_DTYPES:
            return _Kind(name)  # not NumPy's own object, which a pickle could change for everyone
        raise pickle.UnpicklingError(f"it names {module}.{name}, which is neither tensor nor dict")

    def persistent_load(self, pid: Any) -> _Storage:
        word, kind, key, _location, size, *view = pid
        if (
            word != "storage"
            or not isinstance(kind, _Kind)
            or not isinstance(key, str)
            or any(view)
        ):
            raise pickle.UnpicklingError("it refers to something that is not a plain storage")
        storage = _Storage(key, np.dtype(_STORAGE_DTYPES[kind.name]), int(size))
        if storage.size < 0:
            raise pickle.UnpicklingError("a storage has an impossible size")
        return storage


class _PlainUnpickler(pickle.Unpickler):
    """For the pickles around the weights: numbers, strings, and lists and dictionaries of them."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"it names {module}.{name} in its header")


def _load(unpickler: type[pickle.Unpickler], file: BufferedIOBase) -> Any:
    """The object of the pickle that begins here.

    Raises:
        ValueError: the pickle is damaged, or names something forbidden.
    """
    start = file.tell()
    try:
        tuples = 0
        for count, (opcode, argument, _) in enumerate(pickletools.genops(cast(IO[bytes], file))):
            # One within the other, a hundred thousand as a key overflow the stack of their hash.
            tuples += opcode.name in ("TUPLE", "TUPLE1", "TUPLE2", "TUPLE3")
            if tuples > _MOST_TUPLES:
                raise pickle.UnpicklingError("it is not what PyTorch writes")
            # The memo is as long as its largest index: one of 2^32 would take all memory.
            indexed = opcode.name in ("PUT", "BINPUT", "LONG_BINPUT")
            if indexed and (argument is None or not 0 <= argument <= count):
                raise pickle.UnpicklingError("it is not what PyTorch writes")
        file.seek(start)
        return unpickler(file).load()
    except OSError:
        raise
    except Exception as error:  # a damaged pickle can raise nearly anything
        raise ValueError(str(error)) from error


def _shown(key: object) -> str:
    return repr(key[:40]) if isinstance(key, str) else type(key).__name__


def _load_tensors(file: BufferedIOBase) -> tuple[dict[str, _Tensor], list[_Tensor]]:
    """The state dictionary of a pickle by its plain names, and every tensor that the pickle has.

    A training checkpoint holds it beside an optimizer's state and other values. It is meant where
    it is the only dictionary of tensors.
    """
    content = _load(_Unpickler, file)
    if not isinstance(content, dict):
        raise ValueError("it holds something other than a dictionary of tensors")
    every = _tensors_in(content)
    inner = {key: value for key, value in content.items() if isinstance(value, dict)}
    if inner:
        whole = {key: value for key, value in inner.items() if _holds_tensors(value)}
        # A single number, such as the best score, is no weight.
        beside = [v for v in content.values() if isinstance(v, _Tensor) and v.shape not in _SINGLE]
        if len(whole) != 1 or beside:
            shown = [_shown(key) for key in [*(whole or inner)][:3]]
            raise UserError(
                f"it holds dictionaries in a dictionary ({', '.join(shown)}), and which one is "
                "meant is not clear: save only that one, such as "
                f"torch.save(torch.load(FILE)[{shown[0]}], NEW_FILE)"
            )
        (content,) = whole.values()
    for name, tensor in content.items():
        if not isinstance(name, str) or not isinstance(tensor, _Tensor):
            raise ValueError("it holds something other than a dictionary of tensors")
    if not all(isinstance(tensor.storage, _Storage) for tensor in every):
        raise ValueError("a tensor has no storage")
    plain = _plain_names(content)
    return {plain[name]: tensor for name, tensor in content.items()}, every


def _holds_tensors(value: dict[Any, Any]) -> bool:
    return bool(value) and all(isinstance(one, _Tensor) for one in value.values())


def _tensors_in(content: Any) -> list[_Tensor]:
    """All tensors of nested dictionaries, lists and tuples, each of which is looked into once."""
    found, seen, left = [], set(), [content]
    while left:
        value = left.pop()
        if isinstance(value, _Tensor):
            found.append(value)
        elif isinstance(value, dict | list | tuple) and id(value) not in seen:
            seen.add(id(value))
            left.extend(value.values() if isinstance(value, dict) else value)
    return found


def _plain_names(names: Iterable[str]) -> dict[str, str]:
    """By their names in a file, the names that a network's own weights have.

    A wrapper puts one word before all names: `module.` (data parallel), `model.` (a trainer),
    `_orig_mod.` (a compiled model). VGG's features were once wrapped by themselves.

    Raises:
        ValueError: two names become one.
    """
    plain = {name: name for name in names}
    for _ in range(_MOST_WRAPPERS):
        first = {name.partition(".")[0] if "." in name else "" for name in plain.values()}
        if len(first) != 1 or not first <= _WRAPPERS:
            break
        plain = {name: value.partition(".")[2] for name, value in plain.items()}
    for name, value in plain.items():
        if value.startswith("features.module."):
            plain[name] = value.replace("features.module.", "features.", 1)
    if len(set(plain.values())) < len(plain):
        raise ValueError("two of its tensors have the same name")
    return plain


def _read_legacy(file: BufferedReader, ignored: tuple[str, ...]) -> dict[str, np.ndarray]:
    if _load(_PlainUnpickler, file) != _MAGIC or _load(_PlainUnpickler, file) != _PROTOCOL:
        raise ValueError("it does not begin as a weight file does")
    machine = _load(_PlainUnpickler, file)
    if not isinstance(machine, dict) or machine.get("little_endian") is not True:
        raise ValueError("it is not little-endian")
    # All tensors, even unwanted ones, since they say how long their storages are.
    tensors, every = _load_tensors(file)
    declared = {tensor.storage.key: tensor.storage for tensor in every}
    wanted = {name: tensor for name, tensor in tensors.items() if not name.startswith(ignored)}
    keys = {tensor.storage.key for tensor in wanted.values()}
    stored = _load(_PlainUnpickler, file)
    if not isinstance(stored, list) or not all(isinstance(key, str) for key in stored):
        raise ValueError("it has no list of storages")
    storages = {}
    for key in stored:
        size = int.from_bytes(file.read(8), "little")
        if key not in declared or size != declared[key].size:
            raise ValueError("its storages do not fit its tensors")
        storage = declared[key]
        if storage.nbytes > os.fstat(file.fileno()).st_size - file.tell():
            raise ValueError("it ends too early")
        if key in keys:
            storages[key] = np.frombuffer(file.read(storage.nbytes), storage.dtype)
        else:
            file.seek(storage.nbytes, os.SEEK_CUR)
    return {name: tensor.read(storages) for name, tensor in wanted.items()}


def _open_zip(file: BufferedReader) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(file)
    except OSError:
        raise
    except Exception as error:  # zipfile raises many kinds for a damaged directory
        raise ValueError(str(error)) from error


def _read_member(archive: zipfile.ZipFile, name: str) -> bytes:
    try:
        return archive.read(name)
    except OSError:
        raise
    except Exception as error:  # zipfile raises many kinds for a damaged member
        raise ValueError(str(error)) from error


def _check_members(archive: zipfile.ZipFile, size: int) -> dict[str, zipfile.ZipInfo]:
    """The members of an archive of `size` bytes by name, after a check that they are harmless."""
    members = {info.filename: info for info in archive.infolist()}
    if len(members) < len(archive.infolist()):
        raise ValueError("two of its members have the same name")
    for name, info in members.items():
        if name.startswith("/") or "\\" in name or {"..", "."} & set(name.split("/")):
            raise ValueError(f"it has a member {name!r}")
        # Without compression it cannot be a bomb: its contents are no longer than the file.
        if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
            raise ValueError("it is compressed")
    if sum(info.file_size for info in members.values()) > size:
        raise ValueError("its members are longer than the file")
    return members


def _read_zip(file: BufferedReader, ignored: tuple[str, ...]) -> dict[str, np.ndarray]:
    with _open_zip(file) as archive:
        members = _check_members(archive, os.fstat(file.fileno()).st_size)
        roots = [name for name in members if name.count("/") == 1 and name.endswith("/data.pkl")]
        if len(roots) != 1:
            raise ValueError("it is a zip archive, but not of weights")
        root = roots[0].removesuffix("data.pkl")
        order = f"{root}byteorder"
        if order in members and _read_member(archive, order) != b"little":
            raise ValueError("it is not little-endian")
        found, _ = _load_tensors(BytesIO(_read_member(archive, roots[0])))
        tensors = {name: t for name, t in found.items() if not name.startswith(ignored)}
        storages = {}
        for storage in {tensor.storage for tensor in tensors.values()}:
            name = f"{root}data/{storage.key}"
            fits = name in members and members[name].file_size == storage.nbytes
            if not fits or storage.key in storages:
                raise ValueError("its storages do not fit its tensors")
            storages[storage.key] = np.frombuffer(_read_member(archive, name), storage.dtype)
    return {name: tensor.read(storages) for name, tensor in tensors.items()}


def _read_safetensors(file: BufferedReader, ignored: tuple[str, ...]) -> dict[str, np.ndarray]:
    plain = _plain_names(sorted(_take(file.name)))
    wanted = {name: own for name, own in plain.items() if not own.startswith(ignored)}
    return {wanted[name]: array for name, array in _take(file.name, wanted).items()}


def _take(path: str, names: Iterable[str] | None = None) -> dict[str, Any]:
    """Tensors of a safetensors file by name; without `names`, all names and no tensor."""
    try:
        with safetensors.safe_open(path, "numpy") as tensors:
            if names is None:
                return dict.fromkeys(tensors.keys())
            return {name: tensors.get_tensor(name) for name in names}
    except OSError:
        raise
    except Exception as error:  # safetensors documents no list of what it raises
        raise ValueError(str(error)) from error


def _layout(
    file: BufferedReader,
) -> Callable[[BufferedReader, tuple[str, ...]], dict[str, np.ndarray]]:
    """The function that reads a file with this beginning."""
    start = file.read(512)
    file.seek(0)
    if not start:
        raise UserError("it is empty; fetch it again")
    instead = stands_in(start)
    if instead:
        raise UserError(f"it is {instead}")
    if start[:4] == b"PK\x03\x04":
        return _read_zip
    # A safetensors file begins with its header's length in 8 bytes; the header is a JSON object.
    return _read_safetensors if start[8:9] == b"{" else _read_legacy


def read_state_dict(path: Path | str, ignored: tuple[str, ...] = ()) -> dict[str, np.ndarray]:
    """Reads a state dictionary that `torch.save` wrote, in either layout, or a safetensors file.

    The state dictionary may be the only one in a training checkpoint. Names lose what a wrapper
    put before all of them, such as `module.`.

    Args:
        path: the file; its first bytes, not its suffix, say which kind it is.
        ignored: beginnings of names to leave out. Such tensors take no memory, unless they share
            their storage with others.

    Returns:
        One read-only array for each name, with the shape and type of the file: in the file's order,
        for a safetensors file sorted by name.

    Raises:
        UserError: the file is missing, truncated, of another kind, or holds anything but a
            dictionary of tensors. Nothing the file names is imported or called.
    """
    try:
        with open(path, "rb") as file:
            return _layout(file)(file, tuple(ignored))
    except UserError as error:
        raise UserError(f"cannot read the weights {path}: {error}") from error
    except OSError as error:
        raise UserError(
            f"cannot read the weights {path}: {error.strerror or error}; check the file"
        ) from error
    except (ValueError, OverflowError) as error:  # OverflowError: a stride beyond all numbers
        raise UserError(
            f"{path} is not a usable weight file ({error}): fetch or install it again"
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
        raise UserError(
            f"cannot read the weights {path}: {error.strerror}; check the file"
        ) from error
