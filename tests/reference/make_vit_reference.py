"""Makes `vits.npz`: what timm and transformers make of tiny vision transformers and of ConvNeXt.

Needs PyTorch, timm and transformers:
    PYTHONPATH=. python tests/reference/make_vit_reference.py

With `--compare` it writes nothing. It compares networks of their true sizes, with random weights,
and prints a table. `--name` picks one of them.

Weights and images are those of tests/vits.py, of which the tests draw the same.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest

FOLDER = Path(__file__).parent
sys.path.insert(0, str(FOLDER.parent))
import vits  # noqa: E402  (found by the line before)

NAMES = ("clip_vit_b32", "siglip_vit_b16", "dinov2_vit_s14", "dinov2_vit_s14_reg4", vits.CONVNEXT)
VALUES = 32


def store(folder: Path) -> None:
    stored = {}
    with pytest.MonkeyPatch.context() as patch:
        vits.make_tiny(patch)
        for name in NAMES:
            for library in vits.LIBRARIES:
                for size in vits.SIZES[name]:
                    maps = vits.in_library(folder, name, library, size)
                    for endpoint in vits.ENDPOINTS[name]:
                        values, key = maps[endpoint], f"{name}/{library}/{size}/{endpoint}"
                        count = min(VALUES, values.size)
                        places = np.random.default_rng(0).choice(values.size, count, replace=False)
                        # The largest is among them, since differences are relative to it.
                        places[0] = np.abs(values).argmax()
                        stored[f"{key}/shape"] = np.asarray(values.shape, np.int32)
                        stored[f"{key}/places"] = places.astype(np.int32)
                        stored[f"{key}/values"] = values.ravel()[places]
    np.savez_compressed(FOLDER / "vits.npz", **stored)


def compare(folder: Path, names: list[str]) -> None:
    print("| network | library | pixels | largest difference |\n|---|---|---|---|", flush=True)
    for name in names:
        for library in vits.LIBRARIES:
            trained = 224 if name == vits.CONVNEXT else vits.vit.ARCHITECTURES[name].repositories
            options = {}
            if name != vits.CONVNEXT:
                trained, _ = trained[0]
                options["side"] = trained // vits.vit.ARCHITECTURES[name].patch
            weights = str(vits.save(folder, name, library, **options))
            size = 224
            expected = vits.in_library(folder, name, library, size, **options)
            found = vits.difference(weights, name, size, expected)
            print(f"| {name} | {library} | {size} | {found:.1e} |", flush=True)
            Path(weights).unlink()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--compare", action="store_true")
    parser.add_argument("--name", help="with --compare: one network only")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if arguments.compare:
            every = [*vits.IN_TIMM, vits.CONVNEXT]
            compare(Path(folder), [arguments.name] if arguments.name else every)
        else:
            store(Path(folder))


if __name__ == "__main__":
    main()
