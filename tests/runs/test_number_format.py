"""The number format `auto` is measured once, kept, and written into the run's config."""

import json

import jax
import pytest

from show_attend_tell import config, machine
from show_attend_tell.errors import UserError
from show_attend_tell.runs import number_format
from show_attend_tell.settings import Decoder, Settings


@pytest.fixture
def speeds(tmp_path, monkeypatch):
    """Products that take as many seconds as the test says; the list of what was measured."""
    monkeypatch.delenv(number_format.FORCED, raising=False)
    monkeypatch.setattr(machine, "cache_folder", lambda: tmp_path / "cache")
    taken, measured = {"float32": 1.0, "bfloat16": 1.0}, []

    def seconds(dtype, *sizes):
        measured.append((dtype, sizes))
        return taken[dtype]

    monkeypatch.setattr(number_format, "_seconds", seconds)
    return taken, measured


def settings(**decoder):
    return config.replaced(
        config.load_experiment("shapes:soft"), {f"decoder.{k}": v for k, v in decoder.items()}
    )


@pytest.mark.parametrize(("bfloat16", "chosen"), [(0.5, "bfloat16"), (0.9, "float32")])
def test_bfloat16_has_to_win_clearly(speeds, bfloat16, chosen):
    taken, measured = speeds
    taken["bfloat16"] = bfloat16
    wanted = settings(hidden=24, projection=40)
    assert number_format.pinned(wanted).decoder.dtype == chosen
    rows = wanted.train.batch_size * wanted.train.rows
    assert measured == [(dtype, (rows, 64, 96)) for dtype in ("float32", "bfloat16")]


def test_an_answer_is_kept_for_its_sizes_and_a_damaged_file_is_replaced(speeds, tmp_path):
    taken, measured = speeds
    taken["bfloat16"] = 0.1
    number_format.fastest(settings())
    taken["bfloat16"] = 2.0
    assert number_format.fastest(settings()) == "bfloat16"
    assert len(measured) == 2
    assert number_format.fastest(settings(hidden=64)) == "float32"
    path = tmp_path / "cache" / "formats.json"
    assert len(json.loads(path.read_text())) == 2
    path.write_text("[")
    assert number_format.fastest(settings()) == "float32"
    assert len(json.loads(path.read_text())) == 1


def test_a_begun_run_keeps_its_format(speeds):
    taken, measured = speeds
    saved = settings(dtype="bfloat16", dropout_bits=32)
    resumed = number_format.pinned(settings(), saved)
    assert (resumed.decoder.dtype, resumed.decoder.dropout_bits) == ("bfloat16", 32)
    assert not config.changes(saved, resumed)
    asked = number_format.pinned(settings(dropout_bits=32), settings(dtype="float32"))
    assert asked.decoder.dropout_bits == 32  # which the run's folder then refuses
    assert number_format.pinned(settings(dtype="float32")).decoder.dtype == "float32"
    assert not measured


def test_a_folder_of_another_kind_of_model_has_no_say(speeds):
    pictured = config.replaced(config.load_experiment("multi30k:pictured"), {"data.source": "en"})
    wanted = config.replaced(pictured, {"picture.dtype": "auto", "decoder.dtype": "auto"})
    assert number_format.pinned(wanted, settings(dtype="float32")).decoder.dtype == "float32"


def test_an_encoder_follows_where_it_asks_for_it(speeds):
    taken, measured = speeds
    taken["bfloat16"] = 0.1
    asked = {"encoder.dtype": "auto", "encoder.name": "efficientnet_lite0"}
    wanted = config.replaced(settings(dtype="float32"), asked)
    begun = number_format.pinned(wanted)
    assert (begun.encoder.dtype, begun.decoder.dtype) == ("bfloat16", "float32")
    taken["bfloat16"] = 9.0
    assert number_format.pinned(wanted, begun).encoder.dtype == "bfloat16"
    assert number_format.pinned(settings()).encoder.dtype == "float32"
    assert len(measured) == 2


def test_the_environment_and_accelerators_decide_without_a_measurement(speeds, monkeypatch):
    _, measured = speeds
    monkeypatch.setenv(number_format.FORCED, "bfloat16")
    assert number_format.fastest(settings()) == "bfloat16"
    monkeypatch.setenv(number_format.FORCED, "bf16")
    with pytest.raises(UserError, match="is 'bf16': choose float32 or bfloat16, or unset it"):
        number_format.fastest(settings())
    monkeypatch.delenv(number_format.FORCED)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert number_format.fastest(settings()) == "bfloat16"
    assert not measured


def test_a_config_from_before_means_float32_and_its_dropout(tmp_path):
    content = config.to_dict(settings())
    del content["decoder"]["dtype"], content["decoder"]["dropout_bits"]
    (tmp_path / "config.json").write_text(json.dumps(content))
    old: Settings = config.load_run(tmp_path / "config.json")
    assert (old.decoder.dtype, old.decoder.dropout_bits) == ("float32", 32)
    assert (Decoder().dtype, Decoder().dropout_bits) == ("auto", 8)


def test_products_are_timed(monkeypatch):
    monkeypatch.delenv(number_format.FORCED, raising=False)
    assert 0 < number_format._seconds("bfloat16", 2, 3, 4) < 5


@pytest.mark.parametrize(
    ("encoder", "format"),
    [("small", "float32"), ("efficientnet_lite0+efficientnet_lite1", "bfloat16")],
)
def test_an_encoder_without_formats_stays_in_float32(speeds, encoder, format):
    speeds[0]["bfloat16"] = 0.1
    wanted = config.replaced(settings(), {"encoder.dtype": "auto", "encoder.name": encoder})
    chosen = number_format.pinned(wanted)
    assert (chosen.decoder.dtype, chosen.encoder.dtype) == ("bfloat16", format)
