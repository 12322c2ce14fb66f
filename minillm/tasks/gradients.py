"""Tasks that learn by gradients: each has its own objective; optimizer, schedule and precision are shared.

    weights <- optimizer(gradient of objective(model, batch(i)) / count, rate(i))      i = 0, ..., train.max_steps - 1

Read before: `task`; next: `training/step.py`, the update itself.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import nn

from minillm.models.language_model import device_of
from minillm.objectives.loss import Objective
from minillm.tasks.settings import Settings
from minillm.tasks.task import ALONE, Batches, Data, Frozen, Say, Task, Training
from minillm.training.fast_step import accelerate_pass, accelerate_training
from minillm.training.optim import build_optimizer
from minillm.training.precision import seconds_per_pass
from minillm.training.schedule import rate
from minillm.training.step import GradientStep


class GradientTask(Task):
    """A `Task` trained by gradients; a subclass needs an objective, batches and a validation."""

    def training(self, settings: Settings, data: Data, model: nn.Module, frozen: Frozen, say: Say = print) -> Training:
        """See `Task.training`. train.precision = "auto" is replaced by the faster of fp32 and bf16."""
        if settings.train.precision == "auto":
            precision = self.precision(settings, model, self.batches(settings, data, frozen), say, frozen)
            settings = replace(settings, train=replace(settings.train, precision=precision))
        return Training(settings, self.step(settings, model, frozen), partial(self.validation, settings, data))

    def step(self, settings: Settings, model: nn.Module, frozen: Frozen = ALONE) -> GradientStep:
        return build_step(GradientStep, settings, model, self.objective(settings, frozen))

    def precision(
        self, settings: Settings, model: nn.Module, batches: Batches, say: Say, frozen: Frozen = ALONE
    ) -> str:
        """The precision that replaces "auto"."""
        return faster_precision(model, self.objective(settings, frozen), batches(0), say, settings.train.fast)


def build_step(
    kind: Callable[..., GradientStep], settings: Settings, model: nn.Module, objective: Objective
) -> GradientStep:
    """Build an update by `kind`, a class of steps, with the optimizer and the schedule of the settings.

    Raises ValueError for settings that `kind` cannot use.
    """
    s = settings
    fraction = partial(rate, s.schedule, max_steps=s.train.max_steps, floor=s.optim.min_lr / s.optim.lr)
    step = kind(
        model,
        objective,
        build_optimizer(model, s.optim),
        fraction,
        lr=s.optim.lr,
        grad_clip=s.train.grad_clip,
        n_micro_batches=s.train.n_micro_batches,
        precision=s.train.precision,
    )
    return accelerate_training(step) if s.train.fast else step


def faster_precision(model: nn.Module, objective: Objective, batch: Any, say: Say, fast: bool) -> str:
    """ "fp32" or "bf16", whichever is faster in a short trial on this machine. Random generators keep their state."""
    device = device_of(model)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        seconds = seconds_per_pass(model, objective, batch, **({"prepare": accelerate_pass} if fast else {}))
    faster = min(seconds, key=seconds.__getitem__)
    times = ", ".join(f"{name} {1000 * s:.0f} ms" for name, s in seconds.items())
    say(f"forward and backward: {times}; taking {faster}")
    return faster


def smoothed(objective: Callable[..., Any], smoothing: float) -> Objective:
    """The objective with label smoothing; unchanged if `smoothing` is 0."""
    return partial(objective, smoothing=smoothing) if smoothing else objective
