"""Names that lead to files of weights, and layers that take theirs."""

import importlib.util
import os
import subprocess
import sys
import types

import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from flax import nnx

from show_attend_tell.errors import UserError
from show_attend_tell.models.encoders.base import Frozen
from show_attend_tell.models.encoders.weights import Weights, find_weights

NAME = "timm/vgg19.tv_in1k"


class Errors:
    """The hub's, in its order of inheritance."""

    class RepositoryNotFoundError(OSError): ...

    class GatedRepoError(RepositoryNotFoundError): ...

    class RevisionNotFoundError(OSError): ...

    class OfflineModeIsEnabled(Exception): ...

    class EntryNotFoundError(Exception): ...

    class RemoteEntryNotFoundError(OSError, EntryNotFoundError): ...

    class LocalEntryNotFoundError(FileNotFoundError, EntryNotFoundError): ...


@pytest.fixture
def hub(monkeypatch):
    """A stand-in for huggingface_hub: `found` maps a file's name to a path or an error.

    `cached` is what its cache answers.
    """
    module = types.ModuleType("huggingface_hub")
    module.errors, module.found, module.cached, module.asked = Errors, {}, {}, []

    def download(repository, file, *, local_files_only):
        where = module.cached if local_files_only else module.found
        if not local_files_only:
            module.asked.append((repository, file))
        answer = where.get(file, Errors.LocalEntryNotFoundError("not cached"))
        if isinstance(answer, Exception):
            raise answer
        return answer

    module.hf_hub_download = download
    monkeypatch.setitem(sys.modules, "huggingface_hub", module)
    return module


def test_a_file_is_taken_before_the_hub(hub, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "timm" / "vgg19.tv_in1k"
    path.parent.mkdir()
    path.touch()
    assert find_weights(NAME).resolve() == path
    assert find_weights(str(path)) == path
    assert not hub.asked


def test_a_repository_gives_safetensors_or_else_pytorchs_file(hub, tmp_path):
    hub.found = {"model.safetensors": str(tmp_path / "a")}
    assert find_weights(NAME) == tmp_path / "a"
    absent = Errors.RemoteEntryNotFoundError("404")
    hub.found = {"model.safetensors": absent, "pytorch_model.bin": str(tmp_path / "b")}
    assert find_weights(NAME) == tmp_path / "b"
    assert hub.asked[-1] == (NAME, "pytorch_model.bin")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (Errors.RepositoryNotFoundError("404"), "no repository timm/vgg19"),
        (Errors.RemoteEntryNotFoundError("404"), "no file model.safetensors or pytorch_model.bin"),
        (Errors.LocalEntryNotFoundError("offline"), "cannot be reached: .*HF_HUB_OFFLINE"),
        (OSError("disk full"), "disk full.*or name a file"),
    ],
)
def test_what_the_hub_lacks_is_reported(hub, error, message):
    hub.found = {"model.safetensors": error, "pytorch_model.bin": error}
    with pytest.raises(UserError, match=message):
        find_weights(NAME)


def test_a_hub_that_cannot_be_reached_is_asked_once(hub, tmp_path):
    away = Errors.LocalEntryNotFoundError("away")
    away.__cause__ = OSError("no route")
    hub.found = dict.fromkeys(["model.safetensors", "pytorch_model.bin"], away)
    with pytest.raises(UserError, match=r"cannot be reached \(no route\)"):
        find_weights(NAME)
    hub.cached = {"pytorch_model.bin": str(tmp_path / "b")}
    assert find_weights(NAME) == tmp_path / "b"
    assert hub.asked == [(NAME, "model.safetensors")] * 2


def test_files_beside_the_weights_are_fetched_if_there(hub, tmp_path):
    path = tmp_path / "model.safetensors"
    missing = Errors.RemoteEntryNotFoundError()
    hub.found = {path.name: path, "tokenizer.json": missing, "vocab.json": tmp_path / "vocab.json"}
    assert find_weights(NAME, beside=("tokenizer.json", "vocab.json")) == path
    assert [file for _, file in hub.asked] == [path.name, "tokenizer.json", "vocab.json"]


def test_the_extra_is_named_where_it_is_absent(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UserError, match=r"pip install 'show-attend-tell\[hub\]'"):
        find_weights(NAME)


@pytest.mark.parametrize("name", ["gone", "a/b/c", "../gone", "folder/w.pth", "/a/b", "a/b c"])
def test_impossible_names_are_reported_without_asking(hub, name):
    with pytest.raises(UserError, match=f"no weights {name}: there is no such file"):
        find_weights(name)
    assert not hub.asked


def test_the_hubs_own_cache_is_used(tmp_path):
    if importlib.util.find_spec("huggingface_hub") is None:
        pytest.skip("huggingface_hub is absent")
    repository, commit = tmp_path / "models--timm--vgg19.tv_in1k", "0" * 40
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    file = repository / "snapshots" / commit / "model.safetensors"
    file.parent.mkdir(parents=True)
    file.touch()
    # Where the cache lies is read when the hub's package is imported: in another process.
    program = f"""
from show_attend_tell.models.encoders.weights import find_weights
from show_attend_tell.errors import UserError
print(find_weights({NAME!r}))
try:
    find_weights("timm/other")
except UserError as error:
    print(error)
"""
    environment = os.environ | {"HF_HUB_CACHE": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    found, error = done.stdout.splitlines()
    assert found == str(file)
    assert error.startswith("the weights timm/other: not in the hub's cache")


def test_batch_norm_is_folded_by_hand(tmp_path):
    path = tmp_path / "w.safetensors"
    arrays = {"conv.weight": np.array([[[[2.0]], [[3.0]]]]), "norm.num_batches_tracked": [5]}
    arrays |= {"norm.weight": [4.0], "norm.bias": [1.0], "norm.running_mean": [10.0]}
    arrays |= {"norm.running_var": [3.0], "plain.weight": [[[[5.0]]]], "plain.bias": [7.0]}
    arrays = {name: np.asarray(array, np.float32) for name, array in arrays.items()}
    safetensors.numpy.save_file(arrays | {"fc.weight": np.ones(1)}, path)
    weights = Weights(
        path,
        ignored_prefixes=("fc.",),
        ignored_suffixes=(".num_batches_tracked",),
        epsilon=1.0,
    )
    kernel, bias = weights.convolution("conv", "norm", (1, 2, 1, 1))
    assert type(kernel) is nnx.Param and kernel.dtype == jnp.float32
    # sqrt(3 + 1) = 2: y = (x - 10) / 2 * 4 + 1 = 2 x - 19.
    np.testing.assert_array_equal(kernel[...], [[[[4.0], [6.0]]]])
    np.testing.assert_array_equal(bias[...], [-19.0])
    with pytest.raises(
        UserError, match=r"unknown to the network: \['plain.bias', 'plain.weight'\]"
    ):
        weights.finish()
    weights.kind = Frozen
    kernel, bias = weights.convolution("plain", None, (1, 1, 1, 1))
    assert type(kernel) is type(bias) is Frozen
    assert (float(kernel[0, 0, 0, 0]), float(bias[0])) == (5.0, 7.0)
    weights.finish()
    with pytest.raises(UserError, match=r"w\.safetensors lacks the weights plain\.weight"):
        weights.convolution("plain", None, (1, 1, 1, 1))
