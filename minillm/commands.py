"""The console commands `minillm-train` and `minillm-sample`: the scripts train.py and sample.py, from any folder."""

import runpy
import sys
from pathlib import Path

from minillm.folders import SHIPPED


def spelled(script: str) -> str:
    """How the user starts a script: `python train.py` in a clone, `minillm-train` where that is what was typed or what there is."""
    as_command = SHIPPED.name == "shipped" or Path(sys.argv[0]).stem.startswith("minillm-")
    return f"minillm-{script}" if as_command else f"python {script}.py"


def train() -> None:
    """Run train.py; it ends the process with its exit status."""
    runpy.run_path(str(SHIPPED / "train.py"), run_name="__main__")


def sample() -> None:
    """Run sample.py; it ends the process with its exit status."""
    runpy.run_path(str(SHIPPED / "sample.py"), run_name="__main__")
