"""Precision: in which numbers a step computes, and a short trial that finds the faster ones.

In bf16 a working copy of the model, all of it in bfloat16, computes loss and gradients. The weights themselves stay
in float32 and add up updates that bfloat16 would round away (Micikevicius et al. 2018). Norms and losses compute in
float32 by themselves. bfloat16 halves the bytes and, where the processor multiplies it natively (AVX512-BF16, AMX,
tensor cores), doubles the rate of matrix products; elsewhere it is emulated and slower. So the trial measures both,
on the real model and a real batch.
"""

import copy
import statistics
import time
from collections.abc import Callable

import torch
from torch import nn

from minillm.datasets.batch import Batch, moved
from minillm.objectives.loss import Loss, Objective

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


class FullPrecision:
    """The model computes in the precision of its weights; there is no copy to keep up to date."""

    def __init__(self, model: nn.Module):
        self.model = model

    def read(self) -> None:
        """Do nothing: the weights are the model's own."""

    def give(self) -> None:
        """Do nothing: `backward` has added to the gradients already."""


class WorkingCopy:
    """A copy of a model in bfloat16 computes: it reads the weights before a step and gives gradients back."""

    def __init__(self, model: nn.Module):
        self.model = copy.deepcopy(model).bfloat16()
        pairs = zip(model.parameters(), self.model.parameters(), strict=True)
        self.pairs = [(weight, worked) for weight, worked in pairs if weight.requires_grad]

    @torch.no_grad()
    def read(self) -> None:
        """Copy the weights."""
        for weight, worked in self.pairs:
            worked.copy_(weight)

    @torch.no_grad()
    def give(self) -> None:
        """Add the copy's gradients to those of the weights, in float32, and forget them here."""
        for weight, worked in self.pairs:
            if worked.grad is not None:
                weight.grad += worked.grad
                worked.grad = None


def finish(device: torch.device) -> None:
    """Wait until a device that works on its own has done all that it was asked to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def seconds_per_pass(
    model: nn.Module, objective: Objective, batch: Batch, repeats: int = 3, prepare: Callable = lambda *parts: parts
) -> dict[str, float]:
    """Measure the median seconds of a forward and a backward in each precision, on copies of the model.

    They are taken in turns after a warm-up. `prepare(model, objective)` returns the two that are really used.
    """
    device = next(model.parameters()).device
    batch = moved(batch, device)
    works = {name: prepare(copy.deepcopy(model).to(dtype), objective) for name, dtype in DTYPES.items()}
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(1 + repeats):
        for name, (computing, loss_of) in works.items():
            finish(device)
            began = time.perf_counter()
            loss: Loss = loss_of(computing, batch)
            loss.total.backward()
            finish(device)
            seconds[name].append(time.perf_counter() - began)
    return {name: statistics.median(times[1:]) for name, times in seconds.items()}
