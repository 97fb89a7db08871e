"""Training runs, watched while someone else writes their files."""

import asyncio
import json
import os
import shutil
import time
from contextlib import aclosing

import pytest
import tiny

from show_attend_tell.errors import UserError
from show_attend_tell.explorer import live
from show_attend_tell.explorer.live import Watch
from show_attend_tell.explorer.pictures import Pictures
from show_attend_tell.runs.folder import LATEST_CAPTIONS
from show_attend_tell.runs.metrics_log import MetricWriter

CONFIG = {"train": {"metric": "CIDEr", "epochs": 2.5, "log_every": 2}, "data": {}}
CAPTION = {
    "id": "a.jpg",
    "words": ["a", "dog"],
    "alpha": [[0.5, 0.25], [0.125, 0.5]],
    "beta": [1.0, 0.5],
    "grid": [1, 2],
}


def make_run(folder, records=(), *, finished=False, **record):
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "run.json").write_text(json.dumps({"finished": finished, "resumed": []} | record))
    write(folder, *records)
    return folder


def write(folder, *records):
    with (folder / "metrics.jsonl").open("a") as file:
        for step, kind, numbers in records:
            file.write(json.dumps({"step": step, "kind": kind} | numbers) + "\n")


def train(step, **numbers):
    return step, "train", {"loss": 4.0, "gradient_norm": 1.0, "tokens_per_second": 9.0} | numbers


def val(step, score, **numbers):
    return step, "val", {"CIDEr": score, "seconds": step, "tokens": 1.0} | numbers


def watch(*paths):
    """Looks at the files at every question; else it waits for them to change."""
    watching = Watch(paths, interval=0.0)
    refresh = watching._refresh

    def at_once():
        watching._walked = -1e9
        refresh()

    watching._refresh = at_once
    return watching


def only(watching):
    [curves] = watching.snapshot().runs
    return curves


def aged(folder, seconds):
    """Makes all files of a folder older."""
    for path in (folder, *folder.rglob("*")):
        os.utime(path, (time.time() - seconds,) * 2)


def test_a_runs_curves_and_how_far_it_is(tmp_path):
    records = [train(2, loss=3.5), train(4, loss=3.0), val(5, 0.5, exact=0.0), val(10, 0.25)]
    make_run(tmp_path / "run", records)
    curves = only(watch(tmp_path))
    assert curves.train.step == [2, 4] and curves.train.values["loss"] == [3.5, 3.0]
    assert set(curves.train.values) == {"loss", "gradient_norm", "tokens_per_second"}
    # A score that only some validations have leaves gaps.
    assert curves.validation.values == {"CIDEr": [0.5, 0.25], "exact": [0.0, None]}
    run = curves.run
    assert (run.name, run.state, run.step, run.metric, run.best_step) == (
        "run",
        "running",
        10,
        "CIDEr",
        5,
    )
    assert run.total_steps == 13  # 2.5 epochs of five steps
    assert abs(run.written - time.time()) < 60 and run.captions_written is None


def test_the_best_step_is_the_one_that_the_run_keeps(tmp_path):
    # Of equal scores a run may keep the earlier one, and none whose weights cannot be exported.
    records = [val(5, 0.5, best_step=0), val(10, 0.5, best_step=10), val(15, 0.5, best_step=10)]
    folder = make_run(tmp_path / "run", records[:1])
    watching = watch(tmp_path)
    assert only(watching).run.best_step is None
    write(folder, *records[1:])
    assert only(watching).run.best_step == 10
    assert set(only(watching).validation.values) == {"CIDEr"}


def test_what_is_not_finite_is_null(tmp_path):
    make_run(tmp_path / "run", [train(2, loss=float("nan")), train(4, loss=float("inf"))])
    watching = watch(tmp_path)
    assert only(watching).train.values["loss"] == [None, None]
    assert "NaN" not in watching.snapshot().model_dump_json()


def test_a_run_is_running_finished_or_stopped(tmp_path):
    watching = watch(tmp_path)
    folder = make_run(tmp_path / "run", [train(2), val(4, 0.5)])
    assert only(watching).run.state == "running"
    aged(folder, live.QUIET + 60)
    assert only(watching).run.state == "stopped"
    write(folder, val(8, 0.5))
    assert only(watching).run.state == "running"

    # A part that ends notes its seconds; one that goes on rewrites its metrics afterwards.
    (folder / "run.json").write_text(json.dumps({"finished": False, "seconds": 9.0}))
    os.utime(folder / "metrics.jsonl", (time.time() - 5,) * 2)
    assert only(watching).run.state == "stopped"
    os.utime(folder / "metrics.jsonl", (time.time() + 5,) * 2)
    assert only(watching).run.state == "running"

    (folder / "run.json").write_text(json.dumps({"finished": True, "seconds": 9.0}))
    aged(folder, 1e6)
    run = only(watching).run
    assert run.state == "finished" and run.total_steps == run.step == 8  # stopped early


def test_a_run_whose_lines_are_far_apart_is_waited_for(tmp_path):
    slow = [train(100), val(100, 0.5, seconds=6000.0), train(200)]  # a minute a step
    folder = make_run(tmp_path / "run", slow)
    aged(folder, 4 * 6000)
    assert only(watch(tmp_path)).run.state == "running"
    aged(folder, 6 * 6000)
    assert only(watch(tmp_path)).run.state == "stopped"


def test_long_curves_are_thinned_and_keep_their_ends(tmp_path, monkeypatch):
    monkeypatch.setattr(live, "POINTS", 10)
    make_run(tmp_path / "run", [train(step) for step in range(1, 98)])
    steps = only(watch(tmp_path)).train.step
    assert len(steps) == 10 and (steps[0], steps[-1]) == (1, 97)


def test_names_are_relative_and_unlike(tmp_path):
    for name in ("one/a", "one/b/c", "two/a", "three"):
        make_run(tmp_path / name)
    paths = [tmp_path / name for name in ("one", "two", "three")]
    watching = watch(*paths, tmp_path / "one")  # named twice, shown once
    names = [curves.run.name for curves in watching.snapshot().runs]
    assert names == ["a", "b/c", "three", "two/a"]
    # A run keeps its name when the one that made it longer goes.
    shutil.rmtree(tmp_path / "one" / "a")
    names = [curves.run.name for curves in watching.snapshot().runs]
    assert names == ["b/c", "three", "two/a"]


def test_names_that_are_no_text_can_be_sent(tmp_path):
    odd = os.fsencode(tmp_path) + b"/\xff<script>"
    os.mkdir(odd)
    with open(odd + b"/metrics.jsonl", "w") as file:
        file.write('{"step": 1, "kind": "val", "\\ud800": 1}\n')
    config = {"data": {}, "train": {"metric": "\ud800", "epochs": "many"}}
    with open(odd + b"/config.json", "w") as file:
        json.dump(config, file)
    curves = only(watch(tmp_path))
    assert curves.run.name == "\ufffd<script>" and curves.run.total_steps is None
    assert json.loads(curves.model_dump_json())


def test_more_runs_than_a_page_can_show_are_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(live, "MOST_RUNS", 2)
    for name in "abc":
        make_run(tmp_path / name)
    snapshot = watch(tmp_path).snapshot()
    assert len(snapshot.runs) == 2 and snapshot.message.startswith("1 more runs")


@pytest.mark.parametrize("files", [("config.json",), ("run.json",), ("config.json", "run.json")])
@pytest.mark.parametrize("content", ["", "{", "[]", '{"train": 3, "seconds": {}}', "\ufeff"])
def test_damaged_files_cost_only_what_they_say(tmp_path, files, content):
    folder = make_run(tmp_path / "run", [train(2), val(4, 0.5)])
    for name in files:
        (folder / name).write_text(content)
    write(folder)
    with (folder / "metrics.jsonl").open("a") as file:
        file.write("damaged\n")
    curves = only(watch(tmp_path))
    assert curves.train.step == [2] and curves.run.message.endswith("left out: 1")


def test_captions_are_those_of_the_newest_validation(tmp_path):
    folder = make_run(tmp_path / "deep" / "run", [train(2)])
    watching = watch(tmp_path)
    with pytest.raises(UserError, match="no captions yet"):
        watching.captions("deep/run")
    sentence = CAPTION | {"id": "b", "source": ["ein", "Hund"], "words": ["\ud800", "dog"]}
    content = {"step": 4, "captions": [CAPTION, sentence]}
    (folder / LATEST_CAPTIONS).write_text(json.dumps(content))
    latest = watching.captions("deep/run", lambda name, *_: {"a.jpg": "split/a.jpg"}.get(name))
    assert (latest.run, latest.step) == ("deep/run", 4)
    assert [caption.picture for caption in latest.captions] == ["split/a.jpg", None]
    assert latest.captions[0].alpha == CAPTION["alpha"]
    assert latest.captions[1].source == ["ein", "Hund"]
    assert latest.gate and latest.captions[0].text == "a dog"
    assert json.loads(latest.model_dump_json())["captions"][1]["words"] == ["?", "dog"]
    assert only(watching).run.captions_written is not None
    pieces = CAPTION | {"words": ["▁snow", "board"]}
    closed = CAPTION | {"words": ["dog", "<eos>"]}
    (folder / LATEST_CAPTIONS).write_text(json.dumps(content | {"captions": [pieces, closed]}))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"decoder": {"gate": False}}))
    latest = watching.captions("deep/run")
    assert [caption.text for caption in latest.captions] == ["snowboard", "dog"] and not latest.gate


@pytest.mark.parametrize("known", [True, False])
def test_captions_lie_over_pictures_of_the_runs_own_data(tmp_path, known):
    scenes, others = tiny.Scenes(2), tiny.Scenes(2, seed=1)  # whose names are the same
    data = {"train": {}, "val": scenes.fingerprint | {"captions": "0123"}} if known else ["damaged"]
    folder = make_run(tmp_path / "run", data=data)
    content = {"step": 4, "captions": [CAPTION | {"id": name} for name in scenes.ids]}
    (folder / LATEST_CAPTIONS).write_text(json.dumps(content))
    own, other = Pictures({}, scenes), Pictures({}, others)
    ids = own.split if known else [None, None]
    assert [c.picture for c in watch(tmp_path).captions("run", own.id_of).captions] == ids
    latest = watch(tmp_path).captions("run", other.id_of)
    assert [caption.picture for caption in latest.captions] == [None, None]


@pytest.mark.parametrize(
    "change",
    [
        {"alpha": [[0.5, 0.25]]},
        {"alpha": [[0.5], [0.5]]},
        {"beta": [1.0]},
        {"grid": [2, 2]},
        {"beta": [1.0, float("nan")]},
        {"words": "a dog"},
        {"id": None},
    ],
)
def test_damaged_captions_are_reported(tmp_path, change):
    folder = make_run(tmp_path / "run")
    content = {"step": 4, "captions": [CAPTION | change]}
    (folder / LATEST_CAPTIONS).write_text(json.dumps(content))
    with pytest.raises(UserError, match="latest_captions.json is damaged"):
        watch(tmp_path).captions("run")


@pytest.mark.parametrize(
    "name", ["..", "../outside", "/etc", "run/../../outside", "run/", "%2e%2e/outside", "", "\x00"]
)
def test_no_name_leads_out_of_the_folders(tmp_path, name):
    outside = make_run(tmp_path / "outside")
    (outside / LATEST_CAPTIONS).write_text(json.dumps({"step": 4, "captions": []}))
    make_run(tmp_path / "inside" / "run")
    with pytest.raises(UserError, match="no such run"):
        watch(tmp_path / "inside").captions(name)


def test_no_link_leads_out_of_the_folders(tmp_path):
    outside = make_run(tmp_path / "outside", [train(2)])
    (outside / LATEST_CAPTIONS).write_text(json.dumps({"step": 4, "captions": []}))
    run = make_run(tmp_path / "inside" / "deep" / "run", [train(2)])
    (run / LATEST_CAPTIONS).symlink_to(outside / LATEST_CAPTIONS)
    watching = Watch([tmp_path / "inside"], interval=0.0)
    with pytest.raises(UserError, match="no captions yet"):
        watching.captions("deep/run")
    # A folder becomes a link between two walks.
    shutil.rmtree(run)
    run.symlink_to(outside)
    with pytest.raises(UserError, match="no such run"):
        watching.captions("deep/run")
    # The folder that the user named may be a link.
    (tmp_path / "named").symlink_to(outside)
    assert only(watch(tmp_path / "named")).run.name == "named"


def listen(watching, *actions):
    """The events after each action, as (kind, content); the first is the snapshot."""

    async def listening():
        events = []
        async with aclosing(watching.events()) as stream:
            for action in (lambda: None, *actions):
                action()
                text = await asyncio.wait_for(anext(stream), 10)
                *_, kind, data = text.rstrip("\n").split("\n")
                assert text.endswith("\n\n") and kind.startswith("event: ")
                events.append((kind[7:], json.loads(data.removeprefix("data: "))))
        return events

    return asyncio.run(listening())


def test_events_tell_what_is_new(tmp_path):
    folder = make_run(tmp_path / "a", [train(2)])
    make_run(tmp_path / "b", [train(2)])

    def resume():
        MetricWriter(folder, 2).close()

    (first, snapshot), *rest = listen(
        watch(tmp_path),
        lambda: write(folder, train(4), val(4, 0.5)),
        resume,
        lambda: make_run(tmp_path / "c"),
        lambda: shutil.rmtree(tmp_path / "b"),
        lambda: (folder / LATEST_CAPTIONS).write_text("{}"),
    )
    assert first == "snapshot" and [r["run"]["name"] for r in snapshot["runs"]] == ["a", "b"]
    assert {kind for kind, _ in rest} == {"change"}
    more, again, born, gone, captioned = (content for _, content in rest)

    [curves] = more["runs"]
    assert not curves["whole"] and curves["train"]["step"] == [4]
    assert curves["validation"] == {"step": [4], "values": {"CIDEr": [0.5]}}
    [curves] = again["runs"]
    assert curves["whole"] and curves["train"]["step"] == [2]
    assert curves["validation"]["step"] == []
    [curves] = born["runs"]
    assert curves["whole"] and curves["run"]["name"] == "c" and born["gone"] == []
    assert gone["gone"] == ["b"] and gone["runs"] == []
    [curves] = captioned["runs"]
    assert curves["run"]["captions_written"] and curves["train"]["step"] == []


def test_every_listener_hears_everything(tmp_path):
    folder = make_run(tmp_path / "run", [train(2)])
    watching = watch(tmp_path)

    async def two():
        streams = [watching.events(), watching.events()]
        for stream in streams:
            await anext(stream)
        write(folder, train(4))
        heard = [await asyncio.wait_for(anext(stream), 10) for stream in streams]
        for stream in streams:
            await stream.aclose()
        return heard

    assert all('"step":[4]' in text for text in asyncio.run(two()))


def test_silence_is_broken_by_comments(tmp_path, monkeypatch):
    monkeypatch.setattr(live, "HEARTBEAT", 0.05)
    make_run(tmp_path / "run")

    async def two():
        async with aclosing(watch(tmp_path).events()) as stream:
            return [await asyncio.wait_for(anext(stream), 10) for _ in range(2)]

    first, second = asyncio.run(two())
    assert first.startswith("retry: ") and second == ": still here\n\n"


@pytest.mark.parametrize("how", ["gone", "closed"])
def test_events_end(tmp_path, how):
    make_run(tmp_path / "run")
    watching = watch(tmp_path)
    asked = []

    async def gone():
        asked.append(1)
        return how == "gone" and len(asked) == 3

    async def listening():
        heard = 0
        async for _ in watching.events(gone):
            heard += 1
            if how == "closed":
                watching.close()
        return heard

    assert asyncio.run(asyncio.wait_for(listening(), 10)) == 1


def test_a_folder_may_come_later_and_vanish(tmp_path):
    root = tmp_path / "runs"
    watching = watch(root)
    assert watching.snapshot().runs == []
    make_run(root / "run", [train(2)])
    assert only(watching).run.step == 2
    watching = Watch([root], interval=0.0)
    assert only(watching).run.step == 2
    shutil.rmtree(root)
    assert watching.snapshot().runs == []  # before the next walk through the folders
