"""Precision: float32 or bfloat16 for a training step, and a short trial that finds the faster one.

In bf16 a working copy of the model, entirely in bfloat16, computes loss and gradients. The weights themselves stay in
float32 and accumulate updates that bfloat16 would round away (Micikevicius et al. 2018). Norms and losses compute in
float32 in any case. bfloat16 halves the bytes and doubles the rate of matrix products on processors that multiply it
natively (AVX512-BF16, AMX, tensor cores); on others it is emulated and slower. So the trial measures both, with the
real model and a real batch.
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
    """The model computes in the precision of its weights, without a working copy."""

    def __init__(self, model: nn.Module):
        self.model = model

    def read(self) -> None:
        """Does nothing: there is no copy."""

    def give(self) -> None:
        """Does nothing: `backward` has already added the gradients to those of the weights."""


class WorkingCopy:
    """A bfloat16 copy of a model that computes: it reads the weights before a step and gives gradients back."""

    def __init__(self, model: nn.Module):
        self.model = copy.deepcopy(model).bfloat16()
        pairs = zip(model.parameters(), self.model.parameters(), strict=True)
        self.pairs = [(weight, worked) for weight, worked in pairs if weight.requires_grad]

    @torch.no_grad()
    def read(self) -> None:
        """Copy the weights into the copy."""
        for weight, worked in self.pairs:
            worked.copy_(weight)

    @torch.no_grad()
    def give(self) -> None:
        """Add the copy's gradients to those of the weights, in float32, and clear them in the copy."""
        for weight, worked in self.pairs:
            if worked.grad is not None:
                weight.grad += worked.grad
                worked.grad = None


def finish(device: torch.device) -> None:
    """Wait until an asynchronous device (CUDA, MPS) has finished all queued work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def seconds_per_pass(
    model: nn.Module, objective: Objective, batch: Batch, repeats: int = 3, prepare: Callable = lambda *parts: parts
) -> dict[str, float]:
    """Measure the median seconds of a forward and a backward in each precision, on copies of the model.

    The precisions take turns, after one warm-up pass each. `prepare(model, objective)` returns the model and the
    objective to measure, for example their fast twins.
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
