"""The console commands `minillm-train` and `minillm-sample`: they run train.py and sample.py from any folder."""

import importlib.util
import sys
from pathlib import Path

from minillm.system.folders import SHIPPED


def spelled(script: str) -> str:
    """The command as the user types it: `python train.py` in a clone, `minillm-train` in an installed package.

    In a clone it is `minillm-train` too if the user typed that.
    """
    as_command = SHIPPED.name == "shipped" or Path(sys.argv[0]).stem.startswith("minillm-")
    return f"minillm-{script}" if as_command else f"python {script}.py"


def train() -> int:
    """Run train.py; return its exit status."""
    return _run("train")


def sample() -> int:
    """Run sample.py; return its exit status."""
    return _run("sample")


def _run(script: str) -> int:
    spec = importlib.util.spec_from_file_location(f"minillm_{script}", SHIPPED / f"{script}.py")
    assert spec is not None and spec.loader is not None, "the scripts ship with the package"
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look here for the source of their fields
    spec.loader.exec_module(module)
    return module.main()
