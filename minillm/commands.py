"""The console commands `minillm-train` and `minillm-sample`: the scripts train.py and sample.py, from any folder."""

import runpy

from minillm.folders import SHIPPED


def train() -> None:
    """Run train.py; it ends the process with its exit status."""
    runpy.run_path(str(SHIPPED / "train.py"), run_name="__main__")


def sample() -> None:
    """Run sample.py; it ends the process with its exit status."""
    runpy.run_path(str(SHIPPED / "sample.py"), run_name="__main__")
