import hashlib
import pickle
import struct

import numpy as np
import pytest

from show_attend_tell.encoders.torch_weights import file_sha256, read_torch_weights
from show_attend_tell.errors import UserError

HEADER = (
    pickle.dumps(0x1950A86A20F9469CFC6C, 2)
    + pickle.dumps(1001, 2)
    + pickle.dumps({"protocol_version": 1001, "little_endian": True}, 2)
)


def text(value):
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def integers(*values):
    return b"(" + b"".join(b"J" + struct.pack("<i", v) for v in values) + b"t"


def tensor(key, size, offset, shape, strides, storage="FloatStorage"):
    """The pickle operations by which torch.save writes a tensor."""
    persistent = (
        b"(" + text("storage") + f"ctorch\n{storage}\n".encode() + text(key) + text("cpu")
    ) + (b"J" + struct.pack("<i", size) + b"NtQ")
    return (
        b"ctorch._utils\n_rebuild_tensor_v2\n(" + persistent + b"J" + struct.pack("<i", offset)
    ) + (integers(*shape) + integers(*strides) + b"\x89ccollections\nOrderedDict\n)RtR")


def dictionary(tensors):
    """An OrderedDict with the `_metadata` attribute that state dictionaries carry."""
    items = b"".join(text(name) + operations for name, operations in tensors.items())
    metadata = b"}" + text("_metadata") + b"}s"
    return b"\x80\x02ccollections\nOrderedDict\n)R(" + items + b"u" + metadata + b"b."


def pth(path, body, storages):
    data = HEADER + body + pickle.dumps(list(storages), 2)
    for values in storages.values():
        data += struct.pack("<q", values.size) + values.tobytes()
    path.write_bytes(data)
    return path


def test_reads_shapes_strides_offsets_and_types(tmp_path):
    floats, halves = np.arange(12, dtype=np.float32), np.asarray([0.5, -2], np.float16)
    body = dictionary(
        {
            "matrix": tensor("a", 12, 0, (3, 4), (4, 1)),
            "transposed": tensor("a", 12, 0, (4, 3), (1, 4)),
            "tail": tensor("a", 12, 10, (2,), (1,)),
            "half": tensor("b", 2, 0, (2,), (1,), "HalfStorage"),
            "count": tensor("c", 1, 0, (), (), "LongStorage"),
        }
    )
    storages = {"a": floats, "b": halves, "c": np.asarray([7], np.int64)}
    weights = read_torch_weights(pth(tmp_path / "w.pth", body, storages))
    assert list(weights) == ["matrix", "transposed", "tail", "half", "count"]
    np.testing.assert_array_equal(weights["matrix"], floats.reshape(3, 4))
    np.testing.assert_array_equal(weights["transposed"], floats.reshape(3, 4).T)
    np.testing.assert_array_equal(weights["tail"], [10, 11])
    np.testing.assert_array_equal(weights["half"], halves)
    assert weights["half"].dtype == np.float16
    assert weights["count"].shape == () and weights["count"] == 7


def test_a_hostile_pickle_is_refused_and_not_run(tmp_path):
    marker = tmp_path / "marker"
    call = b"cposix\nsystem\n(" + text(f"touch {marker}") + b"tR"
    floats = {"a": np.zeros(1, np.float32)}
    in_object = pth(tmp_path / "object.pth", dictionary({"w": call}), floats)
    in_header = tmp_path / "header.pth"
    in_header.write_bytes(b"\x80\x02" + call + b".")
    for path in (in_object, in_header):
        with pytest.raises(UserError, match=rf"{path.name}.*posix\.system"):
            read_torch_weights(path)
    assert not marker.exists()


@pytest.mark.parametrize(
    "view",
    [
        (0, (13,), (1,)),  # too long
        (11, (2,), (1,)),  # starts inside, ends outside
        (0, (2, 2), (11, 1)),  # strides lead outside
        (4, (2,), (-4,)),  # negative stride
        (-1, (1,), (1,)),  # before the start
        (0, (1000, 1000), (0, 0)),  # a little storage made huge
        (0, (2, 2), (1,)),  # strides do not fit the shape
    ],
)
def test_a_tensor_outside_its_storage_is_refused(tmp_path, view):
    body = dictionary({"w": tensor("a", 12, *view)})
    path = pth(tmp_path / "outside.pth", body, {"a": np.zeros(12, np.float32)})
    with pytest.raises(UserError, match=r"outside\.pth.*tensor"):
        read_torch_weights(path)


def test_every_truncation_is_refused(tmp_path):
    body = dictionary({"w": tensor("a", 12, 0, (3, 4), (4, 1))})
    path = pth(tmp_path / "cut.pth", body, {"a": np.zeros(12, np.float32)})
    data = path.read_bytes()
    for length in range(len(data)):
        path.write_bytes(data[:length])
        with pytest.raises(UserError, match=r"cut\.pth"):
            read_torch_weights(path)


def test_other_files_are_refused_by_name(tmp_path):
    not_tensors = pth(tmp_path / "list.pth", pickle.dumps({"epoch": 3}, 2), {})
    for path, content in (
        (not_tensors, None),
        (tmp_path / "zip.pth", b"PK\x03\x04 and so on"),
        (tmp_path / "text.pth", b"<html>Not found</html>"),
        (tmp_path / "missing.pth", None),
    ):
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(UserError, match=path.name):
            read_torch_weights(path)


def test_checksum(tmp_path):
    path = tmp_path / "w.pth"
    path.write_bytes(b"abc")
    assert file_sha256(path) == hashlib.sha256(b"abc").hexdigest()
    with pytest.raises(UserError, match="gone"):
        file_sha256(tmp_path / "gone")
