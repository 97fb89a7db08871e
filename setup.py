"""What pyproject.toml cannot say: a wheel holds the experiments beside the package's modules.

In a checkout they lie at the top, where people read and edit them. An editable installation finds
them there, so only a real build copies them.
"""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

EXPERIMENTS = "show_attend_tell/experiments"


class BuildWithExperiments(build_py):
    """Copies `experiments/*.py` into the built package."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            for source, target in self._experiments():
                self.mkpath(str(Path(target).parent))
                self.copy_file(source, target)

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        copied = [] if self.editable_mode else [target for _, target in self._experiments()]
        return [*super().get_outputs(include_bytecode), *copied]

    def _experiments(self) -> list[tuple[str, str]]:
        folder = Path(self.build_lib) / EXPERIMENTS
        return [(str(p), str(folder / p.name)) for p in sorted(Path("experiments").glob("*.py"))]


setup(cmdclass={"build_py": BuildWithExperiments})
