"""The build step that copies configs, data and scripts into the package; all other settings are in pyproject.toml."""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

CARRIED = ("configs/*.toml", "data/*.txt", "train.py", "sample.py")


def carried() -> list[str]:
    """The files that are at the top of a clone, and in minillm/shipped/ of an installed package."""
    return sorted(str(path) for pattern in CARRIED for path in Path().glob(pattern))


class BuildWithShippedFiles(build_py):
    """`build_py` that also copies these files, except for an editable install, which uses the files of the clone."""

    def run(self) -> None:
        super().run()
        for name in [] if self.editable_mode else carried():
            target = Path(self.build_lib, "minillm", "shipped", name)
            self.mkpath(str(target.parent))
            self.copy_file(name, str(target), preserve_mode=False)

    def get_source_files(self) -> list[str]:
        """The files of a source archive."""
        return [*super().get_source_files(), *carried()]


setup(cmdclass={"build_py": BuildWithShippedFiles})
