"""Training, beam search and extraction can be compiled for GPUs and TPUs. Nothing runs there."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from flax import nnx

import show_attend_tell
from show_attend_tell import config
from show_attend_tell.inference.decoding import make_decode
from show_attend_tell.models import native
from show_attend_tell.models.captioner import trained_weights
from show_attend_tell.models.encoders import Precomputed, make_encoder
from show_attend_tell.models.encoders.base import Frozen
from show_attend_tell.models.encoders.layers import Convolution, plain_kernel
from show_attend_tell.models.encoders.weights import Weights
from show_attend_tell.objectives.rewards import idf_table
from show_attend_tell.runs.build import build_captioner, make_objective
from show_attend_tell.runs.encoding import annotate
from show_attend_tell.settings import ImageEncoder, Settings
from show_attend_tell.training.optimizer import make_optimizer
from show_attend_tell.training.step import initial_state, make_train_step

PLATFORMS = ("cuda", "tpu")
# Calls that leave StableHLO: markers of shardings, and random bits, which GPUs have a kernel for.
KNOWN_CALLS = {"Sharding", "cu_threefry2x32_ffi"}
WORDS, PLACES, FEATURES = 9, 4, 8
SIZES = {
    "decoder.projection": 6,
    "decoder.embedding": 5,
    "decoder.hidden": 6,
    "attention.units": 7,
    "decode.beam": 2,
    "decode.max_length": 4,
}
WITHOUT_SCENE = {"attention.values": (), "decoder.scene": (), "encoder.endpoints": ("head",)}
REWARD = {"reward.samples": 2, "reward.max_length": 3}
# Among them every scan, every way to draw words and places, and both number formats.
STEPS = {
    "soft": ("soft", {}),
    "hard": ("hard", {"hard.baseline": "learned"}),
    "marginal, bfloat16": ("marginal", {"decoder.dtype": "bfloat16"}),
    "reward, hard": ("hard", REWARD),
}
MORE_STEPS = {
    "soft, bfloat16": ("soft", {"decoder.dtype": "bfloat16"}),
    "sparse": ("local-sparse", {}),
    "supervised": ("marginal-supervised", {}),
    "hard, bfloat16": ("hard", {"decoder.dtype": "bfloat16"}),
    "hard, self_critical": ("hard", {"hard.baseline": "self_critical"}),
    "hard, expected": ("hard", {"hard.baseline": "expected"}),
    "hard, leave_one_out": ("hard-leave-one-out", {}),
    "marginal": ("marginal", {}),
    "top_k": ("marginal", {"hard.objective": "top_k", "hard.samples": 2}),
    "variational": ("local-variational", {}),
    "gumbel": ("hard", {"hard.objective": "gumbel"}),
    "rebar": ("local-reinforce", {"hard.objective": "rebar"}),
    "reward": ("soft", REWARD),
    "reward, mixture": ("marginal", REWARD | {"decode.context": "mixture"}),
}
SEARCHES = {
    "expected": ("soft", {}),
    "argmax": ("hard", {"decode.context": "argmax"}),
    "groups": ("soft", {"decode.groups": 2, "decode.no_repeat": 2, "decode.min_length": 2}),
    "words": ("soft", {"decode.search": "sample", "decode.top_k": 5, "decode.top_p": 0.9}),
    "sample": ("hard", {"decode.context": "sample"}),
    "mixture": ("marginal", {"decode.context": "mixture"}),
}


def small(variant: str, changes: dict) -> Settings:
    experiment = config.load_experiment(f"flickr8k:{variant}")
    return config.replaced(experiment, SIZES | WITHOUT_SCENE | changes)


def lowered(function, *arguments) -> str:
    """The program for both platforms."""
    with native.without():  # as where the default device is no CPU
        exported = jax.export.export(function, platforms=PLATFORMS)(*arguments)
    assert exported.platforms == PLATFORMS
    program = exported.mlir_module()
    calls = set(re.findall(r"stablehlo\.custom_call @(\w+)", program))
    assert calls <= KNOWN_CALLS, calls
    return program


def cases(table: dict, mark: tuple = ()) -> list:
    return [pytest.param(*case, id=name, marks=mark) for name, case in table.items()]


@pytest.mark.parametrize(
    ("variant", "changes"), [*cases(STEPS), *cases(MORE_STEPS, pytest.mark.slow)]
)
def test_training_steps_can_be_lowered(variant, changes):
    settings = small(variant, changes)
    model = build_captioner(settings, Precomputed(FEATURES, (2, 2)), WORDS)
    optimizer = make_optimizer(settings.optimizer, total_steps=1_000)
    objective = make_objective(settings, idf_table([[[4, 5, 2]]]))
    step = make_train_step(model, objective, optimizer, key=jax.random.key(0), average=0.9)
    batch = {
        "inputs": jax.ShapeDtypeStruct((2, PLACES, FEATURES), jnp.float16),
        "tokens": jax.ShapeDtypeStruct((2, 2, 3), jnp.int32),
    }
    if settings.attention.supervision:
        batch["maps"] = jax.ShapeDtypeStruct((2, 2, 3, PLACES), jnp.float16)
    lowered(step.func, *step.args, initial_state(model, objective, optimizer), batch)


@pytest.mark.parametrize(
    ("variant", "changes"),
    [*cases({"mixture": SEARCHES.pop("mixture")}), *cases(SEARCHES, pytest.mark.slow)],
)
def test_beam_search_can_be_lowered(variant, changes):
    settings = small(variant, changes)
    model = build_captioner(settings, Precomputed(FEATURES, (2, 2)), WORDS)
    inputs = jax.ShapeDtypeStruct((3, PLACES, FEATURES), jnp.float16)
    numbers = jax.ShapeDtypeStruct((3,), jnp.int32)
    lowered(make_decode(model, settings.decode), trained_weights(model), inputs, numbers)


def test_extraction_takes_all_images_at_once():
    """CPUs take a few at a time, in a loop."""
    early = ImageEncoder(
        name="efficientnet_lite0", image_size=32, endpoints=("stage2",), grid_stride=8
    )
    encoder = make_encoder(early, seed=0)
    images = jax.ShapeDtypeStruct((encoder.images_at_once + 1, 32, 32, 3), jnp.uint8)
    arguments = (*nnx.split(encoder), images)
    assert "stablehlo.while" not in lowered(annotate, *arguments)
    jax.clear_caches()
    with native.without():  # functions in C++ take all at once, too
        assert "stablehlo.while" in annotate.lower(*arguments).as_text()
    jax.clear_caches()


def test_extraction_leaves_convolutions_whole(tmp_path):
    """CPUs take them apart into products, by Winograd's method."""
    kernel = np.random.default_rng(0).standard_normal((6, 5, 3, 3), np.float32)
    path = tmp_path / "weights.safetensors"
    safetensors.numpy.save_file({"a.weight": kernel, "a.bias": np.zeros(6, np.float32)}, path)
    weights = Weights(path)
    weights.kind = Frozen
    layer = Convolution(weights, "a", None, 5, 6, kernel=3, winograd=True)
    graph, state = nnx.split(layer)
    call = jax.jit(lambda state, x: nnx.merge(graph, state)(x))
    arguments = (state, jax.ShapeDtypeStruct((2, 8, 8, 5), jnp.float32))
    program = lowered(call, *arguments)
    assert "stablehlo.convolution" in program and "stablehlo.dot_general" not in program
    assert "stablehlo.convolution" not in call.lower(*arguments).as_text()
    np.testing.assert_allclose(
        plain_kernel(layer.kernel[...]), kernel.transpose(2, 3, 1, 0), atol=1e-6
    )


def test_calls_that_only_cpus_know_are_found():
    shape = jax.ShapeDtypeStruct((3, 3), jnp.float32)
    lapack = jax.jit(jax.ffi.ffi_call("lapack_sgetrf_ffi", shape))
    with pytest.raises(AssertionError, match="lapack_sgetrf_ffi"):
        lowered(lapack, shape)


# Who asks for this process's platform, and why no program for another one depends on it.
ASK_FOR_THE_PLATFORM = {
    "cli/side_by_side.py": "a process of its own that counts the accelerators",
    "devices.py": "at the start of a job",
    "models/native/__init__.py": "calls nothing in C++ where this process is not on a CPU",
    "programs.py": "serves one process on its own device",
    "runs/encoding.py": "one picture for this process: one program or many",
    "runs/number_format.py": "measures this process's device",
}


def test_only_these_ask_for_the_platform():
    """A choice by this process's platform would be wrong in a program for another one."""
    # `platform.platform()`, of Python, names the machine; no program depends on it.
    asking = re.compile(r"\bdefault_backend\b|(?<!\bplatform)\.platform\b|\bget_backend\b")
    package = Path(show_attend_tell.__file__).parent
    found = {
        str(path.relative_to(package))
        for path in package.rglob("*.py")
        if asking.search(path.read_text("utf-8"))
    }
    assert found == ASK_FOR_THE_PLATFORM.keys()
