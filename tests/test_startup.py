"""What starts quickly stays quick: nothing is imported that is not needed yet."""

import subprocess
import sys

import pytest

# Slow to import. A caption needs Matplotlib once it is drawn, and nothing of the others.
SLOW = (
    *("array_record", "grain", "matplotlib", "orbax", "pydantic", "sacrebleu", "scipy"),
    *("tensorflow_datasets", "tensorstore"),
)


@pytest.mark.parametrize(
    ("modules", "allowed"),
    [
        ("show_attend_tell.cli.parser", ()),
        ("show_attend_tell.cli.describing, show_attend_tell.pretrained", ()),
        ("show_attend_tell.explorer.server", ("pydantic", "scipy")),
    ],
)
def test_nothing_slow_is_imported_early(modules, allowed):
    code = f"import sys, {modules}; print(*sorted({{*{SLOW}}} & {{*sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) <= set(allowed)
