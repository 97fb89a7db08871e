"""Damages files of every kind that the program reads from others, and reads them.

    python tests/chaos/fuzz.py --examples 1000 [--only NAME]

The only outcomes are success and a `UserError`. Memory is limited while a file is read, so that a
length in a file cannot claim any amount of it.
"""

import argparse
import atexit
import collections
import contextlib
import io
import json
import logging
import os
import resource
import shutil
import struct
import sys
import tarfile
import tempfile
import time
import traceback
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from xml.parsers import expat

import numpy as np
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from PIL import Image

sys.path[:0] = [str(Path(__file__).parents[k]) for k in (1, 2)]
import finished_runs  # noqa: E402

MEMORY = 2**30  # bytes more than there were: of a file of a few thousand, none needs as many
HEADER = 64  # bytes at a file's beginning and end that are damaged most


@dataclass(frozen=True)
class Reader:
    """A reader of files from others.

    Attributes:
      name: of it.
      seeds: valid files.
      suffix: of the file's name.
      read: reads a file of the given path; may raise UserError.
      words: texts to insert, which mean something in this kind of file.
    """

    name: str
    seeds: tuple[bytes, ...]
    suffix: str
    read: Callable[[Path], object]
    words: tuple[bytes, ...] = ()


def readers() -> list[Reader]:
    """All readers of files that may come from anybody."""
    return [*_weights(), *_pictures(), *_archives(), *_tables(), *_scores(), *_runs()]


# Valid files, as small as they can be.
JSON_WORDS = (
    *(b"null", b"true", b"-1", b"1e999", b"NaN", b"[]", b"{}", b'""', b"[[[[", b'"\\ud800"'),
    *(b"9" * 5000, b"[" * 100_000, b'{"a":' * 3000, b"\xff", b"\0", b",", b":"),
)


def _weights() -> Iterator[Reader]:
    import safetensors.numpy

    from show_attend_tell.models.encoders.torch_weights import read_state_dict
    from show_attend_tell.runs.checkpoint import read_weights

    arrays = {"a.weight": np.ones((2, 3), np.float16), "b": np.zeros(3, np.float16)}
    plain = safetensors.numpy.save(arrays, {"step": "3"})
    like = {"a": {"weight": np.ones((2, 3))}, "b": np.zeros(3)}
    words = (*JSON_WORDS, struct.pack("<Q", 2**63), struct.pack("<q", -1), b"F64", b"BF16")
    yield Reader(
        "weights of a run", (plain,), ".safetensors", lambda p: read_weights(p, like), words
    )
    yield Reader("weights of an encoder", (plain,), ".safetensors", read_state_dict, words)
    pickles = (
        b"cos\nsystem\n",
        b"R.",
        b"q\xff",
        b"r\xff\xff\xff\xff",
        b"\x8a\xff",
        b"K\xff",
        b"}",
        b"(",
    )
    yield Reader("torch weights", (torch_zip(),), ".pth", read_state_dict, pickles)
    yield Reader("old torch weights", (torch_legacy(),), ".pth", read_state_dict, pickles)


def _pickled() -> bytes:
    """A pickle of one tensor, as `torch.save` writes it: 2 x 3 numbers of storage "0"."""
    storage = b"(X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpuK\x06tQ"
    tensor = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage
    tensor += b"K\0K\x02K\x03\x86K\x03K\x01\x86\x89ccollections\nOrderedDict\n)RtR"
    return b"\x80\x02ccollections\nOrderedDict\n)RX\x01\0\0\0w" + tensor + b"s."


def torch_zip() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("m/data.pkl", _pickled())
        archive.writestr("m/byteorder", "little")
        archive.writestr("m/data/0", np.arange(6, dtype="<f4").tobytes())
    return file.getvalue()


def torch_legacy() -> bytes:
    import pickle

    parts = [0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}]
    start = b"".join(pickle.dumps(part, 2) for part in parts)
    end = pickle.dumps(["0"], 2) + struct.pack("<Q", 6) + np.arange(6, dtype="<f4").tobytes()
    return start + _pickled() + end


def encoded(kind: str, mode: str = "RGB", **options) -> bytes:
    file = io.BytesIO()
    values = np.random.default_rng(0).integers(0, 256, (9, 7, 3), np.uint8)
    Image.fromarray(values).convert(mode).save(file, kind, **options)
    return file.getvalue()


def _pictures() -> Iterator[Reader]:
    from show_attend_tell.data.images import keepable, picture_size, read_image, read_picture

    exif = Image.Exif()
    exif[0x0112] = 6
    seeds = (
        encoded("JPEG", exif=exif),
        encoded("JPEG", progressive=True),
        encoded("JPEG", "CMYK"),
        encoded("PNG", "RGBA"),
        encoded("PNG", "I;16"),
        encoded("WEBP"),
        encoded("BMP"),
        encoded("GIF", "P"),
    )
    words = (b"\xff" * 4, b"\0" * 4, b"\x7f\xff\xff\xff", b"IHDR", b"iCCP", b"zTXt", b"\xff\xd8")

    def read(path: Path) -> None:
        content = path.read_bytes()
        for function in (lambda: read_image(path, 8), lambda: read_picture(content, 8),
                         lambda: picture_size(content), lambda: keepable(content)):  # fmt: skip
            with contextlib.suppress(_user_error()):
                function()

    yield Reader("pictures", seeds, ".jpg", read, words)


def _user_error() -> type[Exception]:
    from show_attend_tell.errors import UserError

    return UserError


def _zip(**members: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


def _tar(members: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return file.getvalue()


def _archives() -> Iterator[Reader]:
    from show_attend_tell.data.builders.common import DAMAGE, zip_members
    from show_attend_tell.data.builders.webdataset import Webdataset
    from show_attend_tell.data.entities import read_boxes, read_sentence
    from show_attend_tell.data.origin import Origin

    def members(path: Path) -> None:
        for name, read in zip_members(path).items():
            assert "/" not in name, name
            with contextlib.suppress(*DAMAGE, _user_error()):
                read()

    def shard(path: Path) -> None:
        with tempfile.TemporaryDirectory() as folder:
            builder = Webdataset.for_files(Origin(path), data_dir=folder)
            for item in builder.items():
                with contextlib.suppress(*DAMAGE, _user_error()):
                    item.read()

    def entities(path: Path) -> None:
        content = path.read_bytes()
        boxes = {}
        with contextlib.suppress(*DAMAGE, expat.ExpatError):  # as it says
            boxes = read_boxes(content, "1.xml", collections.Counter())
        read_sentence(content.decode(errors="replace"), boxes)

    xml = (
        b"<annotation><size><width>9</width><height>9</height></size><object><name>1</name>"
        b"<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>5</xmax><ymax>5</ymax></bndbox></object>"
        b"</annotation>"
    )
    names = (b"../", b"/etc/passwd", b"\\", b"\0", b"\xff" * 8)
    yield Reader("zip", (_zip(a=b"x" * 100, b=b"y"),), ".zip", members, names)
    example = {"a.jpg": encoded("JPEG"), "a.txt": b"a dog", "b.json": b'{"caption": "x"}'}
    tars = (_tar(example), _tar(example | {"../c.png": encoded("PNG"), "../c.txt": b"a"}))
    yield Reader("tar", tars, ".tar", shard, (*names, *JSON_WORDS, b"7" * 11))
    sentence = b"[/EN#1/people A child] in [/EN#2/clothing a dress] climbs ."
    bombs = (b"<!DOCTYPE a [<!ENTITY b 'c'>]>", b"&b;", b"<" * 500, b"1e999", b"nan", b"-1")
    yield Reader("entities", (xml, sentence), ".xml", entities, bombs)


def _tables() -> Iterator[Reader]:
    from show_attend_tell import files
    from show_attend_tell.data.builders import coco_own, flickr8k, folder, kaggle, karpathy, tables
    from show_attend_tell.data.builders.multi30k import read_lines

    def table(path: Path) -> None:
        found = [tables.Table(path)]
        rows = folder.read_rows(path.parent, found)
        folder.read_objects(path.parent, found)
        assert rows

    words = (*JSON_WORDS, b'"', b"\n", b"\r", b"\0", b"\xff\xfe", b"|", b"\t", b",,,,", b"../")
    head = b'file_name,caption,split\na.jpg,a red dog,train\nb.jpg,"a, b",val\n'
    pipes = b"image_name| comment_number| comment\na.jpg| 0| A dog .\nb.jpg| 1   Two | cats .\n"
    yield Reader("csv", (head, pipes, head.decode().encode("utf-16")), ".csv", table, words)
    line = {"file_name": "a.jpg", "text": ["a dog"], "split": "train"}
    line["objects"] = {"bbox": [[1, 2, 3, 4]], "category": ["x"], "words": ["dog"]}
    lines = (json.dumps(line) + "\n" + json.dumps(line | {"file_name": "b.jpg"}) + "\n").encode()
    yield Reader("jsonl", (lines,), ".jsonl", table, words)
    yield Reader("json", (json.dumps([line]).encode(),), ".json", table, words)
    entry = {"filename": "a.jpg", "split": "train", "filepath": "val2014", "imgid": 1}
    entry["sentences"] = [{"raw": "A dog.", "tokens": ["a", "dog"]}]
    split = json.dumps({"dataset": "flickr8k", "images": [entry]}).encode()
    yield Reader("karpathy", (split,), ".json", karpathy.read_entries, JSON_WORDS)
    coco = {"images": [{"id": 1, "file_name": "a.jpg"}]}
    coco["annotations"] = [{"image_id": 1, "caption": "A dog."}]
    yield Reader("coco", (json.dumps(coco).encode(),), ".json",
                 lambda p: coco_own.read_captions(p, "captions.json"), JSON_WORDS)  # fmt: skip
    tokens = b"a.jpg#0\tA dog .\na.jpg#1\tTwo dogs .\n"
    yield Reader("flickr8k", (tokens,), ".txt",
                 lambda p: flickr8k.read_captions(files.read_text(p), "x"), words)  # fmt: skip
    yield Reader("kaggle", (head, pipes), ".csv",
                 lambda p: kaggle.read_table(files.read_text(p), str(p)), words)  # fmt: skip
    yield Reader("sentences", (b"Ein Hund .\nZwei .\n",), ".de", read_lines, words)


def _scores() -> Iterator[Reader]:
    from show_attend_tell.evaluation.caption_files import match, read_captions, read_references

    said = [{"image_id": 7, "caption": "A dog."}, {"image_id": "b", "caption": "A cat."}]
    image = {"id": 7, "file_name": "a.jpg"}
    coco = {"images": [image], "annotations": [entry | {"id": 1} for entry in said]}
    entry = {"filename": "b", "split": "test", "imgid": 7, "sentences": [{"raw": "A cat."}]}
    lines, tokens = b"A dog .\tDogs .\nTwo cats .\n", b"a.jpg#0\tA dog .\na.jpg#1\tTwo dogs .\n"
    captions = (json.dumps(said).encode(), lines)
    references = (json.dumps(coco).encode(), json.dumps({"images": [entry]}).encode())
    words = (*JSON_WORDS, b"\n", b"\t", b"\r", b"\0", b"#0\t", b"\xff\xfe", b"\xef\xbb\xbf")

    def both(path: Path) -> None:
        known = path.with_name("known.json")
        known.write_bytes(captions[0])
        match([read_captions(known)], read_references([path]), allow_missing=True)

    yield Reader("captions to score", captions, ".txt", read_captions, words)
    yield Reader("references", (*references, lines, tokens), ".txt", both, words)


def _runs() -> Iterator[Reader]:
    from show_attend_tell import config
    from show_attend_tell.data import vocabulary
    from show_attend_tell.evaluation.results_file import read_results
    from show_attend_tell.explorer.run_files import MetricsReader, read_json
    from show_attend_tell.inference.attention_record import load_attention
    from show_attend_tell.reports.read_runs import read_run
    from show_attend_tell.runs.folder import RunFolder
    from show_attend_tell.runs.metrics_log import read_metrics

    base = Path(tempfile.mkdtemp(prefix="fuzz-"))
    atexit.register(shutil.rmtree, base, ignore_errors=True)
    run = finished_runs.write_run(base / "run", finished_runs.half_right())

    def of_run(name: str) -> Reader:
        """`compare` reading a run with one damaged file."""
        path = next(run.glob(name))
        content = path.read_bytes()

        def read(damaged: Path) -> None:
            path.write_bytes(damaged.read_bytes())
            try:
                RunFolder(run).record()
                read_run(run, "val")
            finally:
                path.write_bytes(content)

        return Reader(f"{path.name} of a run", (content,), path.suffix, read, JSON_WORDS)

    def both(path: Path) -> None:
        read_metrics(path)
        MetricsReader(path).read()
        read_json(path)

    for name in ("config.json", "run.json", "*.scores.json", "attention/val/statistics.json"):
        yield of_run(name)
    metrics = (run / "metrics.jsonl").read_bytes()
    yield of_run("metrics.jsonl")
    yield Reader("metrics", (metrics,), ".jsonl", both, JSON_WORDS)
    results = next(run.glob("*.captions.json")).read_bytes()
    yield Reader("results", (results,), ".json", read_results, JSON_WORDS)
    settings_ = (run / "config.json").read_bytes()
    yield Reader("config", (settings_,), ".json", config.load_run, JSON_WORDS)
    words = (run / "vocabulary.json").read_bytes()
    subwords = vocabulary.Subwords.from_texts(["a dog runs", "a cat sits"] * 20, 20)
    subwords.save(base / "pieces.json")
    kinds = (words, (base / "pieces.json").read_bytes())
    yield Reader("vocabulary", kinds, ".json", vocabulary.load, JSON_WORDS)
    maps = next((run / "attention" / "val").glob("*.npz")).read_bytes()
    shapes = (b"(1000000000, 16)", b"'|O'", b"'<f8'", b"'<U9'", b"\x93NUMPY", b"'shape': ()")
    yield Reader("maps", (maps,), ".npz", load_attention, shapes)


@st.composite
def damaged(draw: st.DrawFn, reader: Reader) -> bytes:
    """A valid file after a few edits, or any bytes."""
    if draw(st.integers(0, 9)) == 0:
        return draw(st.binary(max_size=200))
    content = bytearray(draw(st.sampled_from(reader.seeds)))
    for _ in range(draw(st.integers(1, 4))):
        size = len(content)
        start, end = min(size, HEADER), max(0, size - HEADER)
        places = st.integers(0, start), st.integers(end, size), st.integers(0, size)
        place = draw(st.one_of(*places))
        kind = draw(st.sampled_from(("flip", "number", "word", "insert", "delete", "cut", "twice")))
        if kind == "flip" and place < size:
            content[place] ^= 1 << draw(st.integers(0, 7))
        elif kind == "number":
            width = draw(st.sampled_from("BHIQ"))
            least = -(2 ** (8 * struct.calcsize(width) - 1))
            value = draw(st.sampled_from((0, 1, -1, least, -least - 1, -2)))
            order = draw(st.sampled_from("<>"))
            new = struct.pack(f"{order}{width.lower()}", value)
            content[place : place + len(new)] = new
        elif kind == "word" and reader.words:
            new = draw(st.sampled_from(reader.words))
            content[place : place + draw(st.sampled_from((0, len(new), 1)))] = new
        elif kind == "insert":
            content[place:place] = draw(st.binary(min_size=1, max_size=8))
        elif kind == "delete":
            del content[place : place + draw(st.integers(1, 40))]
        elif kind == "cut":
            del content[place:]
        elif kind == "twice":
            content[place:place] = content[place : place + draw(st.integers(1, 60))]
    return bytes(content)


@contextlib.contextmanager
def memory_limited(most: int = MEMORY) -> Iterator[None]:
    """Raises MemoryError where so many bytes more than now would be taken."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    before = resource.getrlimit(resource.RLIMIT_AS)
    limit = pages * os.sysconf("SC_PAGE_SIZE") + most
    resource.setrlimit(resource.RLIMIT_AS, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def check(reader: Reader, folder: Path, examples: int, *, derandomize: bool) -> int:
    """Reads so many damaged files; returns how many.

    Raises:
      Exception: what the reader raised beside UserError; Hypothesis shows the smallest file.
    """
    count, path = 0, folder / f"file{reader.suffix}"

    @settings(
        max_examples=examples,
        deadline=None,
        derandomize=derandomize,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.generate, Phase.shrink),
    )
    @given(content=damaged(reader))
    def read(content: bytes) -> None:
        nonlocal count
        count += 1
        path.write_bytes(content)
        with contextlib.suppress(_user_error()), memory_limited():
            reader.read(path)

    for seed in reader.seeds:
        path.write_bytes(seed)
        with contextlib.suppress(_user_error()):  # one kind of file may be another reader's
            reader.read(path)
    logging.disable(logging.WARNING)
    try:
        read()
    finally:
        logging.disable(logging.NOTSET)
    return count


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--examples", type=int, default=500, help="of each reader (default: 500)")
    parser.add_argument("--only", default="", help="readers whose name has this text")
    arguments = parser.parse_args()
    total, faults = 0, 0
    for reader in readers():
        if arguments.only not in reader.name:
            continue
        began = time.process_time()
        with tempfile.TemporaryDirectory() as folder:
            try:
                count = check(reader, Path(folder), arguments.examples, derandomize=False)
            except Exception:
                faults += 1
                count = arguments.examples
                traceback.print_exc()
        total += count
        print(
            f"{reader.name}: {count} files, {time.process_time() - began:.1f} s of CPU", flush=True
        )
    print(f"{total} damaged files, {faults} readers that raised something else than UserError")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
