"""Record figures in benchmarks/figures.json: one entry per benchmark, with machine, spread and number of runs.

`python -m benchmarks.readme` copies them into the README and into benchmarks/figures.md; `goals` has the goals.
"""

import json
import platform
import re
import statistics
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
FIGURES = ROOT / "benchmarks" / "figures.json"


def machine() -> str:
    """The CPU, with the widest vectors that torch uses on it, and the versions."""
    processor = f"{processor_name()} ({torch.backends.cpu.get_cpu_capability()})"
    versions = f"Python {platform.python_version()}, torch {torch.__version__}"
    return f"{torch.get_num_threads()} CPU threads, {processor}, {versions}"


def processor_name() -> str:
    """The CPU's name on Linux, or its kind elsewhere."""
    cpuinfo = Path("/proc/cpuinfo")
    names = re.findall(r"^model name\s*: (.+)$", cpuinfo.read_text(), re.MULTILINE) if cpuinfo.exists() else []
    return names[0] if names else platform.machine()


def spread(results: list[dict[str, float]]) -> dict[str, dict[str, float]]:
    """Mean, median, lowest and highest of each number over the repeats."""
    names = [name for name, value in results[0].items() if isinstance(value, int | float)]
    columns = {name: [float(result[name]) for result in results] for name in names}
    return {
        name: {"mean": statistics.fmean(x), "median": statistics.median(x), "low": min(x), "high": max(x), "n": len(x)}
        for name, x in columns.items()
    }


def record(name: str, results: list[dict[str, float]]) -> None:
    """Record and print the figures of one benchmark, one dict per repeat."""
    kept = json.loads(FIGURES.read_text(encoding="utf-8")) if FIGURES.exists() else {}
    kept[name] = {"machine": machine(), "figures": spread(results)}
    FIGURES.write_text(json.dumps(kept, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    for figure, x in kept[name]["figures"].items():
        print(
            f"{name:>14}  {figure:<24} {x['mean']:10.4f}  {x['low']:.4f} ... {x['high']:.4f}  n = {x['n']}", flush=True
        )
