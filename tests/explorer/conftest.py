"""An explorer of a tiny run that has learnt eight scenes by heart."""

from collections.abc import Iterator

import pytest

from show_attend_tell.data.task import ImageTask
from show_attend_tell.explorer.explorer import Explorer, open_explorer
from show_attend_tell.inference.run import load_run


@pytest.fixture(scope="module")
def explorer(trained) -> Iterator[Explorer]:
    """Two runs of the same weights, over the scenes."""
    workdir, scenes = trained
    run = load_run(workdir)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ImageTask, "load", lambda task, split, copies=False: scenes)
        yield open_explorer({"one": run, "two": run}, split="val", count=6)
