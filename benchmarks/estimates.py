"""What COCO's sizes need on an accelerator, computed without one: FLOPs, memory and least times.

FLOPs are those of matrix products and convolutions, counted in the program for accelerators as JAX
traces it, padding included. Temporary memory is what XLA plans for the same program on CPUs, in
float32; nothing of this size is allocated. Other compilers fuse other operations, so both are
estimates. Times assume a card: see `PEAK`, `SHARE` and `TRAFFIC`.
"""

import math
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import jax
import jax.numpy as jnp
from cnns import make
from flax import nnx
from jax.extend.core import ClosedJaxpr, Jaxpr
from rich.console import Console
from rich.progress import track
from timing import print_table

from show_attend_tell import config, settings
from show_attend_tell.inference.decoding import make_decode
from show_attend_tell.models.captioner import trained_weights
from show_attend_tell.models.encoders import Precomputed, make_encoder
from show_attend_tell.models.encoders.staged import StagedEncoder
from show_attend_tell.objectives.rewards import idf_table
from show_attend_tell.runs.build import build_captioner, make_objective
from show_attend_tell.settings import Settings
from show_attend_tell.tokens import EOS
from show_attend_tell.training.optimizer import make_optimizer
from show_attend_tell.training.step import initial_state, make_train_step

MEMORY = 80e9  # bytes of a card
PEAK = 312e12  # products in bfloat16 that an A100 states, FLOP/s
SHARE = 0.4  # of it that is assumed to be reached
TRAFFIC = 2.0e12  # bytes/s that an A100 with 80 GB states
USED = 0.9  # of the memory: the rest is the runtime's, and lost between buffers

WORDS = 10_004
FEATURES = 2048  # of ResNet-101
# Five captions of COCO, 11.6 tokens on average, in two rows.
ROWS, LENGTH = 2, 30
BATCHES = (64, 256)
GRIDS = ((7, 7), (14, 14))
CAPTIONED = (50, 200)  # images of a batch in beam search
EXTRACTED, SIDE = (64, 256), 448  # images of a batch, pixels
ENCODERS = ("efficientnet_lite0", "efficientnet_lite2", "vgg19", "resnet50", "resnet101")
SIZES = {
    "decoder.projection": 512,
    "decoder.embedding": 512,
    "decoder.hidden": 512,
    "attention.units": 512,
}
PRODUCT_FORM = {
    "attention.order": "current",
    "attention.state_reads": "nothing",
    "decoder.initial_state": "zero",
    "decoder.product_form": True,
    "decoder.output_tanh": False,
    "decoder.gate": False,
}
# Changes to coco:soft.
VARIANTS = {
    "soft": {},
    "hard": {"attention.kind": "hard"},
    "marginal": PRODUCT_FORM | {"attention.kind": "hard", "hard.objective": "marginal"},
    "soft, reward": {"reward.samples": 5},
}


def run() -> tuple[dict[str, Any], str]:
    """Computes all estimates; returns the figures, and the tables as Markdown."""
    jobs = [(name, changes, grid) for grid in GRIDS for name, changes in VARIANTS.items()]
    programs = []
    for name, changes, grid in track(jobs, "steps", console=Console(stderr=True)):
        given = config.replaced(config.load_experiment("coco:soft"), SIZES | changes)
        one = measured(lambda batch, g=given, grid=grid: step_program(g, grid, batch), BATCHES)
        programs.append({"program": f"step, {name}", "places": math.prod(grid)} | one)
    for grid in GRIDS:
        given = config.replaced(config.load_experiment("coco:soft"), SIZES)
        one = measured(lambda batch, g=given, grid=grid: search_program(g, grid, batch), CAPTIONED)
        programs.append({"program": "beam search", "places": math.prod(grid)} | one)
    with tempfile.TemporaryDirectory() as folder:
        for name in track(ENCODERS, "encoders", console=Console(stderr=True)):
            encoder = plain_encoder(name, Path(folder))
            one = measured(lambda batch, e=encoder: encoding_program(e, batch), EXTRACTED)
            programs.append({"program": name, "places": math.prod(encoder.grid)} | one)
    title = (
        f"Steps of COCO's sizes: annotation vectors of {FEATURES} numbers, {ROWS} rows of "
        f"{LENGTH} tokens, V = {WORDS:,}, {', '.join(SIZES)} = 512; beam search with 5 hypotheses "
        f"and 30 steps; encoders at {SIDE} pixels. The largest batch fits {USED:.0%} of "
        f"{MEMORY / 1e9:.0f} GB; the time is that of the larger batch's products at {SHARE:.0%} of "
        f"{PEAK / 1e12:.0f} TFLOP/s and, beside it, of the temporary memory, written and read once "
        f"at {TRAFFIC / 1e12:.0f} TB/s"
    )
    columns = ["program", "places", "B", "GFLOP", "held, MB", "temporary, GB"]
    columns += ["MB an image", "largest B", "products, ms", "traffic, ms"]
    table = print_table(title, columns, [_cells(figure) for figure in programs])
    return {"setting": title, "rows": programs}, table


def _cells(figure: dict[str, Any]) -> list[str]:
    (small, large), (less, more) = figure["batches"], figure["temporary"]
    return [
        figure["program"],
        str(figure["places"]),
        f"{small}, {large}",
        f"{figure['flops'] / 1e9:,.0f}",
        f"{figure['held'] / 1e6:,.0f}",
        f"{less / 1e9:.2f}, {more / 1e9:.2f}",
        f"{figure['of_image'] / 1e6:.1f}",
        f"{figure['largest']:,}",
        f"{1e3 * figure['flops'] / (SHARE * PEAK):.1f}",
        f"{1e3 * 2 * more / TRAFFIC:.1f}",
    ]


# The jitted function; its arguments, first those that do not grow with the batch; and how often a
# loop runs whose end depends on data.
Program = tuple[Any, tuple[Any, ...], tuple[Any, ...], int]


def measured(program: Callable[[int], Program], batches: tuple[int, int]) -> dict[str, Any]:
    """FLOPs of the larger batch, and memory of both, in bytes."""
    temporary, inputs, flops, kept = [], [], 0.0, 0
    for batch in batches:
        function, held, given, trips = program(batch)
        traced = function.trace(*held, *given)
        compiled = traced.lower().compile({"xla_backend_optimization_level": 0})
        temporary.append(int(compiled.memory_analysis().temp_size_in_bytes))
        inputs.append(_bytes(given))
        flops, kept = products(traced.jaxpr.jaxpr, trips), _bytes(held)
    small, large = batches
    of_image = (temporary[1] + inputs[1] - temporary[0] - inputs[0]) / (large - small)
    fixed = max(0.0, temporary[0] + inputs[0] - small * of_image)
    return {
        "batches": batches,
        "flops": flops,
        "held": kept,
        "temporary": temporary,
        "of_image": of_image,
        "largest": int((USED * MEMORY - kept - fixed) / of_image),
    }


def _bytes(tree: Any) -> int:
    return sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(tree))


def step_program(given: Settings, grid: tuple[int, int], images: int) -> Program:
    """A training step; it holds the weights, their mean and the optimizer's state."""
    encoder = Precomputed(FEATURES, grid)
    model = build_captioner(given, encoder, WORDS)
    optimizer = make_optimizer(given.optimizer, total_steps=100_000)
    objective = make_objective(given, idf_table([[[4, EOS]]]))
    step = make_train_step(model, objective, optimizer, key=jax.random.key(0), average=0.99)
    batch = {
        "inputs": jax.ShapeDtypeStruct((images, math.prod(grid), FEATURES), jnp.float16),
        "tokens": jax.ShapeDtypeStruct((images, ROWS, LENGTH), jnp.int32),
    }
    state = initial_state(model, objective, optimizer)
    return step.func, (*step.args, state), (batch,), given.reward.max_length


def search_program(given: Settings, grid: tuple[int, int], images: int) -> Program:
    """Beam search in which every caption takes all steps."""
    model = build_captioner(given, Precomputed(FEATURES, grid), WORDS)
    inputs = jax.ShapeDtypeStruct((images, math.prod(grid), FEATURES), jnp.float16)
    numbers = jax.ShapeDtypeStruct((images,), jnp.int32)
    decode = make_decode(model, given.decode)
    return decode, (trained_weights(model),), (inputs, numbers), given.decode.max_length


def encoding_program(encoder: StagedEncoder, images: int) -> Program:
    """An encoder as accelerators run it: all images at once, convolutions as written."""
    encoder.images_at_once = images
    graph, weights = nnx.split(encoder)
    given = jax.ShapeDtypeStruct((images, SIDE, SIDE, 3), jnp.uint8)
    function = jax.jit(lambda weights, x: nnx.merge(graph, weights)(x).astype(jnp.float16))
    return function, (weights,), (given,), 1


def plain_encoder(name: str, folder: Path) -> StagedEncoder:
    """The encoder; if all of it is trained, no convolution has the form for CPUs."""
    if name.startswith("efficientnet"):
        options = settings.ImageEncoder(name=name, image_size=SIDE, trainable_from="all")
        return cast(StagedEncoder, make_encoder(options, seed=0))
    return cast(StagedEncoder, make(name, SIDE, folder, trainable_from="all"))


def products(jaxpr: Jaxpr, trips: int) -> float:
    """Multiplications and additions of the products and convolutions of a program.

    A loop whose end depends on data counts `trips` times. Of branches the largest counts, and of
    those that depend on the platform the one for all but the named ones.
    """
    total = 0.0
    for equation in jaxpr.eqns:
        name, given = equation.primitive.name, equation.params
        if name == "dot_general":
            ((contracted, _), _) = given["dimension_numbers"]
            depth = math.prod(equation.invars[0].aval.shape[axis] for axis in contracted)
            total += 2 * depth * equation.outvars[0].aval.size
        elif name == "conv_general_dilated":
            kernel = equation.invars[1].aval
            outputs = kernel.shape[given["dimension_numbers"].rhs_spec[0]]
            total += 2 * kernel.size / outputs * equation.outvars[0].aval.size
        elif name == "cond":
            platforms = given.get("branches_platforms") or [None] * len(given["branches"])
            branches = zip(given["branches"], platforms, strict=True)
            total += max(products(b.jaxpr, trips) for b, platform in branches if platform is None)
        else:
            times = {"scan": given.get("length"), "while": trips}.get(name, 1)
            total += times * sum(products(part, trips) for part in _parts(given))
    return total


def _parts(params: dict[str, Any]) -> Iterator[Jaxpr]:
    """The programs inside an equation, of which each runs once."""
    for value in params.values():
        if isinstance(value, ClosedJaxpr):
            yield value.jaxpr
        elif isinstance(value, Jaxpr):
            yield value
