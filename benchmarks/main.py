"""Benchmarks: training steps, memory, scaling, beam search, encoders and input, side by side.

    ./launch.sh bench [--what train,beam] [--peer-dir DIR] [--rounds 10]

Contestants besides this project are the same mathematics in PyTorch, where that is installed
(`pip install -e .[bench]`), and the peers' own modules, where `--peer-dir` names their checkouts.
"""

import argparse
import importlib.util
import json
import os
import sys
from pathlib import Path

EXPERIMENT = "flickr8k:soft"
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
    parser.add_argument("--out", type=Path, default=Path("bench"), help="output folder")
    arguments, overrides = parser.parse_known_args()
    arguments.what = arguments.what.split(",")
    unknown = set(arguments.what) - set(PARTS)
    if unknown or arguments.rounds < 1:
        parser.error(
            f"--what {','.join(sorted(unknown))}: choose of {','.join(PARTS)}"
            if unknown
            else "--rounds must be at least 1"
        )
    return arguments, overrides


def main() -> int:
    arguments, overrides = parse()
    torch = importlib.util.find_spec("torch") is not None and not arguments.no_torch
    if not torch:
        print("PyTorch and the peers are left out (pip install -e .[bench])", file=sys.stderr)

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
    rounds = arguments.rounds
    arguments.out.mkdir(parents=True, exist_ok=True)
    try:
        settings = load_experiment(EXPERIMENT, overrides)
        run = {
            "train": lambda: training.run(settings, rounds, peers, torch, training.VARIANTS),
            "estimators": lambda: training.run(settings, rounds, {}, False, training.ESTIMATORS),
            "objectives": lambda: training.objectives(overrides, rounds),
            "memory": lambda: training.memory(settings),
            "scaling": lambda: scaling.run(settings, rounds, arguments.out),
            "devices": lambda: scaling.layouts(settings, rounds),
            "beam": lambda: decoding.run(settings, rounds, peers, torch, arguments.workdir),
            "extract": lambda: extraction.run(rounds, torch),
            "cnns": lambda: cnns.run(rounds, torch),
            "input": lambda: reading.run(settings, rounds),
            "scale": lambda: scale.run(arguments.out),
            "explore": lambda: exploring.run(rounds),
            "estimates": estimates.run,
            "captions": captions.run,
            "start": lambda: starting.run(rounds),
        }
        for part in arguments.what:
            figures, table = run[part]()
            record = figures | provenance(settings)
            files.write_text(arguments.out / f"{part}.json", json.dumps(record, indent=2) + "\n")
            files.write_text(arguments.out / f"{part}.md", table)
    except UserError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    print(f"figures and tables: {arguments.out.absolute()}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    from show_attend_tell import memory

    memory.start_again()
    sys.exit(main())
