"""The benchmarks: they time what they claim to time."""

import json
import mmap
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from show_attend_tell import config
from show_attend_tell.data.images import read_image
from show_attend_tell.data.load import SPLITS, load_images
from show_attend_tell.inference.decoding import make_decode
from show_attend_tell.models.attention import Annotations
from show_attend_tell.models.encoders import Precomputed
from show_attend_tell.objectives.likelihood import soft_loss
from show_attend_tell.runs.build import build_captioner
from show_attend_tell.settings import Decode

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
TOKENS = np.array(
    [[[5, 6, 2, 7, 2, 0], [8, 9, 4, 5, 6, 2]], [[4, 2, 5, 2, 0, 0], [7, 8, 2, 0, 0, 0]]]
)


@pytest.fixture
def training(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import training

    monkeypatch.setattr(training, "GRID", (2, 2))
    monkeypatch.setattr(training, "FEATURES", 12)
    monkeypatch.setattr(training, "VOCABULARY", 10)
    return training


@pytest.fixture
def settings():
    sizes = {"decoder.projection": 6, "decoder.embedding": 5, "decoder.hidden": 7}
    sizes |= {"attention.units": 8, "train.batch_size": 4}
    return config.replaced(config.load_experiment("flickr8k:soft"), sizes)


def test_packed_rows_are_unpacked_into_captions(training):
    rows = training.unpacked(TOKENS)
    expected = [[5, 6, 2], [7, 2], [8, 9, 4, 5, 6, 2], [4, 2], [5, 2], [7, 8, 2]]
    assert [row[row > 0].tolist() for row in rows] == expected


def test_flops_count_the_matrix_products(training, settings):
    one = training.training_flops(settings, TOKENS[:1, :1, :3])
    two = training.training_flops(settings, TOKENS[:1, :1])
    # Per token: gates, query, scores and context of four locations, deep output; thrice, times 2.
    token = 28 * (5 + 7 + 6) + 7 * 8 + 4 * (8 + 6) + 5 * (7 + 6 + 10)
    assert two - one == 2 * 3 * 2 * token
    # Per image: keys of four locations thrice, the projection of given vectors twice.
    assert one == 2 * (3 * 3 * token + 3 * 4 * 6 * 8 + 2 * 4 * 12 * 6)


def test_pytorch_has_the_same_mathematics(training, settings):
    torch = pytest.importorskip("torch", reason="PyTorch is absent")
    import in_pytorch

    decoder = build_captioner(settings, Precomputed(12, (2, 2)), 10).decoder
    annotations = np.random.default_rng(0).normal(size=(2, 4, 12)).astype(np.float32)
    tokens = jnp.array([[[5, 6, 2], [7, 2, 0]], [[8, 9, 2], [4, 2, 0]]])
    out = decoder(Annotations(jnp.asarray(annotations)), tokens)
    loss = {"doubly_stochastic": 0.5, "label_smoothing": 0.1}
    ours, _ = soft_loss(out.logits, out.alpha, tokens, **loss)
    model = in_pytorch.from_decoder(decoder, dropout=0, annotation_dropout=0)
    captions = torch.tensor(training.unpacked(tokens))
    theirs = in_pytorch.loss_of(model, torch.tensor(annotations), captions, **loss)
    assert theirs.item() == pytest.approx(float(ours), abs=1e-5)


def test_pytorchs_beam_search_finds_the_same_words(training, settings):
    torch = pytest.importorskip("torch", reason="PyTorch is absent")
    import in_pytorch

    model = build_captioner(settings, Precomputed(12, (2, 2)), 10)
    bias = model.decoder.output_bias
    bias[...] = jnp.array([-1e9] * 4 + [0.0] * 6)  # only words: no caption ends
    annotations = np.random.default_rng(0).normal(size=(3, 4, 12)).astype(np.float32)
    decode = make_decode(model, Decode(beam=3, max_length=6, length_penalty=0.0, batch_size=3))
    ours = decode(nnx.to_pure_dict(nnx.state(model, nnx.Param)), annotations, jnp.arange(3))
    theirs = in_pytorch.from_decoder(model.decoder, dropout=0, annotation_dropout=0).eval()
    words = in_pytorch.beam_search(theirs, torch.tensor(annotations), beam=3, steps=6)
    assert len(set(map(tuple, words.tolist()))) > 1  # or the images would not matter
    np.testing.assert_array_equal(words, ours.tokens[:, 0])


def test_the_command_writes_figures_and_tables(training, tmp_path, monkeypatch, capsys):
    import decoding
    import main
    import reading
    import timing

    monkeypatch.setattr(training, "VOCABULARY", 2539)  # of the generated captions
    few, variants = ("soft, float32", "hard, moving_average, float32"), training.variants
    monkeypatch.setattr(
        training, "variants", lambda formats: {k: variants(formats)[k] for k in few}
    )
    for module in (decoding, reading):
        monkeypatch.setattr(module, "GRID", (2, 2))
        monkeypatch.setattr(module, "FEATURES", 12)
    monkeypatch.setattr(decoding, "IMAGES", 2)
    monkeypatch.setattr(timing, "PRODUCT", 128)
    monkeypatch.setattr(timing, "PAUSE", 0.0)
    small = ["--config.decoder.hidden=16", "--config.decoder.embedding=16"]
    small += ["--config.decoder.projection=16", "--config.attention.units=16"]
    small += ["--config.train.batch_size=2"]
    command = [str(BENCHMARKS / "main.py"), "--rounds", "1", "--no-torch", *small]
    command += [
        "--what",
        "train,input,beam",
        "--out",
        f"{tmp_path / 'out'}",
        "--formats",
        "float32",
    ]
    monkeypatch.setattr(sys, "argv", command)
    assert main.main() == 0
    shown = capsys.readouterr().out
    assert "GFLOP/s: float32 " in shown and ", bfloat16 " in shown
    figures = json.loads((tmp_path / "out" / "train.json").read_text())
    soft = figures["rows"]["soft, float32"]
    assert soft["tokens_per_second"][0] > 0 and soft["utilisation"][0] > 0
    assert figures["machine"]["product_flops"]["bfloat16"] > 0 and "date" in figures
    assert str(tmp_path) not in str(figures["command"])
    assert "| hard, moving_average, float32 |" in (tmp_path / "out" / "train.md").read_text()
    assert (tmp_path / "out" / "input.json").exists()
    beam = json.loads((tmp_path / "out" / "beam.json").read_text())
    assert beam["rows"]["beam search, float32"]["images_per_second"][0] > 0


def test_each_number_format_is_a_contestant(training, settings):
    variants = training.variants(("float32", "bfloat16"))
    formats = {n: config.replaced(settings, v).decoder.dtype for n, v in variants.items()}
    assert all(name.endswith(f", {used}") for name, used in formats.items())
    assert {"soft, float32", "soft, bfloat16"} < set(formats)
    assert training.format_of("sgrvinod, bfloat16") == "bfloat16"
    assert training.format_of("hard, learned") == "float32"


def test_pytorch_computes_in_either_format(training):
    torch = pytest.importorskip("torch", reason="PyTorch is absent")
    import in_pytorch

    layer = torch.nn.Linear(2, 2)
    for name in ("float32", "bfloat16"):
        with in_pytorch.computed_in(name):
            assert layer(torch.ones(1, 2)).dtype is getattr(torch, name)


def test_the_machine_is_read_from_cpuinfo(training):
    import machine

    text = "processor\t: 0\nmodel name\t: Some CPU @ 2 GHz\nflags\t\t: fpu avx2 amx_bf16 avx512f\n"
    assert machine.processor(text) == ("Some CPU @ 2 GHz", ["avx2", "avx512f", "amx_bf16"])
    assert machine.processor("")[1] == []


def test_records_of_machines_stand_side_by_side(training, monkeypatch, tmp_path):
    import kept_records

    monkeypatch.setattr(kept_records, "FOLDER", tmp_path)
    assert kept_records.compare(tmp_path) == ""

    def keep(name, bfloat16, **more):
        machine = {"processor": "CPU", "cores": 2, "devices": "1 x cpu"}
        machine |= {"instruction_sets": ["avx2"], "product_flops": {"float32": 4e11}}
        times = {"soft, float32": [2.0, 4.0], "theirs, float32": [6.0, 8.0]} | more
        times |= {"theirs, bfloat16": bfloat16}
        rows = {
            k: {"seconds": v, "tokens_per_second": [60 / x for x in v]} for k, v in times.items()
        }
        figures = {"rows": rows, "commit": "abc", "command": ["main.py", f"--a={tmp_path}/b"]}
        record = kept_records.complete(figures, machine, torch=False)
        assert record["command"] == ["main.py", "--a=b"]
        kept_records.keep(name, "train", record)

    keep("new", [3.0, 4.0])
    keep("old", [8.0, 10.0], more=[1.0, 1.0])
    text = kept_records.compare(tmp_path)
    # The faster format is bold; the ratio is the median of those of the same rounds.
    assert "|  | new | old |" in text
    assert "| theirs, float32 | 9 (2.50) | **9 (2.50)** |" in text
    assert "| theirs, bfloat16 | **18 (1.25)** | 7 (3.25) |" in text
    assert "| more |  | 60 (0.38) |" in text and "| soft, float32 | 22 (1.00) | 22 (1.00) |" in text
    assert "| new | CPU | 2 | 1 x cpu | avx2 | 400 | abc | " in text
    assert "| old" not in kept_records.compare(tmp_path, ["new"])


@pytest.mark.slow
def test_memory_grows_with_each_size(training, settings):
    base = {"images": 4, "rows": 2, "steps": 4, "locations": 4}
    bytes_ = training.step_bytes(settings, **base)
    for name in ("images", "steps", "locations"):
        more = training.step_bytes(settings, **base | {name: 16})
        assert bytes_ < more < 8 * bytes_, name


def test_unknown_parts_are_reported(tmp_path):
    command = [sys.executable, BENCHMARKS / "main.py", "--what", "speed", "--out", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and "choose of train," in done.stderr


def test_own_memory_is_what_a_process_allocates(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import scale

    before = scale.own_memory(os.getpid())
    # Not an array: that might get memory that the process has and does not use.
    with mmap.mmap(-1, 50_000_000, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as taken:
        for _ in range(50):
            taken.write(b"1" * 1_000_000)
        assert 4e7 < scale.own_memory(os.getpid()) - before < 8e7
    assert scale.own_memory(2**22 + 1) == 0


def test_a_generated_folder_can_be_trained_on(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import scale

    scale.write_folder(tmp_path / "pictures", 12)
    data = {"data_dir": tmp_path / "data", "manual_dir": tmp_path / "pictures"}
    splits = [load_images("folder", split, **data) for split in SPLITS]
    assert sum(map(len, splits)) == 12
    assert read_image(splits[0][0].image, 16).shape == (16, 16, 3)


def test_products_are_counted_in_every_part_of_a_program(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import estimates

    def program(x, image, kernel):
        square = jax.lax.scan(lambda y, _: (y @ x, None), x, length=3)[0]  # 3
        open_end = jax.lax.while_loop(lambda y: y.sum() > 0, lambda y: y @ x, x)  # 5 in the count
        either = jax.lax.cond(x.sum() > 0, lambda: x @ x, lambda: x)  # 1
        placed = jax.lax.platform_dependent(x, cpu=lambda x: x @ x @ x, default=lambda x: x @ x)
        inner = jax.jit(lambda x: jax.checkpoint(jnp.dot)(x, x))(x)  # 1, and 1 before
        total = (square + open_end + either + placed + inner).sum()
        return total + jax.lax.conv(image, kernel, (1, 1), "SAME").sum()

    shapes = [(4, 4), (2, 3, 8, 8), (5, 3, 3, 3)]
    arguments = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    jaxpr = jax.jit(program).trace(*arguments).jaxpr.jaxpr
    convolution = 2 * (2 * 5 * 8 * 8) * (3 * 3 * 3)
    assert estimates.products(jaxpr, trips=5) == 11 * 2 * 4**3 + convolution


@pytest.mark.slow
def test_products_of_a_step_are_those_of_the_formula(training, settings, monkeypatch):
    import estimates

    monkeypatch.setattr(estimates, "FEATURES", 12)
    monkeypatch.setattr(estimates, "WORDS", 10)
    function, held, given, trips = estimates.step_program(settings, (2, 2), 4)
    counted = estimates.products(function.trace(*held, *given).jaxpr.jaxpr, trips)
    tokens = np.ones((4, estimates.ROWS, estimates.LENGTH), np.int32)
    assert counted == pytest.approx(training.training_flops(settings, tokens), rel=0.05)


def test_generated_captions_go_all_the_way_to_a_batch(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import captions

    monkeypatch.setattr(captions, "WORDS", 100)
    figures, table = captions.run({"few": (100, 2, 8.0, 2.0)})
    assert list(figures["rows"]["few"])[-1] == "first batch"
    assert "| few | plan of batches |" in table
