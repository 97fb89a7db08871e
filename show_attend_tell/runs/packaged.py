"""The models that come with the package, by name."""

from pathlib import Path

from show_attend_tell.runs.checkpoint import WEIGHTS
from show_attend_tell.runs.folder import RunFolder

PACKAGED = Path(__file__).parents[1] / "pretrained_models"


def names(folder: Path = PACKAGED) -> tuple[str, ...]:
    """The names of the models in a folder, sorted."""
    return tuple(sorted(path.parent.name for path in folder.glob(f"*/{WEIGHTS}")))


def find(model: str) -> Path:
    """The folder of a run or of an exported model, or that of a packaged model.

    A run in a folder of the same name comes before a packaged model.
    """
    if not RunFolder(Path(model)).has_config and model in names():
        return PACKAGED / model
    return Path(model)
