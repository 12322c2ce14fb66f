"""Timing in turns: other processes affect all ways alike, and a ratio compares consecutive runs."""

import os
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

Result = TypeVar("Result")
# seconds: `time.perf_counter`, or `time.process_time`, the CPU time of this process alone
Clock = Callable[[], float]


def timed(work: Callable[[], Result], clock: Clock = time.perf_counter) -> tuple[Result, float]:
    """A function's result, and its seconds."""
    began = clock()
    result = work()
    return result, clock() - began


def in_turns(
    roads: dict[str, Callable[[], object]], repeats: int, clock: Clock = time.perf_counter
) -> dict[str, list[float]]:
    """Seconds of each way, one after the other in every round; the first round is a warm-up and does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in roads}
    for i in range(repeats + 1):
        for name, road in roads.items():
            taken = timed(road, clock)[1]
            if i:
                seconds[name].append(taken)
    return seconds


def with_bytecode(folder: Path) -> dict[str, str]:
    """An environment for a process with bytecode cached in a folder, as in every run but the first."""
    known = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return known | {"PYTHONPYCACHEPREFIX": str(folder)}


def ratios(over: Sequence[float], under: Sequence[float]) -> list[float]:
    """Ratios of two lists of times, round by round."""
    return [a / b for a, b in zip(over, under, strict=True)]


def rates(amount: float, seconds: Sequence[float]) -> list[float]:
    """An amount divided by each time."""
    return [amount / taken for taken in seconds]


def span(values: Sequence[float], digits: int = 0) -> str:
    """median (lowest ... highest)"""
    return f"{statistics.median(values):,.{digits}f} ({min(values):,.{digits}f} ... {max(values):,.{digits}f})"
