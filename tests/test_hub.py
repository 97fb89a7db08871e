"""Models of the Hugging Face hub, by way of a stand-in for its server on this machine."""

import dataclasses
import json
import shutil
import sys
from pathlib import Path

import hub_server
import pytest
import tiny

from show_attend_tell import config, hub, pretrained, sharing
from show_attend_tell.cli.parser import main
from show_attend_tell.errors import UserError
from show_attend_tell.inference.run import load_run
from show_attend_tell.reports.model_card import model_card
from show_attend_tell.runs import packaged
from show_attend_tell.runs.build import build_captioner
from show_attend_tell.runs.folder import RunFolder
from show_attend_tell.training import warm_start

constants = pytest.importorskip("huggingface_hub.constants")
REPO = "acme/scenes"
MODEL = {"config.json", "vocabulary.json", "centres.json", "weights.safetensors"}


@pytest.fixture
def server(tmp_path, monkeypatch):
    """The stand-in, with an empty cache and the owner logged in."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_TOKEN", hub_server.TOKEN)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with hub_server.serving() as found:
        # The client reads its environment once, when it is imported.
        template = "/{repo_id}/resolve/{revision}/{filename}"
        for name, value in {
            "ENDPOINT": found.address,
            "HUGGINGFACE_CO_URL_TEMPLATE": found.address + template,
            "HF_HUB_CACHE": str(tmp_path / "cache"),
            "HF_TOKEN_PATH": str(tmp_path / "token"),
            "HF_HUB_DISABLE_XET": True,
            "HF_HUB_OFFLINE": False,
        }.items():
            monkeypatch.setattr(constants, name, value)
        yield found


@pytest.fixture(scope="module")
def exported(trained, tmp_path_factory):
    """The files of an exported model."""
    folder = tmp_path_factory.mktemp("exported")
    sharing.export(load_run(trained[0]), folder)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def changed(files, **changes):
    """Files of a model with other settings, by dotted name with `__` for the dot."""
    content = json.loads(files["config.json"])
    for name, value in changes.items():
        group, _, key = name.partition("__")
        content[group][key] = value
    return files | {"config.json": json.dumps(content).encode()}


def test_a_pushed_model_comes_back_by_name(trained, server, monkeypatch, capsys):
    folder, scenes = trained
    tiny.use_scenes(monkeypatch)
    assert main(["push", str(folder), REPO, "--private"]) == 0
    repository = server.repositories[REPO]
    files = repository.commits[repository.head]
    assert repository.private and files.keys() > {*MODEL, "README.md", "records/run.json"}
    pushed = f"hub:{REPO}@{repository.head}"
    assert capsys.readouterr().out == f"{pushed}: use it as --pretrained {REPO}\n"

    [expected] = pretrained.caption(load_run(folder), [scenes[0].image])
    model = pretrained.load(REPO)
    assert [caption.text for caption in model.caption([scenes[0].image])] == [expected.text]
    assert model.workdir.as_posix() == f"runs/hub/{REPO}"
    assert model.origin == model.provenance()["model"] == pushed
    fetched = {line.rpartition("/")[2] for line in server.asked if "/resolve/" in line}
    assert fetched == MODEL

    # Without the network, and where the branch has moved on.
    server.add(REPO, {"README.md": b"gone"})
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    asked = len(server.asked)
    for name in (REPO, f"hub:{REPO}", pushed, f"{REPO}@{pushed.partition('@')[2]}"):
        assert pretrained.load(name).origin == pushed
    assert len(server.asked) == asked


def test_the_commit_is_resolved_once_and_logged(exported, server, caplog):
    first = server.add(REPO, exported)
    with caplog.at_level("INFO", logger="show_attend_tell"):
        assert pretrained.load(REPO).origin == f"hub:{REPO}@{first}"
    assert f"hub: {REPO} is at commit {first}" in caplog.text
    assert [line for line in server.asked if "/revision/" in line] == [
        f"GET /api/models/{REPO}/revision/main"
    ]
    assert all(first in line for line in server.asked if "/resolve/" in line)
    second = server.add(REPO, changed(exported, decode__beam=7))
    assert pretrained.load(f"{REPO}@{first}").decoding.beam == 2
    model = pretrained.load(REPO)
    assert (model.decoding.beam, model.origin) == (7, f"hub:{REPO}@{second}")


@pytest.fixture
def pushed(monkeypatch):
    """A push of no run, but of a few files."""

    def write(workdir, repo, folder, **options):
        folder.mkdir()
        for name in (*packaged.NEEDED, "README.md"):
            (folder / name).write_text(repo)

    monkeypatch.setattr(sharing, "write_repository", write)
    return lambda repo, **options: sharing.push(Path("run"), repo, **options)


def test_a_push_replaces_what_an_earlier_one_left(pushed, server):
    server.add(REPO, dict.fromkeys([*packaged.NEEDED, "run.json", "records/old.json", "mine"], b""))
    pushed(REPO)
    files = server.repositories[REPO].commits[server.repositories[REPO].head]
    assert files.keys() == {*packaged.NEEDED, "README.md", "mine"}
    assert files["weights.safetensors"] == REPO.encode()


def test_pushes_that_are_refused(pushed, server, monkeypatch):
    server.add("acme/other", {"config.json": b"{}", "pytorch_model.bin": b""})
    with pytest.raises(UserError, match="acme/other: holds something else"):
        pushed("acme/other")
    pushed(REPO)
    with pytest.raises(UserError, match="exists on the hub and is public"):
        pushed(REPO, private=True)
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(UserError, match=r"refuses access \(401\); log in"):
        pushed("acme/new")
    assert server.repositories.keys() == {REPO, "acme/other"}
    assert len(server.repositories[REPO].commits) == 2


@pytest.mark.parametrize("repo", ["../acme/x", "acme", "acme/../x", "acme/x@main", "hub:acme/x"])
def test_a_push_needs_the_name_of_a_repository(repo, server):
    with pytest.raises(UserError, match="not the name of a repository"):
        sharing.push(Path("run"), repo)
    assert not server.asked


def test_the_card_says_what_the_run_recorded(trained, tmp_path, monkeypatch):
    tiny.use_scenes(monkeypatch)
    workdir, folder = tmp_path / "run", tmp_path / "made"
    shutil.copytree(trained[0], workdir)
    run = load_run(workdir)
    for path in workdir.glob("*.scores.json"):  # of other tests
        path.unlink()
    command = ["show-attend-tell", "evaluate", "--workdir", "/home/me/run", "--split", "test"]
    command += ["--config.data.manual_dir=/home/me/data"]
    decoding = {"beam": 2, "length_penalty": 0.7, "context": "expected"}
    decoding |= {"consensus": True, "neighbours": 9}  # an exported config asks no pictures
    scores = {"scores": {"BLEU-4": 0.2512, "CIDEr": None}, "decoding": decoding, "split": "test"}
    scores |= {"images": 8, "step": run.step, "command": command}
    (workdir / "test-a.scores.json").write_text(json.dumps(scores))
    (workdir / "test-b.scores.json").write_text(json.dumps(scores | {"step": 1}))
    (workdir / "test-c.scores.json").write_text(json.dumps(scores | {"overridden": ["seed"]}))
    command = ["x", "train", "--workdir=/home/me", "--quiet"]
    RunFolder(workdir).update_record({"command": command, "resumed": [{"command": command}]})
    assert main(["push", str(workdir), REPO, "--dry-run", str(folder)]) == 0
    card = (folder / "README.md").read_text()
    for line in (
        f"show-attend-tell caption --pretrained {REPO} photo.jpg",
        f'model = show_attend_tell.load("{REPO}")',
        "| test | 8 | beam 2, length penalty 0.7, expected context, consensus True, neighbours 9 "
        "| 25.12 | — |",
        f"show-attend-tell evaluate --pretrained {REPO} --split test --neighbours 9",
        "show-attend-tell train --workdir RUN --quiet",
        "- `shapes`: generated scenes of coloured shapes.",
        "![Attention for each word](pictures/1.png)",
    ):
        assert line in card.splitlines() or line in card, line
    assert card.count("25.12") == 1 and "license" not in card
    texts = [p.read_text() for p in folder.rglob("*") if p.suffix in (".md", ".json", ".jsonl")]
    assert not any("/home/me" in text or str(tmp_path) in text for text in texts)
    assert len([*(folder / "pictures").glob("*.png")]) == sharing.DRAWN
    # A folder that was written is a model, too.
    assert pretrained.load(folder).step == run.step
    with pytest.raises(UserError, match="not empty"):
        sharing.write_repository(workdir, REPO, folder)


def test_the_card_says_how_much_data_and_where_they_go(trained, tmp_path, monkeypatch):
    tiny.use_scenes(monkeypatch)
    workdir = tmp_path / "run"
    shutil.copytree(trained[0], workdir)
    run = load_run(workdir)
    images = RunFolder(workdir).record()["data"]["train"]["images"]
    RunFolder(workdir).update_record({"command": ["x", "train", "--config", "flickr8k:small"]})
    assert f"| Training | {images} images, step {run.step}, " in model_card(run, REPO)
    assert "FOLDER" not in model_card(run, REPO)  # the data are generated
    assert "| Splits | drawn for a test |" in model_card(run, REPO)
    changed = config.replaced(run.settings, {"data.name": "flickr8k"})
    line = "train --workdir RUN --config flickr8k:small --config.data.manual_dir=FOLDER\n"
    assert line in model_card(dataclasses.replace(run, settings=changed), REPO)
    RunFolder(workdir).update_record({"data": "damaged"})
    assert "| Training | step " in model_card(run, REPO)


def test_a_run_is_shown_without_its_weights(trained):
    run = load_run(trained[0])
    shown = f"<Run {run.workdir.as_posix()}: soft attention, {len(run.vocabulary)} words, step "
    assert repr(run) == f"{shown}{run.step}>"


@pytest.mark.parametrize("where", ["config", "earlier", "unknown", "override"])
def test_pictures_of_photographs_are_never_shown(where, trained, tmp_path, monkeypatch):
    tiny.use_scenes(monkeypatch)
    workdir, overrides = tmp_path / "run", []
    shutil.copytree(trained[0], workdir)
    (workdir / "attention" / "test").mkdir(parents=True, exist_ok=True)
    for name in ("photo.jpg.png", "photo.jpg.jpg"):
        (workdir / "attention" / "test" / name).touch()
    content = json.loads((workdir / "config.json").read_text())
    if where == "config":
        content["data"]["name"] = "flickr8k"
    elif where == "override":
        overrides = ["--config.data.name=flickr8k"]
    else:
        content["train"]["init_from"] = "runs/gone"
    if where == "earlier":
        origin = {"workdir": "/home/me/soft", "trained_on": ["flickr8k"], "experiment": "0"}
        RunFolder(workdir).update_record({"init_from": origin})
    (workdir / "config.json").write_text(json.dumps(content))
    made = tmp_path / "made"
    sharing.write_repository(workdir, REPO, made, overrides=overrides)
    card = (made / "README.md").read_text()
    assert not [*made.rglob("*.png"), *made.rglob("*.jpg")] and "![" not in card
    if where in ("config", "earlier"):
        assert "license_name: non-commercial-research" in card
        assert "The photographs are for non-commercial research, and so is this model." in card
    if where == "earlier":
        assert "| Started from | soft |" in card and "/home/me" not in card
        # The lineage outlives the run, and what starts from the exported model.
        assert RunFolder(made).trained_on() == ["flickr8k", "shapes"]
    if where == "unknown":
        assert "their terms are unknown" in card


@pytest.mark.parametrize(
    ("name", "repo", "revision"),
    [
        ("acme/scenes", REPO, ""),
        ("hub:acme/scenes", REPO, ""),
        ("acme/scenes@v1.0", REPO, "v1.0"),
        ("hub:acme/scenes@refs/pr/1", REPO, "refs/pr/1"),
        ("hub:runs/soft", "runs/soft", ""),
        ("hub:here/soft", "here/soft", ""),
    ],
)
def test_names_of_the_hub(name, repo, revision, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    assert hub.parsed(name) == hub.Name(repo, revision)


@pytest.mark.parametrize("name", ["soft", "runs/soft", "here/soft", "../acme/x", "a/b/c", "/a/b"])
def test_paths_are_no_names_of_the_hub(name, server, tmp_path):
    (tmp_path / "here").mkdir()
    assert hub.parsed(name) is None
    with pytest.raises(UserError, match="neither a folder, nor a model of the package"):
        pretrained.load(name)
    assert not server.asked


@pytest.mark.parametrize(
    "name", ["", "scenes", "../etc", "a/..", "a/b@", "a/b@../../c", "a/b@x/../c", "a/b c", "a/b/c"]
)
def test_a_path_in_a_name_leads_nowhere(name, server):
    with pytest.raises(UserError, match="not a name; write hub:OWNER/NAME"):
        pretrained.load(f"hub:{name}")
    assert not server.asked


def test_a_folder_comes_before_the_hub(exported, server, tmp_path):
    server.add(REPO, exported)
    for name, content in changed(exported, decode__beam=7).items():
        (tmp_path / REPO).mkdir(parents=True, exist_ok=True)
        (tmp_path / REPO / name).write_bytes(content)
    assert pretrained.load(REPO).decoding.beam == 7
    assert not server.asked
    assert pretrained.load(f"hub:{REPO}").decoding.beam == 2


def test_what_cannot_be_fetched_is_reported(exported, server, monkeypatch):
    def message(name):
        with pytest.raises(UserError) as caught:
            pretrained.load(name)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    server.add("acme/gated", exported, gated=True)
    server.add("acme/private", exported, private=True)
    server.add("acme/foreign", {"config.json": b"{}", "pytorch_model.bin": b"code"})
    server.add(REPO, exported)
    assert "no repository acme/gone" in message("acme/gone")
    assert "ask its owner for access" in message("acme/gated")
    assert f"hub:{REPO}@v9: the repository has no such" in message(f"{REPO}@v9")
    assert "no vocabulary.json and no weights.safetensors" in message("acme/foreign")
    assert "pytorch_model.bin" not in " ".join(server.asked)
    monkeypatch.setenv("HF_TOKEN", "hf_old")
    assert "refuses access (401)" in message(REPO)
    monkeypatch.delenv("HF_TOKEN")
    assert "or it is private: check its spelling, or log in" in message("acme/private")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "and the hub cannot be reached: check the network and HF_HUB_OFFLINE" in message(REPO)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # as without a network
    assert "not in the hub's cache, and the hub cannot be reached (" in message(REPO)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert "needs pip install 'show-attend-tell[hub]'" in message(REPO)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data__dir": "/etc"}, "its config sets data.dir"),
        ({"encoder__weights": "acme/pickle"}, "its config sets encoder.weights"),
        ({"train__init_from": "/etc"}, "its config sets train.init_from"),
        ({"data__name": "hub", "data__repo": "/etc"}, "its config sets data.repo"),
    ],
)
def test_a_strangers_config_names_no_files(changes, message, exported, server):
    server.add(REPO, changed(exported, **changes))
    with pytest.raises(UserError, match=message):
        pretrained.load(REPO)


def test_damaged_files_are_reported(exported, server):
    deep = b"[" * 100_000
    for name in ("config.json", "vocabulary.json", "centres.json", "weights.safetensors"):
        server.add(REPO, exported | {name: deep})
        with pytest.raises(UserError, match=name):
            pretrained.load(REPO)
    server.add(REPO, exported | {"run.json": deep})
    assert pretrained.load(REPO).step > 0


def test_training_starts_from_a_commit(trained, exported, server, tmp_path, monkeypatch):
    tiny.use_scenes(monkeypatch)
    commit = server.add(REPO, exported | {"run.json": b'{"trained_on": ["flickr8k", "shapes"]}'})
    settings = tiny.settings(tmp_path, {"train.init_from": REPO})
    folder = RunFolder(tmp_path / "run")
    pinned = warm_start.pinned(settings, folder)
    assert pinned.train.init_from == f"hub:{REPO}@{commit}"
    warm_start.check_init_from(pinned)
    run = load_run(trained[0])
    model = build_captioner(pinned, run.encoder, len(run.vocabulary))
    origin = warm_start.start_from(pinned, model, run.vocabulary, None, print)
    assert (origin["workdir"], origin["step"]) == (pinned.train.init_from, run.step)
    assert origin["trained_on"] == ["flickr8k", "shapes"]
    # A run that has begun keeps its commit, and needs no hub to do so.
    folder.claim(pinned)
    server.add(REPO, exported)
    asked = len(server.asked)
    for name in (REPO, f"hub:{REPO}", pinned.train.init_from):
        again = config.replaced(settings, {"train.init_from": name})
        assert warm_start.pinned(again, folder) == pinned
    assert len(server.asked) == asked
    plain = config.replaced(settings, {"train.init_from": "runs/soft"})
    assert warm_start.pinned(plain, folder) is plain
