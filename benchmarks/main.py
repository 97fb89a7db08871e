"""Benchmarks: training steps, memory, scaling, beam search, encoders and input, side by side.

    ./launch.sh bench [--what train,beam] [--peer-dir DIR] [--rounds 10] [--record MACHINE]
    ./launch.sh bench --compare [MACHINE ..]

It first prints the machine: processor, instruction sets, and the speed of a large product in each
number format. Contestants besides this project are the same mathematics in PyTorch, where that is
installed (`pip install -e .[bench]`), and the peers' own modules, where `--peer-dir` names their
checkouts. In `train`, `beam` and `extract` each takes part once in every number format.
"""

import argparse
import importlib.util
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from show_attend_tell.settings import Settings

EXPERIMENT = "flickr8k:soft"
FORMATS = ("float32", "bfloat16")
PARTS = (
    *("train", "estimators", "objectives", "memory", "scaling", "devices", "beam", "extract"),
    *("cnns", "input", "scale", "explore", "estimates", "captions", "start"),
)
DEFAULT = ("train", "memory", "scaling", "beam", "extract", "input")


def parse() -> tuple[argparse.Namespace, list[str]]:
    """The arguments, and the overrides of the experiment."""
    parser = argparse.ArgumentParser(
        prog="bench",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Any further --config.a.b=value changes the experiment flickr8k:soft.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--what", default=",".join(DEFAULT), help=f"parts, of {','.join(PARTS)}; %(default)s"
    )
    parser.add_argument(
        "--peer-dir", type=Path, action="append", default=[], help="a peer's checkout; repeatable"
    )
    parser.add_argument("--rounds", type=int, default=10, help="timed rounds, after a warm-up")
    parser.add_argument("--workdir", type=Path, help="a trained run, for `beam` to decode")
    parser.add_argument("--no-torch", action="store_true", help="without PyTorch and the peers")
    parser.add_argument(
        "--formats", default=",".join(FORMATS), help="number formats of contestants; %(default)s"
    )
    parser.add_argument(
        "--record", metavar="MACHINE", help="also keep the results in results/bench/MACHINE"
    )
    parser.add_argument(
        "--compare",
        nargs="*",
        metavar="MACHINE",
        help="print the kept results of machines side by side (default: of all), and measure "
        "nothing",
    )
    parser.add_argument("--out", type=Path, default=Path("bench"), help="output folder")
    arguments, overrides = parser.parse_known_args()
    arguments.what = arguments.what.split(",")
    arguments.formats = arguments.formats.split(",")
    for option, given, known in (
        ("--what", arguments.what, PARTS),
        ("--formats", arguments.formats, FORMATS),
    ):
        unknown = sorted(set(given) - set(known))
        if unknown:
            parser.error(f"{option} {','.join(unknown)}: choose of {','.join(known)}")
    if arguments.rounds < 1:
        parser.error("--rounds must be at least 1")
    if arguments.record is not None and Path(arguments.record).name != arguments.record:
        parser.error(f"--record {arguments.record}: a name, not a path")
    return arguments, overrides


def main() -> int:
    arguments, overrides = parse()
    if arguments.compare is not None:
        return compare(arguments.compare)
    torch = importlib.util.find_spec("torch") is not None and not arguments.no_torch
    if not torch:
        print("PyTorch and the peers are left out (pip install -e .[bench])", file=sys.stderr)

    import kept_records
    import machine

    from show_attend_tell import files
    from show_attend_tell.config import load_experiment
    from show_attend_tell.errors import UserError
    from show_attend_tell.runs.record import provenance

    peers = {}
    if torch:
        import peers as checkouts
        import torch as pytorch

        pytorch.set_num_threads(os.cpu_count() or 1)
        peers = checkouts.find(arguments.peer_dir)
    arguments.out.mkdir(parents=True, exist_ok=True)
    try:
        settings = load_experiment(EXPERIMENT, overrides)
        run = measurements(arguments, settings, overrides, peers, torch)
        here = machine.describe(torch)
        print(machine.summary(here), flush=True)
        for part in arguments.what:
            figures, table = run[part]()
            record = kept_records.complete(figures | provenance(settings), here, torch)
            files.write_text(arguments.out / f"{part}.json", json.dumps(record, indent=2) + "\n")
            files.write_text(arguments.out / f"{part}.md", table)
            if arguments.record is not None:
                kept_records.keep(arguments.record, part, record)
    except UserError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    print(f"figures and tables: {arguments.out.absolute()}", file=sys.stderr)
    return 0


def measurements(
    arguments: argparse.Namespace,
    settings: "Settings",
    overrides: list[str],
    peers: dict[str, Any],
    torch: bool,
) -> dict[str, Callable[[], tuple[dict[str, Any], str]]]:
    """By part, what measures it and returns figures and table."""
    import captions
    import cnns
    import decoding
    import estimates
    import exploring
    import extraction
    import reading
    import scale
    import scaling
    import starting
    import training

    rounds, formats = arguments.rounds, arguments.formats
    variants = training.variants(formats)
    return {
        "train": lambda: training.run(settings, rounds, peers, torch, variants, formats),
        "estimators": lambda: training.run(settings, rounds, {}, False, training.ESTIMATORS),
        "objectives": lambda: training.objectives(overrides, rounds),
        "memory": lambda: training.memory(settings),
        "scaling": lambda: scaling.run(settings, rounds, arguments.out),
        "beam": lambda: decoding.run(settings, rounds, peers, torch, arguments.workdir, formats),
        "extract": lambda: extraction.run(rounds, torch, formats),
        "cnns": lambda: cnns.run(rounds, torch),
        "input": lambda: reading.run(settings, rounds),
        "scale": lambda: scale.run(arguments.out),
        "explore": lambda: exploring.run(rounds),
        "devices": lambda: scaling.layouts(settings, rounds),
        "estimates": estimates.run,
        "captions": captions.run,
        "start": lambda: starting.run(rounds),
    }


def compare(names: list[str]) -> int:
    """Prints the records of machines side by side."""
    import kept_records

    absent = [name for name in names if not (kept_records.FOLDER / name).is_dir()]
    if absent:
        print(f"bench: {kept_records.FOLDER / absent[0]}: no such folder", file=sys.stderr)
        return 2
    print(
        kept_records.compare(kept_records.FOLDER, names) or f"no records in {kept_records.FOLDER}"
    )
    return 0


if __name__ == "__main__":
    from show_attend_tell import memory

    memory.start_again()
    sys.exit(main())
