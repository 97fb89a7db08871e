"""What a figure says about its machine: processor, instruction sets, speed of a large product."""

import platform
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from timing import FORMATS, PRODUCT, make_product, product_speed, seconds_of

from show_attend_tell.cli.side_by_side import usable_cores

# Those that decide how fast products are, as Linux names them.
INSTRUCTION_SETS = (
    *("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "avx_vnni"),
    *("amx_tile", "amx_bf16", "amx_int8", "amx_fp16"),
    *("asimd", "asimddp", "bf16", "i8mm", "sve", "sve2", "svebf16"),
)
ROUNDS = 5


def describe(torch: bool) -> dict[str, Any]:
    """Processor, cores, instruction sets and devices, and FLOP/s of the products by format."""
    model, sets = processor(read_cpuinfo())
    products = {name: make_product(name) for name in FORMATS}
    if torch:
        products |= {f"PyTorch, {name}": torch_product(name) for name in FORMATS}
    return {
        "processor": model,
        "cores": len(usable_cores()),
        "instruction_sets": sets,
        "devices": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "product_flops": {
            name: float(np.median(product_speed(seconds_of(product, ROUNDS))))
            for name, product in products.items()
        },
    }


def summary(machine: dict[str, Any]) -> str:
    """The description on two lines."""
    speeds = ", ".join(
        f"{name} {speed / 1e9:,.0f}" for name, speed in machine["product_flops"].items()
    )
    return (
        f"{machine['processor']}, {machine['cores']} cores, devices: {machine['devices']}; "
        f"{' '.join(machine['instruction_sets'])}\n"
        f"product of two {PRODUCT}×{PRODUCT} matrices, GFLOP/s: {speeds}"
    )


def read_cpuinfo() -> str:
    path = Path("/proc/cpuinfo")
    return path.read_text() if path.exists() else ""


def processor(cpuinfo: str) -> tuple[str, list[str]]:
    """The processor's name and its known instruction sets, from the text of /proc/cpuinfo."""
    name = re.search(r"^model name\s*: (.*)$", cpuinfo, re.MULTILINE)
    flags = re.search(r"^(?:flags|Features)\s*: (.*)$", cpuinfo, re.MULTILINE)
    known = set(flags[1].split()) if flags else set()
    model = name[1].strip() if name else platform.processor() or platform.machine()
    return model, [each for each in INSTRUCTION_SETS if each in known]


def torch_product(number_format: str) -> Callable[[], None]:
    import torch

    matrix = torch.randn(PRODUCT, PRODUCT).to(getattr(torch, number_format))

    def take() -> None:
        torch.mm(matrix, matrix)

    return take
