"""Small stand-ins of the data sets that a user has: their names and layout, generated pictures."""

import io
import json
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

from show_attend_tell.data.examples import ImageSource
from show_attend_tell.data.load import load_images

FLICKR8K = {
    "train": [f"{i}_aa.jpg" for i in range(6)],
    "val": [f"{i}_bb.jpg" for i in range(3)],
    "test": [f"{i}_cc.jpg" for i in range(3)],
}
FLICKR8K_LISTS = {"train": "trainImages", "val": "devImages", "test": "testImages"}
COCO_CLASSES = ("person", "dog", "hot dog", *(f"class {i}" for i in range(77)))


def picture(seed: int, format: str = "JPEG", size: tuple[int, int] = (30, 20)) -> bytes:
    width, height = size
    values = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(values).save(file, format)
    return file.getvalue()


def flickr8k_caption(name: str, k: int) -> str:
    return f"Picture {k} of a dog 's {name[0]} toys ."


def flickr8k(folder: Path) -> None:
    """The two halves of the original download, extracted."""
    images = folder / "Flicker8k_Dataset"
    images.mkdir(parents=True)
    names = [name for split in FLICKR8K.values() for name in split]
    for seed, name in enumerate(names):
        (images / name).write_bytes(picture(seed))
    (images / "unlisted.jpg").write_bytes(b"")
    lines = [f"{name}#{k}\t{flickr8k_caption(name, k)}" for name in names for k in range(5)]
    lines += [f"2258277193_586949ec62.jpg.1#{k}\tNo such picture ." for k in range(5)]
    (folder / "Flickr8k.token.txt").write_text("\n".join(lines) + "\n")
    (folder / "readme.txt").write_text("about")
    for split, list_name in FLICKR8K_LISTS.items():
        text = "\n".join(FLICKR8K[split]) + "\n"
        (folder / f"Flickr_8k.{list_name}.txt").write_text(text)


def entity_object(names: list[int], *boxes: tuple[float, float, float, float]) -> str:
    """An object of an annotation file; boxes are (xmin, ymin, xmax, ymax), pixels from 1."""
    sides = ("xmin", "ymin", "xmax", "ymax")
    inside = "".join(f"<name>{name}</name>" for name in names)
    for box in boxes:
        within = "".join(f"<{side}>{n}</{side}>" for side, n in zip(sides, box, strict=True))
        inside += f"<bndbox>{within}</bndbox>"
    flags = "" if boxes else "<scene>0</scene><nobndbox>1</nobndbox>"
    return f"<object>{inside}{flags}</object>"


def entity_file(*objects: str, size: tuple[int, int] = (30, 20)) -> str:
    """An annotation file of a picture of (width, height) pixels."""
    width, height = size
    return (
        f"<annotation><filename>a.jpg</filename><size><width>{width}</width>"
        f"<height>{height}</height><depth>3</depth></size>{''.join(objects)}</annotation>"
    )


def entities(folder: Path) -> None:
    """Flickr30k Entities for all pictures of `flickr8k`, extracted; every caption has a sentence.

    Entity 8, the dog, has two boxes, one of which it shares with 9, the toys. The picture, 7, has
    none, and 0 must have none: it stands for whatever was not annotated.
    """
    (folder / "Annotations").mkdir(parents=True)
    (folder / "Sentences").mkdir()
    (folder / "README").write_text("about")
    (folder / "UNRELATED_CAPTIONS").write_text("# format: <imageID> <sentence number>\n99 5")
    dog, toys = (4, 6, 15, 10), (1, 1, 30, 20)
    objects = [entity_object([8, 0], dog), entity_object([8, 9], toys), entity_object([7])]
    for key in sorted({name[0] for split in FLICKR8K.values() for name in split}):
        (folder / "Annotations" / f"{key}.xml").write_text(entity_file(*objects))
        lines = [
            f"[/EN#7/other Picture] [/EN#0/notvisual {k}] of [/EN#8/animals/people a dog] 's "
            f"[/EN#9/other {key} toys] ."
            for k in range(5)
        ]
        (folder / "Sentences" / f"{key}.txt").write_text("\n".join(lines))


def sentences(*captions: str) -> list[dict]:
    return [{"raw": c, "tokens": c.split(), "sentid": i} for i, c in enumerate(captions)]


def karpathy(splits: dict[str, list[str]], **fields) -> dict:
    """What a JSON file of the splits of Karpathy and Li holds; two captions an image."""
    return {
        "dataset": "stand-in",
        "images": [
            {
                "filename": name,
                "split": split,
                "sentences": sentences(f"A dog number {i} .", f"The {split} dog  runs .\n"),
                "imgid": i,
            }
            | fields
            for split, names in splits.items()
            for i, name in enumerate(names)
        ],
    }


def flickr30k(folder: Path) -> None:
    """One JSON file of 4 train, 2 val and 2 test images, and these in two folders below it."""
    splits = {"train": list("abcd"), "val": list("ef"), "test": list("gh")}
    splits = {split: [f"{name}.jpg" for name in names] for split, names in splits.items()}
    for split, names in splits.items():
        place = folder / "images" / ("training" if split == "train" else "held out")
        place.mkdir(parents=True, exist_ok=True)
        for name in names:
            (place / name).write_bytes(picture(ord(name[0])))
    (folder / "dataset_flickr30k.json").write_text(json.dumps(karpathy(splits)))


def own(folder: Path) -> None:
    """Ten images, and a table of one caption each."""
    folder.mkdir()
    table = "file_name,caption\n"
    for i in range(10):
        (folder / f"{i}.jpg").write_bytes(picture(i))
        table += f'{i}.jpg,"A dog, number {i} ."\n'
    (folder / "metadata.csv").write_text(table)


def coco_name(number: int, year: str) -> str:
    return f"COCO_{year}_{number:012}.jpg"


def coco(folder: Path) -> dict[str, list[str]]:
    """The four archives of COCO: 4 train, 2 val, 2 test and 2 restval images of 40 x 20 pixels.

    Each shows a dog twice, at its left and right edge, and a crowd of persons all over.
    """
    folder.mkdir(exist_ok=True)
    splits = {
        "train": [coco_name(i, "train2014") for i in range(4)],
        "val": [coco_name(10 + i, "val2014") for i in range(2)],
        "test": [coco_name(20 + i, "val2014") for i in range(2)],
        "restval": [coco_name(30 + i, "val2014") for i in range(2)],
    }
    names = {"train2014": splits["train"]}
    names["val2014"] = splits["val"] + splits["test"] + splits["restval"]
    annotations = {}
    for year, of_year in names.items():
        numbers = [int(name[-16:-4]) for name in of_year]
        with zipfile.ZipFile(folder / f"{year}.zip", "w") as archive:
            for number, name in zip(numbers, of_year, strict=True):
                archive.writestr(f"{year}/{name}", picture(number, size=(40, 20)))
        boxes = [(1, [0, 0, 10, 20]), (1, [30, 0, 10, 20]), (0, [0, 0, 40, 20])]
        annotations[f"annotations/instances_{year}.json"] = {
            "images": [
                {"id": number, "file_name": name, "height": 20, "width": 40}
                for number, name in zip(numbers, of_year, strict=True)
            ],
            "annotations": [
                {
                    "id": 10 * number + k,
                    "image_id": number,
                    "category_id": label,
                    "bbox": box,
                    "area": box[2] * box[3],
                    "iscrowd": int(k == 2),
                }
                for number in numbers
                for k, (label, box) in enumerate(boxes)
            ],
            "categories": [{"id": i, "name": name} for i, name in enumerate(COCO_CLASSES)],
        }
    write_zip(folder / "annotations_trainval2014.zip", annotations)
    captions = karpathy(splits)
    for image in captions["images"]:
        image["filepath"] = image["filename"].split("_")[1]
        image["cocoid"] = int(image["filename"][-16:-4])
    others = {f"dataset_flickr{n}k.json": {"images": []} for n in (8, 30)}
    write_zip(folder / "caption_datasets.zip", {"dataset_coco.json": captions} | others)
    return splits


def write_zip(path: Path, content: dict[str, dict]) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, value in content.items():
            archive.writestr(name, json.dumps(value))


def load(name: str, folder: Path | None, root: Path, split: str = "train", **options):
    """A split of a data set that is built below `root`, if it is not there yet."""
    return load_images(name, split, data_dir=root / "data", manual_dir=folder, **options)


def splits_of(name: str, folder: Path, root: Path, **options) -> dict[str, ImageSource]:
    """Its three splits."""
    return {s: load(name, folder, root, s, **options) for s in ("train", "val", "test")}


def ids_of(splits: dict[str, ImageSource]) -> list[str]:
    """The ids of all of them, sorted."""
    return sorted(image_id for part in splits.values() for image_id in part.ids)
