"""Seconds, taken in turns: whatever else the machine does meets all roads alike, and a ratio is one of runs that followed each other."""

import os
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

Result = TypeVar("Result")
Clock = Callable[
    [], float
]  # seconds: `time.perf_counter`, or `time.process_time`, which other processes do not take away


def timed(work: Callable[[], Result], clock: Clock = time.perf_counter) -> tuple[Result, float]:
    """What it returns, and the seconds that it took."""
    began = clock()
    result = work()
    return result, clock() - began


def in_turns(
    roads: dict[str, Callable[[], object]], repeats: int, clock: Clock = time.perf_counter
) -> dict[str, list[float]]:
    """Seconds of each road, one after the other in every round; the first round warms up and does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in roads}
    for i in range(repeats + 1):
        for name, road in roads.items():
            taken = timed(road, clock)[1]
            if i:
                seconds[name].append(taken)
    return seconds


def with_bytecode(folder: Path) -> dict[str, str]:
    """The environment of a process that keeps its bytecode there, and so finds it from the second start on."""
    known = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return known | {"PYTHONPYCACHEPREFIX": str(folder)}


def ratios(over: Sequence[float], under: Sequence[float]) -> list[float]:
    """Round by round."""
    return [a / b for a, b in zip(over, under, strict=True)]


def rates(amount: float, seconds: Sequence[float]) -> list[float]:
    """So much in so many seconds: how much a second."""
    return [amount / taken for taken in seconds]


def span(values: Sequence[float], digits: int = 0) -> str:
    """median (lowest ... highest)."""
    return f"{statistics.median(values):,.{digits}f} ({min(values):,.{digits}f} ... {max(values):,.{digits}f})"
