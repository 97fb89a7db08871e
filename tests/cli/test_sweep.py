"""Grids of runs: what runs, what is skipped, and what a failure leaves behind."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import submitit
from submitit.core.utils import FailedJobError

from show_attend_tell import config
from show_attend_tell.cli import side_by_side, sweep
from show_attend_tell.cli.common import tracker_options
from show_attend_tell.cli.parser import main, make_parser
from show_attend_tell.cli.sweep import grid, run_all
from show_attend_tell.errors import UserError

EXPERIMENT = str(Path(__file__).parents[2] / "experiments" / "shapes.py")
SETTINGS = {"attention.kind": ["soft", "hard"], "loss.doubly_stochastic": ["0.0", "0.1"]}
needs_two_cores = pytest.mark.skipif(
    len(side_by_side.usable_cores()) < 2, reason="a single core can be used"
)


OF_BEST = '{"step": 7}'  # scores and statistics of the best weights


@pytest.fixture
def calls(monkeypatch):
    """Replaces verbs by stand-ins that only leave the same files; returns their calls."""
    made = []

    def run(verb, *argv):
        if verb == "prepare":
            made.append((verb, ""))
            return
        workdir = Path(argv[argv.index("--workdir") + 1])
        made.append((verb, workdir.name))
        if verb == "train":
            workdir.mkdir(parents=True, exist_ok=True)
            overrides = [a for a in argv if a.startswith("--config.")]
            config.save(config.load_experiment(argv[1], overrides), workdir / "config.json")
            (workdir / "run.json").write_text(json.dumps({"finished": True, "best_step": 7}))
        elif verb == "evaluate":
            for context in ("expected", "argmax") if "hard" in workdir.name else ("expected",):
                (workdir / f"test-{context}-beam1-lp0.scores.json").write_text(OF_BEST)
        else:
            (workdir / "attention" / "test").mkdir(parents=True, exist_ok=True)
            (workdir / "attention" / "test" / "statistics.json").write_text(OF_BEST)

    def start(command, log):
        run(*command)
        return SimpleNamespace(pid=-1, poll=lambda: 0, wait=lambda: 0)

    monkeypatch.setattr(subprocess, "run", lambda argv, check: run(*argv[3:]))
    monkeypatch.setattr(side_by_side, "start", start)
    monkeypatch.setattr(side_by_side, "POLL", 0)
    monkeypatch.setattr(side_by_side, "has_accelerator", lambda: False)
    monkeypatch.setattr(submitit, "AutoExecutor", InProcess)
    return made


class InProcess:
    """Stands in for submitit's executor."""

    def __init__(self, folder, cluster):
        assert cluster == "slurm"

    def update_parameters(self, **parameters):
        pass

    def submit(self, function, *arguments):
        function(*arguments)
        return SimpleNamespace(result=lambda: None)


def run(chains, folder, jobs="1", cluster="local"):
    run_all(chains, folder, split="test", cluster=cluster, hours=1.0, jobs=jobs)


def test_a_grid_is_every_combination_with_every_seed(tmp_path):
    chains = grid([EXPERIMENT], SETTINGS, [0, 1], tmp_path, ["--config.train.epochs=1"])
    jobs = [job for [job] in chains]
    assert len({job.workdir for job in jobs}) == 8
    assert jobs[3].workdir.name == "attention.kind=soft-loss.doubly_stochastic=0.1-seed=1"
    assert jobs[3].overrides == (
        "--config.train.epochs=1",
        "--config.attention.kind=soft",
        "--config.loss.doubly_stochastic=0.1",
        "--config.seed=1",
    )
    # Without a variant an experiment is its default one.
    chain = grid([EXPERIMENT, f"{EXPERIMENT}:hard-from-soft"], {}, [3], tmp_path)[0]
    assert [job.workdir.name for job in chain] == ["soft-seed=3", "hard-from-soft-seed=3"]
    assert chain[1].source == tmp_path / "soft-seed=3"
    with pytest.raises(UserError, match="name each variant once"):
        grid([EXPERIMENT, f"{EXPERIMENT}:soft"], {}, [0], tmp_path)
    with pytest.raises(UserError, match="nearest is --config.attention.kind"):
        grid([EXPERIMENT], {"attention.kin": ["soft"]}, [0], tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--set", "seed=1", "--set", "seed=2"), "--set seed=2: seed comes twice"),
        (("--set", "decode.beam=1,2,1"), "--set decode.beam=1,2,1: 1 comes twice"),
        (("--seeds", "0,1,0"), "--seeds 0,1,0: 0 comes twice"),
    ],
)
def test_a_value_given_twice_is_refused(options, message, capsys, monkeypatch):
    monkeypatch.setattr(sweep, "run_all", None)  # would fail
    assert main(["sweep", EXPERIMENT, *options]) == 2
    assert message in capsys.readouterr().err


def test_values_in_brackets_keep_their_commas(monkeypatch):
    grids = []
    monkeypatch.setattr(sweep, "run_all", lambda chains, *_, **__: grids.append(chains))
    monkeypatch.setattr(sweep, "show_comparison", lambda *_, **__: None)
    values = "loss.teachers=('one','two'),()"
    assert main(["sweep", EXPERIMENT, "--set", values]) == 0
    assert [job.overrides[0] for [job] in grids[0]] == [
        "--config.loss.teachers=('one','two')",
        "--config.loss.teachers=()",
    ]


def test_a_sweep_runs_what_is_missing_and_nothing_twice(tmp_path, calls):
    jobs = grid([EXPERIMENT], {"attention.kind": ["soft", "hard"]}, [0], tmp_path)
    run(jobs, tmp_path)
    names = [job.workdir.name for [job] in jobs]
    verbs = ("train", "evaluate", "attend")
    assert calls == [(verb, name) for name in names for verb in verbs]
    calls.clear()
    run(jobs, tmp_path)
    assert calls == []
    # A hard run needs the scores of both contexts.
    (jobs[1][0].workdir / "test-argmax-beam1-lp0.scores.json").unlink()
    run(jobs, tmp_path)
    assert calls == [("evaluate", names[1])]
    # What was made in the middle of training is made anew.
    calls.clear()
    (jobs[0][0].workdir / "attention" / "test" / "statistics.json").write_text('{"step": 5}')
    run(jobs, tmp_path)
    assert calls == [("attend", names[0])]


def test_two_runs_have_neither_the_same_settings_nor_two_seeds(tmp_path):
    twice = {"optimizer.learning_rate": ["1e-3", "0.001"]}
    with pytest.raises(UserError, match=r"rate=0.001-seed=0: has the settings of .*=1e-3-seed=0"):
        grid([EXPERIMENT], twice, [0], tmp_path)
    for settings, overrides in (
        ({"seed": ["0", "1"]}, ()),
        ({}, ("--config.seed=5",)),
        ({}, ("--config.seed", "5")),
    ):
        with pytest.raises(UserError, match="seeds are given by --seeds"):
            grid([EXPERIMENT], settings, [0], tmp_path, overrides)


def test_two_runs_do_not_share_a_folder(tmp_path):
    names = {"encoder.weights": ["a/b.pth", "a_b.pth"]}
    with pytest.raises(UserError, match=r"weights=a_b.pth-seed=0: a folder for two runs, as /"):
        grid([EXPERIMENT], names, [0], tmp_path)


def test_a_submission_that_fails_leaves_no_job_behind(tmp_path, calls, monkeypatch):
    cancelled = []

    class Refusing(InProcess):
        def submit(self, function, commands):
            if "seed=1" in str(commands):
                raise FailedJobError("sbatch: error: invalid\n partition")
            return SimpleNamespace(cancel=lambda: cancelled.append(commands))

    monkeypatch.setattr(submitit, "AutoExecutor", Refusing)
    with pytest.raises(UserError, match="--cluster slurm: sbatch: error: invalid partition"):
        run(grid([EXPERIMENT], {}, [0, 1], tmp_path), tmp_path, jobs="auto", cluster="slurm")
    assert len(cancelled) == 1


def test_trackers_are_named_to_every_training_and_to_nothing_else(tmp_path, calls, monkeypatch):
    started, start = [], side_by_side.start

    def noting(command, log):
        started.append(command)
        return start(command, log)

    monkeypatch.setattr(side_by_side, "start", noting)
    options = ("--tracker", "mlflow", "--tracker", "wandb", "--tracker-pictures", "none")
    words = ["sweep", EXPERIMENT, *options]
    assert tracker_options(make_parser().parse_args(words)) == options
    assert tracker_options(make_parser().parse_args(["sweep", EXPERIMENT])) == ()
    run(grid([EXPERIMENT], {}, [0, 1], tmp_path, (), options), tmp_path)
    told = [command[0] for command in started if " ".join(options) in " ".join(command)]
    assert told == ["train", "train"] and len(started) == 6


@needs_two_cores
def test_runs_beside_each_other_find_their_inputs_prepared(tmp_path, calls):
    settings = {"encoder.image_size": ["32", "64"], "attention.kind": ["soft", "none"]}
    jobs = grid([EXPERIMENT], settings, [0], tmp_path)
    run(jobs, tmp_path, jobs="2")
    # Once for each size, and nothing is trained before.
    assert [verb for verb, _ in calls[:2]] == ["prepare"] * 2
    assert sorted(name for verb, name in calls[2:] if verb == "train") == sorted(
        job.workdir.name for [job] in jobs
    )
    assert "$ show-attend-tell prepare" in (tmp_path / "logs" / "prepare-2.log").read_text()
    # Runs that have begun have their inputs, and one by itself makes them.
    calls.clear()
    (jobs[0][0].workdir / "checkpoints").mkdir()
    for [job] in jobs[:2]:
        (job.workdir / "run.json").unlink()
    run(jobs, tmp_path, jobs="2")
    assert ("prepare", "") not in calls and ("train", jobs[0][0].workdir.name) in calls


def test_a_chain_is_one_job_on_slurm(tmp_path, calls):
    chains = grid([f"{EXPERIMENT}:soft", f"{EXPERIMENT}:hard-from-soft"], {}, [0, 1], tmp_path)
    run(chains, tmp_path, jobs="auto", cluster="slurm")
    verbs = ("train", "evaluate", "attend")
    assert calls == [(v, job.workdir.name) for chain in chains for job in chain for v in verbs]
    with pytest.raises(UserError, match="--jobs 2: SLURM"):
        run(chains, tmp_path, jobs="2", cluster="slurm")


def test_a_recorded_checksum_does_not_make_another_run(tmp_path, calls):
    photographs = EXPERIMENT.replace("shapes.py", "flickr8k.py")
    jobs = grid([photographs], {"attention.kind": ["soft"]}, [0], tmp_path)
    run(jobs, tmp_path)
    path = jobs[0][0].workdir / "config.json"
    settings = config.replaced(config.load_run(path), {"encoder.weights_sha256": "0" * 64})
    config.save(settings, path)
    decode = settings.decode
    stem = f"test-expected-beam{decode.beam}-lp{decode.length_penalty:g}"
    (path.parent / f"{stem}.scores.json").write_text(OF_BEST)
    calls.clear()
    run(jobs, tmp_path)
    assert calls == []


def test_a_finished_run_of_another_config_is_not_mistaken_for_this_one(tmp_path, calls):
    run(grid([EXPERIMENT], {"attention.kind": ["soft"]}, [0], tmp_path), tmp_path)
    calls.clear()
    shorter = ["--config.train.epochs=1"]
    run(grid([EXPERIMENT], {"attention.kind": ["soft"]}, [0], tmp_path, shorter), tmp_path)
    assert calls[0][0] == "train"  # which rejects the folder


def test_an_experiment_starts_from_another_with_the_same_seed(tmp_path, calls):
    variants = [f"{EXPERIMENT}:soft", f"{EXPERIMENT}:hard-from-soft"]
    chains = grid(variants, {"loss.doubly_stochastic": ["0.0", "0.1"]}, [0, 1], tmp_path)
    assert [[job.workdir.name for job in chain] for chain in chains][1] == [
        "soft-loss.doubly_stochastic=0.0-seed=1",
        "hard-from-soft-loss.doubly_stochastic=0.0-seed=1",
    ]
    for soft, hard in chains:
        started = config.load_experiment(hard.config, hard.overrides).train.init_from
        assert Path(started) == soft.workdir
        assert config.load_experiment(soft.config, soft.overrides).train.init_from == ""
    run(chains[:1], tmp_path)
    verbs = ("train", "evaluate", "attend")
    assert calls == [(verb, job.workdir.name) for job in chains[0] for verb in verbs]
    assert chains[0][1].source == chains[0][0].workdir and chains[0][0].source is None
    # By itself it starts from the run that its config names.
    [[alone]] = grid(variants[1:], {}, [0], tmp_path)
    assert alone.workdir.name == "seed=0" and "init_from" not in str(alone.overrides)
    with pytest.raises(UserError, match="name each variant once"):
        grid([variants[0]] * 2, {}, [0], tmp_path)


@needs_two_cores
def test_a_failed_run_is_named_with_its_log_and_the_others_continue(tmp_path, monkeypatch):
    # Two real jobs, whose data set is absent.
    monkeypatch.setattr(side_by_side, "has_accelerator", lambda: False)
    flickr8k = str(Path(EXPERIMENT).with_name("flickr8k.py"))
    overrides = [f"--config.data.dir={tmp_path}", f"--config.data.manual_dir={tmp_path}"]
    jobs = grid([flickr8k], {"data.min_count": ["4", "5"]}, [0], tmp_path, overrides)
    with pytest.raises(UserError, match=r"2 of 2 failed: .*=4-seed=0 .*=5-seed=0 ") as caught:
        run(jobs, tmp_path, jobs="2")
    logs = re.findall(r"log: ([^)]*)", str(caught.value))
    assert len(set(logs)) == 2
    assert all(f"error: {tmp_path}" in Path(log).read_text() for log in logs)


def test_what_starts_from_a_failed_run_is_not_started(tmp_path, calls, monkeypatch):
    begin = side_by_side.start

    def start(command, log):
        if command[0] == "evaluate" and "/soft-" in command[2]:
            return SimpleNamespace(pid=-1, poll=lambda: 2, wait=lambda: 2)
        return begin(command, log)

    monkeypatch.setattr(side_by_side, "start", start)
    experiments = [f"{EXPERIMENT}:{v}" for v in ("soft", "hard-from-soft", "hard")]
    chains = grid(experiments, {}, [0], tmp_path)
    with pytest.raises(UserError) as caught:
        run(chains, tmp_path)
    log = tmp_path / "logs" / "soft-seed=0.log"
    assert f"2 of 3 failed: {tmp_path}/soft-seed=0 (log: {log})" in str(caught.value)
    assert f"/hard-from-soft-seed=0 (needs {tmp_path}/soft-seed=0, log" in str(caught.value)
    assert [name for verb, name in calls if verb == "train"] == ["soft-seed=0", "hard-seed=0"]


def test_a_split_that_the_data_lack_is_reported_before_training(tmp_path, calls):
    own = tmp_path / "own"
    own.mkdir()
    rows = "".join(f"{i}.jpg,A dog .,{split}\n" for i, split in enumerate(("train", "val")))
    (own / "metadata.csv").write_text("file_name,caption,split\n" + rows)
    overrides = [f"--config.data.dir={tmp_path}/data", f"--config.data.manual_dir={own}"]
    jobs = grid(["folder:soft"], {}, [0], tmp_path, overrides)
    with pytest.raises(UserError, match=r"metadata.csv: has no split 'test', only train, val"):
        run(jobs, tmp_path)
    assert calls == [] and not (tmp_path / "data").exists()


def test_an_unknown_cluster_is_reported(tmp_path):
    with pytest.raises(UserError, match="local, slurm"):
        run_all([], tmp_path, split="test", cluster="cloud", hours=1.0)


def test_a_partition_without_slurm_is_refused(tmp_path):
    with pytest.raises(UserError, match="--partition gpu: is of SLURM; add --cluster slurm"):
        run_all([], tmp_path, split="test", cluster="local", hours=1.0, partition="gpu")


@pytest.mark.skipif(shutil.which("srun") is not None, reason="SLURM is here")
def test_a_machine_without_slurm_is_reported(tmp_path):
    with pytest.raises(UserError, match="--cluster slurm: .*srun"):
        run_all([], tmp_path, split="test", cluster="slurm", hours=1.0)


def test_the_page_on_clusters_shows_the_script_that_is_submitted(tmp_path, monkeypatch):
    page = Path(__file__).parents[2] / "docs" / "howto" / "cluster.md"
    [stand_ins] = re.findall(r"^(mkdir.*?chmod .*?)\n", page.read_text(), re.DOTALL | re.MULTILINE)
    monkeypatch.chdir(tmp_path)
    subprocess.run(["sh", "-c", stand_ins], check=True)
    monkeypatch.setenv("PATH", f"{tmp_path / 'stand-ins'}:{os.environ['PATH']}")
    monkeypatch.setattr(submitit.Job, "result", lambda job: None)  # no job ever ends
    folder = tmp_path / "runs" / "dry"
    chains = grid([EXPERIMENT], {}, [0], folder, [])
    run_all(chains, folder, split="val", cluster="slurm", hours=4.0, partition="gpu")
    written = (folder / "logs" / "1_submission.sh").read_text()
    shown = written.replace(str(folder / "logs"), "LOGS").replace(sys.executable, "PYTHON")
    [script] = re.findall(
        r"```text\n(#!/bin/bash\n\n# Parameters.*?)```", page.read_text(), re.DOTALL
    )
    assert shown.strip() == script.replace("\\\n    ", "").strip()
