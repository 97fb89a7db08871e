"""Models by name: those that come with the package, and those on the Hugging Face hub."""

from collections.abc import Collection
from pathlib import Path

from show_attend_tell import config, hub
from show_attend_tell.errors import UserError
from show_attend_tell.runs.checkpoint import WEIGHTS
from show_attend_tell.runs.folder import CENTRES, SOURCE, TARGET, RunFolder
from show_attend_tell.settings import Settings

PACKAGED = Path(__file__).parents[1] / "pretrained_models"
# All that is ever fetched of a model on the hub: JSON and safetensors, which hold no code.
NEEDED = ("config.json", TARGET, WEIGHTS)
OPTIONAL = (SOURCE, CENTRES, "run.json")


def names(folder: Path = PACKAGED) -> tuple[str, ...]:
    """The names of the models in a folder, sorted."""
    return tuple(sorted(path.parent.name for path in folder.glob(f"*/{WEIGHTS}")))


def find(model: str) -> Path:
    """The folder of a run or of an exported model, of a packaged model, or of one on the hub.

    A run in a folder of the same name comes before a packaged model, and any folder before the hub.

    Raises:
      UserError: the model is on the hub, and cannot be fetched.
    """
    name = on_hub(model)
    if name is not None:
        return fetch(name).folder
    if not RunFolder(Path(model)).has_config and model in names():
        return PACKAGED / model
    return Path(model)


def on_hub(model: str) -> hub.Name | None:
    """The repository that a model's name stands for; None if it is a folder or a packaged model.

    Raises:
      UserError: see `hub.parsed`.
    """
    if model in names() or (not model.startswith(hub.PREFIX) and Path(model).is_dir()):
        return None
    return hub.parsed(model)


def without_files(settings: Settings, kept: Collection[str] = ()) -> Settings:
    """Settings that name no file of any machine, but for the origins `kept` (`config.ORIGINS`)."""
    settings = config.without_origins(config.without_places(settings), kept)
    repo = getattr(settings.data, "repo", "")
    if repo and not hub.is_dataset(repo):
        settings = config.replaced(settings, {"data.repo": ""})
    return settings


def fetch(name: hub.Name) -> hub.Snapshot:
    """Fetches a model from the hub.

    Raises:
      UserError: it cannot be fetched, see `hub.fetch`; or its config is unreadable, or names files.
    """
    found = hub.fetch(name, NEEDED, OPTIONAL)
    settings = RunFolder(found.folder).settings()
    own = without_files(settings)
    if own != settings:
        # A stranger's config must not choose which files are read here.
        named = ", ".join(config.differences(own, settings))
        raise UserError(f"{found.name}: its config sets {named}, which `push` never does; refused")
    return found
