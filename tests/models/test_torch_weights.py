"""Weight files: what PyTorch writes is read, and what anybody may have written does no harm."""

import hashlib
import json
import pickle
import struct
import zipfile

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from show_attend_tell.errors import UserError
from show_attend_tell.models.encoders.torch_weights import file_sha256, read_state_dict

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


def parameter(operations):
    """A tensor wrapped as torch.save writes those that are trained."""
    return (
        b"ctorch._utils\n_rebuild_parameter\n("
        + operations
        + b"\x88ccollections\nOrderedDict\n)RtR"
    )


def legacy(path, body, storages):
    data = HEADER + body + pickle.dumps(list(storages), 2)
    for values in storages.values():
        data += struct.pack("<q", values.size) + values.tobytes()
    path.write_bytes(data)
    return path


def archive(path, body, storages, **options):
    """The layout of today. Members may be replaced or added (`others`), or None: left out."""
    members = {"w/data.pkl": body, "w/byteorder": b"little", "w/version": b"3\n"}
    members |= {f"w/data/{key}": values.tobytes() for key, values in storages.items()}
    members |= options.get("others", {})
    with zipfile.ZipFile(path, "w", options.get("compression", zipfile.ZIP_STORED)) as file:
        for name, content in members.items():
            if content is not None:
                file.writestr(name, content)
        for name, content in options.get("again", {}).items():
            file.writestr(name, content)
    return path


@pytest.fixture(params=[legacy, archive], ids=["legacy", "zip"])
def write(request):
    """Writes a file in one layout or the other."""
    return request.param


def test_reads_shapes_strides_offsets_and_types(tmp_path, write):
    floats, halves = np.arange(12, dtype=np.float32), np.asarray([0.5, -2], np.float16)
    body = dictionary(
        {
            "matrix": tensor("a", 12, 0, (3, 4), (4, 1)),
            "transposed": tensor("a", 12, 0, (4, 3), (1, 4)),
            "tail": tensor("a", 12, 10, (2,), (1,)),
            "half": tensor("b", 2, 0, (2,), (1,), "HalfStorage"),
            "count": tensor("c", 1, 0, (), (), "LongStorage"),
            "brain": parameter(tensor("d", 2, 0, (2,), (1,), "BFloat16Storage")),
        }
    )
    storages = {"a": floats, "b": halves, "c": np.asarray([7], np.int64)}
    storages["d"] = np.asarray([1.5, -3], ml_dtypes.bfloat16)
    weights = read_state_dict(write(tmp_path / "w.bin", body, storages))
    assert list(weights) == ["matrix", "transposed", "tail", "half", "count", "brain"]
    np.testing.assert_array_equal(weights["matrix"], floats.reshape(3, 4))
    np.testing.assert_array_equal(weights["transposed"], floats.reshape(3, 4).T)
    np.testing.assert_array_equal(weights["tail"], [10, 11])
    np.testing.assert_array_equal(weights["half"], halves)
    assert weights["half"].dtype == np.float16
    assert weights["count"].shape == () and weights["count"] == 7
    assert weights["brain"].dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(weights["brain"].astype(np.float32), [1.5, -3])


def test_what_is_ignored_is_not_read(tmp_path, write):
    body = {"a.w": tensor("a", 2, 0, (2,), (1,)), "b.w": tensor("b", 3, 0, (3,), (1,))}
    storages = {"a": np.ones(2, np.float32), "b": np.arange(3, dtype=np.float32)}
    path = write(tmp_path / "w.bin", dictionary(body), storages)
    weights = read_state_dict(path, ignored=("a.", "c."))
    assert list(weights) == ["b.w"]
    np.testing.assert_array_equal(weights["b.w"], [0, 1, 2])
    if write is archive:  # not even looked for
        archive(path, dictionary(body), storages, others={"w/data/a": None})
        assert list(read_state_dict(path, ignored=("a.",))) == ["b.w"]


def test_reads_safetensors_whatever_the_name(tmp_path):
    path = tmp_path / "w.pth"
    arrays = {
        "b": np.arange(6, dtype=np.float32).reshape(2, 3),
        "half": np.asarray([0.5, -2], np.float16),
        "brain": np.asarray([1.5, -3], ml_dtypes.bfloat16),
        "fc.w": np.zeros(3, np.float32),
    }
    safetensors.numpy.save_file(arrays, path)
    weights = read_state_dict(path, ignored=("fc.",))
    assert list(weights) == ["b", "brain", "half"]
    for name, array in weights.items():
        assert array.dtype == arrays[name].dtype
        np.testing.assert_array_equal(array, arrays[name])


def test_damaged_safetensors_are_refused(tmp_path):
    path = tmp_path / "w.safetensors"
    safetensors.numpy.save_file({"w": np.arange(4, dtype=np.float32)}, path)
    data = path.read_bytes()
    lies = {"w": {"dtype": "F32", "shape": [9], "data_offsets": [0, 16]}}
    header = json.dumps(lies).encode()
    bad = [data[:length] for length in range(len(data))]
    bad.append(struct.pack("<Q", len(header)) + header + data[-16:])
    bad.append(struct.pack("<Q", 2**62) + data[8:])
    for content in bad:
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"w\.safetensors"):
            read_state_dict(path)


@pytest.mark.parametrize("new", [True, False], ids=["zip", "legacy"])
def test_reads_what_torch_writes(tmp_path, new):
    torch = pytest.importorskip("torch", reason="PyTorch is absent")
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    tensors = dict(network.state_dict())
    tensors["brain"] = torch.randn(3).bfloat16()
    tensors["parameter"] = torch.nn.Parameter(torch.randn(2, 3).T)
    path = tmp_path / "w.bin"
    torch.save(tensors, path, _use_new_zipfile_serialization=new)
    weights = read_state_dict(path)
    assert list(weights) == list(tensors)
    for name, array in weights.items():
        expected = tensors[name].detach()
        assert str(expected.dtype) == f"torch.{array.dtype}"
        np.testing.assert_array_equal(array.astype(np.float32), expected.float().numpy())
    optimizer = torch.optim.SGD(network.parameters(), 0.1, momentum=0.9)
    network(torch.ones(2, 3, 5, 5)).sum().backward()
    optimizer.step()
    wrapped = {f"module.{name}": value for name, value in tensors.items()}
    checkpoint = {"epoch": 3, "best": torch.tensor(0.5), "optimizer": optimizer.state_dict()}
    torch.save(checkpoint | {"state_dict": wrapped}, path, _use_new_zipfile_serialization=new)
    again = read_state_dict(path)
    assert list(again) == list(tensors)
    np.testing.assert_array_equal(again["0.bias"], weights["0.bias"])


def nested(**dictionaries):
    """A dictionary of dictionaries, beside a number and a tensor of one number."""
    items = b"".join(text(key) + dictionary(of)[2:-1] for key, of in dictionaries.items())
    items += text("epoch") + b"I3\n" + text("best") + tensor("b", 1, 0, (), ())
    return b"\x80\x02}(" + items + b"u."


ONE = {"a": np.arange(2, dtype=np.float32), "b": np.ones(1, np.float32)}


def test_the_state_dictionary_of_a_checkpoint_is_found(tmp_path, write):
    weights = {"w": tensor("a", 2, 0, (2,), (1,))}
    for key in ("state_dict", "model", "net"):
        body = nested(**{key: weights, "scheduler": {"step": b"I7\n"}})
        found = read_state_dict(write(tmp_path / "w.bin", body, ONE))
        assert list(found) == ["w"]
        np.testing.assert_array_equal(found["w"], [0, 1])


def test_of_two_state_dictionaries_none_is_taken(tmp_path, write):
    weights = {"w": tensor("a", 2, 0, (2,), (1,))}
    both = nested(model=weights, ema=weights)
    with pytest.raises(UserError, match=r"w\.bin: .*'model', 'ema'.*\[\'model\'\], NEW_FILE"):
        read_state_dict(write(tmp_path / "w.bin", both, ONE))
    with pytest.raises(UserError, match="'log'.* is not clear"):
        read_state_dict(write(tmp_path / "w.bin", nested(log={"x": b"I7\n"}), ONE))


WRAPPED = [
    (["module.a.w", "module.fc.w"], ["a.w"]),
    (["module.model.a.w", "module.model.fc.w"], ["a.w"]),
    (["_orig_mod.model.a.w"], ["a.w"]),
    (["features.module.0.w", "fc.0.w"], ["features.0.w"]),
    (["module.features.module.0.w"], ["features.0.w"]),
    (["model.a.w", "other.w"], ["model.a.w", "other.w"]),  # a part of the network
    (["module"], ["module"]),
]


@pytest.mark.parametrize(("names", "plain"), WRAPPED)
def test_the_prefixes_of_wrappers_are_dropped(tmp_path, write, names, plain):
    body = dictionary({name: tensor("a", 2, 0, (2,), (1,)) for name in names})
    path = write(tmp_path / "w.bin", body, {"a": ONE["a"]})
    assert list(read_state_dict(path, ignored=("fc.",))) == plain
    safetensors.numpy.save_file({name: ONE["a"] for name in names}, path)
    assert sorted(read_state_dict(path, ignored=("fc.",))) == sorted(plain)


def test_names_that_become_one_are_refused(tmp_path, write):
    names = ("features.module.0.w", "features.0.w")
    body = dictionary({name: tensor("a", 2, 0, (2,), (1,)) for name in names})
    with pytest.raises(UserError, match="two of its tensors have the same name"):
        read_state_dict(write(tmp_path / "w.bin", body, {"a": ONE["a"]}))


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 99\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (POINTER, "it is a Git LFS pointer, not the file itself: run `git lfs pull`"),
        (b"\n<!DOCTYPE html><title>Sign in</title>", "it is a web page, .* in a browser and save"),
        (b"", "it is empty; fetch it again"),
    ],
)
def test_what_a_download_left_instead_is_named(tmp_path, content, message):
    path = tmp_path / "w.pth"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_state_dict(path)


def test_a_hostile_pickle_is_refused_and_not_run(tmp_path, write):
    marker = tmp_path / "marker"
    call = b"cposix\nsystem\n(" + text(f"touch {marker}") + b"tR"
    floats = {"a": np.zeros(1, np.float32)}
    in_object = write(tmp_path / "object.pth", dictionary({"w": call}), floats)
    in_header = tmp_path / "header.pth"
    in_header.write_bytes(b"\x80\x02" + call + b".")
    for path in (in_object, in_header):
        with pytest.raises(UserError, match=rf"{path.name}.*posix\.system"):
            read_state_dict(path)
    assert not marker.exists()
    # A key of so many tuples, one within the other, would overflow the stack.
    in_header.write_bytes(b"\x80\x02})" + b"\x85" * 60_000 + b"K\x01s.")
    with pytest.raises(UserError, match="it is not what PyTorch writes"):
        read_state_dict(in_header)


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
def test_a_tensor_outside_its_storage_is_refused(tmp_path, write, view):
    body = dictionary({"w": tensor("a", 12, *view)})
    path = write(tmp_path / "outside.pth", body, {"a": np.zeros(12, np.float32)})
    with pytest.raises(UserError, match=r"outside\.pth.*tensor"):
        read_state_dict(path)


def test_every_truncation_is_refused(tmp_path, write):
    body = dictionary({"w": tensor("a", 12, 0, (3, 4), (4, 1))})
    path = write(tmp_path / "cut.pth", body, {"a": np.zeros(12, np.float32)})
    data = path.read_bytes()
    for length in range(len(data)):
        path.write_bytes(data[:length])
        with pytest.raises(UserError, match=r"cut\.pth"):
            read_state_dict(path)


def test_a_pickle_cannot_change_what_reads_it(tmp_path, write):
    # BUILD sets attributes of what a pickle names; the next file must find all as it was.
    poison = b"ctorch._utils\n_rebuild_tensor_v2\n(N}" + text("__defaults__") + b"I1\n\x85stb"
    floats = {"a": np.zeros(1, np.float32)}
    good = {"v": tensor("a", 1, 0, (1,), (1,))}
    with pytest.raises(UserError, match="other than a dictionary of tensors"):
        read_state_dict(write(tmp_path / "poison.pth", dictionary(good | {"w": poison}), floats))
    assert list(read_state_dict(write(tmp_path / "good.pth", dictionary(good), floats))) == ["v"]


def test_a_pickle_cannot_change_a_type(tmp_path, write):
    # NumPy's own object for bfloat16 would take a new state, flags included, for the whole process.
    before = np.dtype(ml_dtypes.bfloat16).flags
    state = b"(K\x03" + text("=") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x3ft"
    poison = b"ctorch\nBFloat16Storage\n" + state + b"b"
    with pytest.raises(UserError, match="not a usable weight file|other than a dictionary"):
        read_state_dict(write(tmp_path / "poison.pth", dictionary({"w": poison}), {}))
    assert np.dtype(ml_dtypes.bfloat16).flags == before


def test_a_memo_without_end_is_refused(tmp_path, write):
    # The unpickler would make room for this many objects, 64 GB.
    body = dictionary({}).replace(b"R(", b"Rr" + struct.pack("<I", 2**32 - 1) + b"(", 1)
    with pytest.raises(UserError, match="not what PyTorch writes"):
        read_state_dict(write(tmp_path / "memo.pth", body, {}))


BODY = dictionary({"w": tensor("a", 3, 0, (3,), (1,))})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"compression": zipfile.ZIP_DEFLATED}, "compressed"),
        ({"others": {"w/data/a": None}}, "do not fit"),
        ({"others": {"w/data/a": b"x" * 8}}, "do not fit"),
        ({"others": {"w/data/a": b"x" * 16}}, "do not fit"),
        ({"others": {"w/data.pkl": None}}, "not of weights"),
        ({"others": {"v/data.pkl": BODY}}, "not of weights"),
        ({"others": {"w/byteorder": b"big"}}, "little-endian"),
        ({"others": {"w/../../a": b"x"}}, "member"),
        ({"others": {"/etc/a": b"x"}}, "member"),
        ({"others": {"w\\a": b"x"}}, "member"),
        ({"again": {"w/data/a": b"x" * 12}}, "same name"),
        ({"again": {"w/data.pkl": BODY}}, "same name"),
    ],
)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_archives_that_torch_does_not_write_are_refused(tmp_path, options, message):
    path = archive(tmp_path / "w.bin", BODY, {"a": np.zeros(3, np.float32)}, **options)
    with pytest.raises(UserError, match=rf"w\.bin.*{message}"):
        read_state_dict(path)


def test_sizes_that_lie_are_refused(tmp_path):
    path = archive(tmp_path / "w.bin", BODY, {"a": np.zeros(3, np.float32)})
    data = path.read_bytes()
    sizes = struct.pack("<II", 12, 12)  # of the storage, packed and not, in both its headers
    assert data.count(sizes) == 2
    for size in (0, 8, 2**31):
        path.write_bytes(data.replace(sizes, struct.pack("<II", size, size)))
        with pytest.raises(UserError, match=r"w\.bin"):
            read_state_dict(path)


def test_a_storage_longer_than_the_file_is_refused(tmp_path, write):
    body = dictionary({"w": tensor("a", 2**31 - 1, 0, (3,), (1,))})
    with pytest.raises(UserError, match="do not fit"):
        read_state_dict(write(tmp_path / "w.bin", body, {"a": np.zeros(3, np.float32)}))


def test_other_files_are_refused_by_name(tmp_path):
    not_tensors = legacy(tmp_path / "list.pth", pickle.dumps({"epoch": 3}, 2), {})
    for path, content in (
        (not_tensors, None),
        (tmp_path / "zip.pth", b"PK\x03\x04 and so on"),
        (tmp_path / "text.pth", b"<html>Not found</html>"),
        (tmp_path / "missing.pth", None),
    ):
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(UserError, match=path.name):
            read_state_dict(path)


def test_checksum(tmp_path):
    path = tmp_path / "w.pth"
    path.write_bytes(b"abc")
    assert file_sha256(path) == hashlib.sha256(b"abc").hexdigest()
    with pytest.raises(UserError, match="gone"):
        file_sha256(tmp_path / "gone")
