"""Makes a folder of 200 captioned pictures out of Flickr8k, to fine-tune a packaged model on.

    PYTHONPATH=. .venv/bin/python benchmarks/small_folder.py FLICKR8K FOLDER

The packaged models were trained on Flickr8k's training split, so none of the pictures may come
from there. 200 come from its validation split, and are the folder's `train`; 500 come from its test
split, and are the folder's `test`. `config.data.holdout` takes validation pictures out of the 200.
Hashes of their names choose the pictures, so that every machine makes the same folder.

The photographs are for non-commercial research: the folder is not for sharing.
"""

import argparse
import csv
import hashlib
from pathlib import Path

from show_attend_tell.config import load_experiment
from show_attend_tell.data.base_task import data_folder
from show_attend_tell.data.load import load_images

# Split of the folder to the split of Flickr8k that its pictures come from. Never `train`.
FROM = {"train": "val", "test": "test"}
TABLE = "metadata.csv"


def order(image_id: str) -> str:
    """What pictures are sorted by. Not by the hash of `data.holdout`, which must draw afresh."""
    return hashlib.sha256(f"small folder {image_id}".encode()).hexdigest()


def make_folder(source: Path, folder: Path, counts: dict[str, int], data_dir: Path) -> None:
    """Writes pictures and their captions.

    Args:
      source: the user's download of Flickr8k.
      folder: to write; it must not hold a table yet.
      counts: pictures of each split of the folder.
      data_dir: folder of built data sets.

    Raises:
      FileExistsError: the folder holds a table.
      UserError: Flickr8k cannot be read.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / TABLE).open("x", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(("file_name", "caption", "split"))
        for split, count in counts.items():
            images = load_images("flickr8k", FROM[split], data_dir=data_dir, manual_dir=source)
            for number in sorted(range(len(images)), key=lambda n: order(images.ids[n]))[:count]:
                example = images[number]
                (folder / example.image_id).write_bytes(example.image)
                table.writerows((example.image_id, c, split) for c in example.captions)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", type=Path, metavar="FLICKR8K", help="its download")
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="to write")
    parser.add_argument("--train", type=int, default=200, help="pictures (default: 200)")
    parser.add_argument("--test", type=int, default=500, help="pictures (default: 500)")
    arguments = parser.parse_args()
    counts = {"train": arguments.train, "test": arguments.test}
    data_dir = data_folder(load_experiment("flickr8k:soft").data) / "datasets"
    make_folder(arguments.source, arguments.folder, counts, data_dir)
    print(f"{arguments.folder}: {counts['train']} pictures to train, {counts['test']} to test")


if __name__ == "__main__":
    main()
