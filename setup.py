"""The build step that puts configs, data and scripts into the package; the rest of the build is in pyproject.toml."""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

CARRIED = ("configs/*.toml", "data/*.txt", "train.py", "sample.py")


def carried() -> list[str]:
    """The files that a clone has at its top and a package in minillm/shipped/."""
    return sorted(str(path) for pattern in CARRIED for path in Path().glob(pattern))


class BuildWithShippedFiles(build_py):
    """`build_py` that copies them too, but for an editable install, which uses those of the clone."""

    def run(self) -> None:
        super().run()
        for name in [] if self.editable_mode else carried():
            target = Path(self.build_lib, "minillm", "shipped", name)
            self.mkpath(str(target.parent))
            self.copy_file(name, str(target), preserve_mode=False)

    def get_source_files(self) -> list[str]:
        """What a source archive needs."""
        return [*super().get_source_files(), *carried()]


setup(cmdclass={"build_py": BuildWithShippedFiles})
