"""Measures where frozen encoders look, on a folder of photographs.

    PYTHONPATH=. .venv/bin/python benchmarks/centres.py FOLDER --name efficientnet_lite0 \\
        --endpoints stage5,head --size 288

For each endpoint it prints the shift in pixels, for `StagedEncoder.measured_shifts`, the offset
from the regular grid in cells and the correlation; then the same for rows, with the photographs
turned upside down. Several names joined by + are measured as one encoder.
"""

import argparse
from pathlib import Path

from show_attend_tell.models.encoders import make_encoder
from show_attend_tell.models.encoders.measured_centres import COLUMNS, ROWS, NotMeasurable
from show_attend_tell.runs.measuring import measure_centres
from show_attend_tell.settings import ImageEncoder

STRIDES = {"stage3": 8, "stage4": 16, "stage5": 16}  # of EfficientNet-Lite; later ones have 32


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="of photographs")
    parser.add_argument("--name", default="efficientnet_lite0", help="of the encoder")
    parser.add_argument("--endpoints", default="head", help="separated by commas: each by itself")
    parser.add_argument("--size", type=int, default=288, help="of the encoder's images, in pixels")
    parser.add_argument("--num", type=int, default=200, help="photographs, evenly spaced")
    arguments = parser.parse_args()
    paths = sorted(arguments.folder.glob("*.jpg"))
    paths = paths[:: max(1, len(paths) // arguments.num)][: arguments.num]
    for endpoint in arguments.endpoints.split(","):
        options = ImageEncoder(
            name=arguments.name,
            image_size=arguments.size,
            endpoints=tuple(endpoint.split("+")),
            grid_stride=max(STRIDES.get(part, 32) for part in endpoint.split("+")),
        )
        encoder = make_encoder(options, seed=0)
        print(f"{arguments.name} {endpoint} at {arguments.size}, stored {encoder.shift}")
        for axis, label in ((COLUMNS, "mirrored"), (ROWS, "upside down")):
            try:
                found = measure_centres(encoder, paths, axis)
            except NotMeasurable as error:  # photographs upside down are strange to networks
                print(f"    {label}: {error}", flush=True)
                continue
            print(
                f"    {label}: shift {found.shift:+.2f} pixels, offset {found.offset:+.3f} cells, "
                f"correlation {found.correlation:.3f}, {found.images} photographs",
                flush=True,
            )


if __name__ == "__main__":
    main()
