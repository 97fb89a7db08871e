"""Flickr30k Entities: which phrases of a caption name which boxes of a photograph.

31,783 photographs, those of Flickr8k among them; five sentences each, 276,000 boxes. For
non-commercial research. The files come from https://github.com/BryanPlummer/flickr30k_entities
(`annotations.zip`); their README defines the format:

    Sentences/ID.txt    [/EN#18/people A child] in [/EN#19/clothing a pink dress] climbs stairs .
    Annotations/ID.xml  size of the photograph; objects with names (ids such as 18) and a box, or
                        flags that the entity is the scene or has no box

An object with several names belongs to all of them. An entity with id 0 was not annotated. ID is
the name of the photograph up to its first "_" or ".". A photograph's descriptions are its
sentences, as they are there; `UNRELATED_CAPTIONS` lists some that do not describe it.

A box gives its first and last pixels, counted from 1: over all photographs of Flickr8k, the least
xmin is 1 and the largest xmax the width. So it reaches from xmin - 1 to xmax.

Source: B. Plummer, L. Wang, C. Cervantes, J. Caicedo, J. Hockenmaier, S. Lazebnik. Flickr30k
Entities: collecting region-to-phrase correspondences for richer image-to-sentence models. ICCV
2015, 2641-2649.
"""

import dataclasses
import logging
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from xml.etree import ElementTree
from xml.parsers import expat

from show_attend_tell.data.builders.common import DAMAGE, zip_members
from show_attend_tell.data.copies import Sides
from show_attend_tell.data.phrase_index import Images, Stamp
from show_attend_tell.data.phrases import (
    Counts,
    Described,
    Description,
    Phrase,
    comparable,
    count,
    usable,
)
from show_attend_tell.errors import UserError

ARCHIVES = ("flickr30k_entities.zip", "annotations.zip")
FOLDERS = ("Annotations", "Sentences")
UNRELATED = "UNRELATED_CAPTIONS"
NOT_ANNOTATED = "0"  # the id of entities of which nothing is known
MAX_BYTES = 2**20  # of a file: the largest has 0.02 MB

_PHRASE = re.compile(r"\[/EN#(\d+)((?:/[^\s/\[\]]+)*)\s([^\[\]]*)\]")

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Entities:
    """The annotations in one place.

    Attributes:
      place: the archive, or the folder of the two extracted folders.
    """

    place: Path

    def stamp(self) -> Stamp:
        """Of an archive; or of each extracted folder, for all its files together."""
        if self.place.is_file():
            stat = self.place.stat()
            return [(self.place.name, stat.st_size, stat.st_mtime_ns)]
        stamp = []
        for name in FOLDERS:
            stats = [file.stat() for file in os.scandir(self.place / name)]
            newest = max((stat.st_mtime_ns for stat in stats), default=0)
            stamp.append((f"{name}, {len(stats)} files", sum(s.st_size for s in stats), newest))
        return stamp

    def describe(self, images: Images) -> Described:
        """The sentences about each image, with their phrases.

        Counts what cannot be used, or had to be changed: images without annotations and, with the
        first split, annotations without an image; files and sentences of another form; sentences
        about something else; sentences that are no caption of the image; phrases without a box;
        boxes without area or cut at the picture's edge.

        Raises:
          UserError: the archive cannot be read.
        """
        files = self._files()
        unrelated = self._unrelated(files)
        counts: Counts = {}
        described = [
            tuple(_descriptions(name, captions, files, unrelated, counts))
            for name, captions in images.index
        ]
        if images.all_ids is not None:
            known = {annotation_id(name) for name in images.all_ids}
            ids = [name.removesuffix(".xml") for name in files if name.endswith(".xml")]
            for found in sorted(set(ids) - known):
                count(counts, "annotations without an image", found)
        return Described(described, counts)

    def _files(self) -> dict[str, Callable[[], bytes]]:
        """By name, the functions that read the files."""
        if self.place.is_file():
            files = zip_members(self.place, most=MAX_BYTES)
        else:
            folders = (self.place / FOLDERS[0], self.place / FOLDERS[1])
            paths = [path for folder in folders for path in folder.iterdir()]
            paths.append(self.place / UNRELATED)
            files = {path.name: path.read_bytes for path in paths if path.is_file()}
        # "._NAME" is what macOS adds to archives.
        return {name: read for name, read in files.items() if not name.startswith(".")}

    def _unrelated(self, files: Mapping[str, Callable[[], bytes]]) -> frozenset[tuple[str, int]]:
        """Ids and numbers, from 1, of the sentences that are listed as not about their image."""
        if UNRELATED not in files:
            return frozenset()
        try:
            lines = files[UNRELATED]().decode().splitlines()
        except DAMAGE as error:
            raise UserError(
                f"{self.place}: {UNRELATED} is damaged ({error}); get it again"
            ) from error
        listed = (re.fullmatch(r"(\S+)\s+(\d+)\s*", line) for line in lines)
        return frozenset((match[1], int(match[2])) for match in listed if match)


def find_entities(folder: Path | None) -> Entities | None:
    """Finds the annotations in a manual directory.

    They are the folders `Annotations` and `Sentences`, in it or in a folder below it, or else an
    archive of them, one of `ARCHIVES`.
    """
    if folder is None or not folder.is_dir():
        return None
    below = sorted(Path(entry.path) for entry in os.scandir(folder) if entry.is_dir())
    for place in (folder, *below):
        there = [name for name in FOLDERS if (place / name).is_dir()]
        if len(there) == len(FOLDERS):
            return Entities(place)
        if there:
            _log.warning("%s: has only one of %s, so it is not read", place, " and ".join(FOLDERS))
    archives = (folder / name for name in ARCHIVES)
    return next((Entities(path) for path in archives if path.is_file()), None)


def annotation_id(image_id: str) -> str:
    """The id under which an image is annotated."""
    name = re.split(r"[/\\]", image_id)[-1]  # an id may be the path of the image
    return re.split(r"[_.]", name, maxsplit=1)[0]


def _descriptions(
    name: str,
    captions: tuple[str, ...],
    files: Mapping[str, Callable[[], bytes]],
    unrelated: frozenset[tuple[str, int]],
    counts: Counts,
) -> Iterator[Description]:
    """The descriptions of one image; what cannot be used is added to `counts`."""
    key = annotation_id(name)
    xml, text = files.get(f"{key}.xml"), files.get(f"{key}.txt")
    if xml is None or text is None:
        count(counts, "images without annotations", name)
        return
    try:
        boxes = read_boxes(xml(), name, counts)
    except (*DAMAGE, expat.ExpatError) as error:
        count(counts, "unreadable XML", f"{key}.xml ({error})")
        return
    try:
        sentences = text().decode("utf-8-sig").split("\n")
    except DAMAGE as error:
        count(counts, "unreadable sentences", f"{key}.txt ({error})")
        return
    by_words: dict[str, list[int]] = {}
    for caption, said in enumerate(captions):
        by_words.setdefault(_compared(said), []).append(caption)
    for number, sentence in enumerate(filter(str.strip, sentences), 1):
        where = f"{name}, sentence {number}"
        if (key, number) in unrelated:
            count(counts, "sentences unrelated to their image", where)
            continue
        description = read_sentence(sentence, boxes)
        if description is None:
            count(counts, "sentences of another form", where)
            continue
        for phrase in description.phrases:
            words = " ".join(description.text.split(" ")[phrase.first : phrase.last + 1])
            if phrase.entity == NOT_ANNOTATED:
                count(counts, "phrases that are not annotated", f"{where}: {words}")
            elif not phrase.boxes:
                count(counts, "phrases without a box", f"{where}: {words}")
        equal = by_words.get(_compared(description.text), [])
        if equal:  # sentences of the same words each take another caption, as long as there are any
            caption = equal.pop(0) if len(equal) > 1 else equal[0]
            text = _written_as(captions[caption], description.text)
            description = dataclasses.replace(description, text=text, caption=caption)
        else:
            count(counts, "sentences that equal no caption", where)
        yield description


def read_boxes(xml: bytes, name: str, counts: Counts) -> dict[str, tuple[Sides, ...]]:
    """Reads the boxes of each entity from `Annotations/ID.xml`.

    Args:
      xml: the content of the file.
      name: of the image; boxes of no area and boxes cut at the edge are counted under it.
      counts: to add to.

    Raises:
      ExpatError: it is not XML.
      ValueError: it has a document type, or another form.
    """
    root = _parse(xml)
    height, width = _number(root, "size/height"), _number(root, "size/width")
    if min(height, width) < 1:
        raise ValueError(f"a size of {width:g} x {height:g} pixels")
    boxes: dict[str, tuple[Sides, ...]] = {}
    for thing in root.iterfind("object"):
        entities = [(element.text or "").strip() for element in thing.iterfind("name")]
        found: list[Sides] = []
        for box in thing.iterfind("bndbox"):
            sides = (
                (_number(box, "ymin") - 1) / height,
                (_number(box, "xmin") - 1) / width,
                _number(box, "ymax") / height,
                _number(box, "xmax") / width,
            )
            found += usable(sides, f"{name}, entity {' '.join(entities)}", counts)
        for entity in entities:
            boxes[entity] = (*boxes.get(entity, ()), *found)
    return boxes


def read_sentence(sentence: str, boxes: Mapping[str, tuple[Sides, ...]]) -> Description | None:
    """Reads a line of `Sentences/ID.txt`, which is not compared with captions yet.

    Returns:
      The description; None if the line has another form.
    """
    words: list[str] = []
    phrases: list[Phrase] = []
    end = 0
    for match in _PHRASE.finditer(sentence):
        words += sentence[end : match.start()].split()
        entity, kinds, said = match[1], match[2].split("/")[1:], match[3].split()
        if not said:
            return None
        places = () if entity == NOT_ANNOTATED else boxes.get(entity, ())
        last = len(words) + len(said) - 1
        phrases.append(Phrase(len(words), last, entity, tuple(kinds), places))
        words += said
        end = match.end()
    words += sentence[end:].split()
    if any("[/EN#" in word for word in words):  # a phrase that does not end
        return None
    return Description(" ".join(words), tuple(phrases), -1)


def _compared(text: str) -> str:
    """What is compared of a text: its words, see `comparable`, without the final full stop."""
    return " ".join(comparable(text).split()).removesuffix(".").rstrip()


def _written_as(caption: str, text: str) -> str:
    """The equal sentence, with letters and quotation marks as its caption has them.

    Otherwise its words could have other tokens than the caption's.
    """
    words = text.split(" ")
    # Only one of the two may have a final full stop.
    for i, (word, own) in enumerate(zip(text.split(" "), caption.split(), strict=False)):
        if word.lower() != own.lower() and comparable(word) == comparable(own):
            words[i] = own
    return " ".join(words)


def _parse(xml: bytes) -> ElementTree.Element:
    """Reads XML without a document type.

    These files have none. Entities, which can expand without limit or name other files, are
    declared there. Expat reports it before it reads any of them, so no further library is needed
    to keep them out.

    Raises:
      ExpatError: it is not XML.
      ValueError: it has a document type.
    """

    def refuse(*_: object) -> None:
        raise ValueError("it has a document type")

    tree, parser = ElementTree.TreeBuilder(), expat.ParserCreate()
    parser.buffer_text = True
    parser.StartDoctypeDeclHandler = refuse
    parser.StartElementHandler = tree.start
    parser.EndElementHandler = tree.end
    parser.CharacterDataHandler = tree.data
    parser.Parse(xml, True)
    return tree.close()


def _number(element: ElementTree.Element, tag: str) -> float:
    """The finite number in an element below another."""
    text = element.findtext(tag)
    if text is None:
        raise ValueError(f"no {tag}")
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{tag} is {text.strip()}")
    return number
