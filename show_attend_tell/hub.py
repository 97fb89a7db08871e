"""The Hugging Face hub: names of its repositories, downloads pinned to a commit, and uploads.

The client library is the extra `hub`, imported when it is needed. It reads HF_ENDPOINT, HF_TOKEN,
HF_HUB_CACHE and HF_HUB_OFFLINE by itself.
"""

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from show_attend_tell.errors import UserError, installing

PREFIX = "hub:"  # of a name that is no path
# The owner in the first part of a path below our own folder of runs.
OURS = "runs"
MESSAGE = "Push a model of show_attend_tell"  # of commits
# No part begins with a dot, so that none leads to another folder.
_REPO = r"\w[\w.-]*/\w[\w.-]*"
_REVISION = r"@(\w[\w.-]*(?:/\w[\w.-]*)*)"
_NAME = re.compile(rf"({_REPO})(?:{_REVISION})?", re.ASCII)
_DATASET = re.compile(rf"{_REPO}(?:{_REVISION})?(?::\w[\w.-]*)?", re.ASCII)
# What a repository may hold before anything was pushed to it.
_BLANK = {".gitattributes", ".gitignore", "README.md", "LICENSE"}

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Name:
    """A repository of the hub: `hub:OWNER/NAME` or `hub:OWNER/NAME@REVISION`.

    Attributes:
      repo: OWNER/NAME.
      revision: a branch, a tag or a commit; empty: the main branch.
    """

    repo: str
    revision: str = ""

    def __str__(self) -> str:
        return f"{PREFIX}{self.repo}" + (f"@{self.revision}" if self.revision else "")


@dataclass(frozen=True)
class Snapshot:
    """Files of a repository at one commit.

    Attributes:
      name: of the repository, whose revision is the commit.
      folder: where the files lie, in the hub's own cache.
    """

    name: Name
    folder: Path


def is_repo(text: str) -> bool:
    """Whether a text has the form OWNER/NAME."""
    return re.fullmatch(_REPO, text, re.ASCII) is not None


def is_dataset(text: str) -> bool:
    """Whether a text names a data set of the hub, OWNER/NAME[@REVISION][:CONFIG], no path here."""
    return _DATASET.fullmatch(text) is not None and not Path(text).exists()


def parsed(text: str) -> Name | None:
    """The repository that a user's text names; None if it is a path or another name.

    `hub:` makes any name one of the hub. Without it, the first part must not be a folder here:
    a misspelt path must not lead to a stranger's model.

    Raises:
      UserError: what follows `hub:` is not a name.
    """
    found = _NAME.fullmatch(text.removeprefix(PREFIX))
    if text.startswith(PREFIX):
        if found is None:
            raise UserError(f"{text}: not a name; write hub:OWNER/NAME or hub:OWNER/NAME@REVISION")
    elif found is None or text.startswith(f"{OURS}/") or Path(text.partition("/")[0]).is_dir():
        return None
    return Name(found[1], found[2] or "")


def client(what: str, instead: str = "") -> Any:
    """The client library.

    Args:
      what: the thing on the hub, for error messages, such as "the weights OWNER/NAME".
      instead: what a user may do without the library.

    Raises:
      UserError: the extra `hub` is not installed.
    """
    try:
        import huggingface_hub  # pyright: ignore[reportMissingImports]
        from huggingface_hub import errors  # noqa: F401  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise UserError(
            f"{what}: the Hugging Face hub needs {installing('hub')}{instead}"
        ) from error
    return huggingface_hub


def fetch(name: Name, needed: Sequence[str], optional: Sequence[str] = ()) -> Snapshot:
    """Fetches files of a model, all of one commit, and logs the commit.

    What the hub's cache has is not fetched again. If the hub cannot be reached, or with
    HF_HUB_OFFLINE=1, the cache alone is used.

    Args:
      name: of the repository.
      needed, optional: exact paths of files. Nothing else is fetched.

    Raises:
      UserError: there is no such repository or revision, it is not open to the user, it lacks a
        needed file, the hub cannot be reached, or the extra `hub` is not installed.
    """
    what = f"the model {name.repo}"
    hub = client(what, ", or name a folder")
    try:
        # One call resolves the revision once: files of two commits never mix.
        folder = hub.snapshot_download(
            name.repo, revision=name.revision or None, allow_patterns=[*needed, *optional]
        )
    except Exception as error:  # a full disk, the server, or the network of any library
        raise explained(error, what, name, ", or name a folder") from error
    found = Snapshot(Name(name.repo, Path(folder).name), Path(folder))
    missing = [file for file in needed if not (found.folder / file).is_file()]
    if missing:
        raise UserError(
            f"{found.name}: no model of this program, for it has no {' and no '.join(missing)}; "
            "`push` makes one. Only JSON and safetensors of a repository are read, since other "
            "files may hold code"
        )
    if found.name != name:
        _log.info("hub: %s is at commit %s", name.repo, found.name.revision)
    return found


def upload(
    folder: Path, repo: str, *, private: bool, needed: Sequence[str], replaced: Sequence[str]
) -> Name:
    """Makes a folder the content of a repository, in one commit.

    Args:
      folder: the files.
      repo: OWNER/NAME, created if it does not exist.
      private: whether only its owner may see it.
      needed: files by which a repository is known to hold such a model already.
      replaced: files, and folders that end in "/", that go if the folder lacks them.

    Returns:
      The repository at the new commit.

    Raises:
      UserError: nobody is logged in, the user may not write there, the repository holds something
        else or is public although `private` is wanted, or the hub cannot be reached.
    """
    what, name = f"the model {repo}", Name(repo)
    hub = client(what, ", or use --dry-run FOLDER")
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    files = {path.relative_to(folder).as_posix(): path for path in paths}
    try:
        api = hub.HfApi()
        api.create_repo(repo, private=private or None, exist_ok=True)
        info = api.model_info(repo)
    except Exception as error:  # the server, or the network of any library
        raise explained(error, what, name) from error
    there = {file.rfilename for file in info.siblings or ()}
    if private and not info.private:
        raise UserError(
            f"{repo}: exists on the hub and is public; make it private in its settings, or choose "
            "another name"
        )
    if there - _BLANK and not there.issuperset(needed):
        raise UserError(f"{repo}: holds something else than such a model; choose another name")
    stale = [file for file in there - files.keys() if _covers(replaced, file)]
    try:
        operations = [hub.CommitOperationDelete(path_in_repo=file) for file in sorted(stale)]
        for file, path in files.items():
            operations.append(hub.CommitOperationAdd(path_in_repo=file, path_or_fileobj=str(path)))
        done = api.create_commit(repo, operations, commit_message=MESSAGE)
    except Exception as error:  # the same, and storage
        raise explained(error, what, name) from error
    return Name(repo, done.oid)


def _covers(patterns: Sequence[str], file: str) -> bool:
    return any(file == p or (p.endswith("/") and file.startswith(p)) for p in patterns)


def explained(error: Exception, what: str, name: Name, instead: str = "") -> UserError:
    """The client's error as a line that says what to do.

    Args:
      error: raised by the client.
      what, instead: see `client`.
      name: of the repository.
    """
    from huggingface_hub import errors  # pyright: ignore[reportMissingImports]

    login = "log in with `hf auth login` or HF_TOKEN"
    status = _status(error)
    if isinstance(error, errors.GatedRepoError):
        return UserError(f"{what}: ask its owner for access on its page on the hub, then {login}")
    if isinstance(error, errors.RepositoryNotFoundError):
        return UserError(
            f"the hub has no repository {name.repo}, or it is private: check its spelling, or "
            f"{login}{instead}"
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return UserError(
            f"{name}: the repository has no such branch, tag or commit; see its page on the hub"
        )
    if status in (401, 403):
        return UserError(f"{what}: the hub refuses access ({status}); {login}{instead}")
    if isinstance(error, errors.LocalEntryNotFoundError) and status is None:
        cause = error.__cause__
        offline = cause is None or isinstance(cause, errors.OfflineModeIsEnabled)
        reason = f" ({_first_line(cause)})" if cause and not offline else ""
        return UserError(
            f"{what}: not in the hub's cache, and the hub cannot be reached{reason}: check the "
            f"network and HF_HUB_OFFLINE{instead}"
        )
    reason = f"the hub answers {status}" if status else _first_line(error)
    return UserError(f"{what}: the exchange with the hub failed ({reason}); try again{instead}")


def _status(error: BaseException | None) -> int | None:
    """The HTTP status in an error or what it came from."""
    while error is not None:
        status = getattr(getattr(error, "response", None), "status_code", None)
        if status is not None:
            return status
        error = error.__cause__
    return None


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
