"""Learning-rate schedule: warm-up, then decay, as a fraction of the peak rate.

    cosine         warm-up, then half a cosine down to the floor                            Loshchilov and Hutter 2017
    linear         warm-up, constant, then a line down to the floor in the last part (WSD)  Hu et al. 2024
    inverse_sqrt   warm-up of w steps, then 1 / sqrt(step), shifted and scaled to go from   Vaswani et al. 2017
                   the peak to the floor; in the paper the peak is  D^-0.5 w^-0.5

Step s = 0, 1, ... of w warm-up steps has (s + 1) / w of the peak, so no step has a rate of zero and the last warm-up
step has the peak. After warm-up the rate is at least the floor, and the last step of a run has exactly the floor.
"""

import math
from dataclasses import dataclass
from typing import Annotated

from minillm.config.fields import Choice, Count, Fraction, validate


def linear(step: int, warmup: int, max_steps: int, decay_fraction: float) -> float:
    """1, and in the last part of all steps a line down to 0."""
    return _left(step, max_steps, min(round(decay_fraction * max_steps), max_steps - warmup))


def cosine(step: int, warmup: int, max_steps: int, decay_fraction: float) -> float:
    """Half a cosine from 1 after the warm-up to 0 at the last step."""
    return (1 - math.cos(math.pi * _left(step, max_steps, max_steps - warmup))) / 2


def inverse_sqrt(step: int, warmup: int, max_steps: int, decay_fraction: float) -> float:
    """1 / sqrt(step), shifted and scaled to go from 1 after the warm-up to 0 at the last step."""
    now, last = (math.sqrt(max(warmup, 1) / n) for n in (min(step + 1, max_steps), max_steps))
    return (now - last) / (1 - last) if last < 1 else 0.0


def _left(step: int, max_steps: int, falling: int) -> float:
    """The part of the last `falling` steps that comes after this one; 1 before them."""
    left = max(max_steps - 1 - step, 0)
    return min(left / falling, 1.0) if falling else float(left > 0)


SCHEDULES = {"linear": linear, "cosine": cosine, "inverse_sqrt": inverse_sqrt}  # 1: the peak, 0: the floor


@dataclass(frozen=True)
class ScheduleConfig:
    """Shape of the learning-rate schedule."""

    kind: Annotated[str, Choice(SCHEDULES)] = "linear"  # linear: falls in the last part only; others: after warm-up
    warmup_steps: Count = 20  # steps over which the rate rises to its peak
    decay_fraction: Fraction = 0.5  # linear: the rate falls over this last fraction of all steps

    def __post_init__(self) -> None:
        validate(self)


def rate(config: ScheduleConfig, step: int, max_steps: int, floor: float) -> float:
    """The rate of step 0, 1, ... of max_steps as a fraction of the peak, in (0, 1]; `floor` from the last step on."""
    warmup = min(config.warmup_steps, max_steps - 1)
    if step < warmup:
        return (step + 1) / config.warmup_steps
    return floor + (1 - floor) * SCHEDULES[config.kind](step, warmup, max_steps, config.decay_fraction)
