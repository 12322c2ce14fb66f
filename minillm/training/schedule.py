"""The learning rate over time, as a fraction of its peak: up, then down.

    cosine   warm-up, then half a cosine down to the floor                                         Loshchilov and Hutter 2017
    linear   warm-up, constant, then a straight line down to the floor over the last part (WSD)     Hu et al. 2024
    inverse_sqrt   warm-up of w steps, then 1 / sqrt(step), moved and stretched to run from the peak to the floor; the peak is the
                   original's  D^-0.5 w^-0.5                                                          Vaswani et al. 2017

Warm-up step s of w has (s + 1) / w of the peak, so that no step is wasted at zero and the last warm-up step is the
peak. The floor bounds what comes after warm-up, and the last step of a run has exactly the floor.
"""

import math
from dataclasses import dataclass
from typing import Literal

from minillm.config.fields import Count, Fraction, validate


@dataclass(frozen=True)
class ScheduleConfig:
    """Shape of the learning rate's curve."""

    kind: Literal["linear", "cosine", "inverse_sqrt"] = (
        "linear"  # how the rate falls: straight at the end, or throughout
    )
    warmup_steps: Count = 20  # steps of rising
    decay_fraction: Fraction = 0.5  # linear: this last part of all steps falls

    def __post_init__(self) -> None:
        validate(self)


def rate(config: ScheduleConfig, step: int, max_steps: int, floor: float) -> float:
    """The fraction of the peak rate that step 0, 1, ... of max_steps runs at: in (0, 1], `floor` at the last and ever after."""
    warmup = min(config.warmup_steps, max_steps - 1)
    if step < warmup:
        return (step + 1) / config.warmup_steps
    if config.kind == "inverse_sqrt":
        now, last = (math.sqrt(max(warmup, 1) / n) for n in (min(step + 1, max_steps), max_steps))
        return floor + (1 - floor) * (now - last) / (1 - last) if last < 1 else floor
    falling = (
        max_steps - warmup
        if config.kind == "cosine"
        else min(round(config.decay_fraction * max_steps), max_steps - warmup)
    )
    left = max(max_steps - 1 - step, 0)  # steps after this one
    part = min(left / falling, 1.0) if falling else float(left > 0)
    shape = part if config.kind == "linear" else (1 - math.cos(math.pi * part)) / 2
    return floor + (1 - floor) * shape
