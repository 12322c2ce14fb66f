"""torch.compile: translate a model once into fewer and larger kernels (train.py --train.compile true).

Eager PyTorch starts a kernel for every operation, and each reads and writes memory. A compiler that has seen the
whole forward and its backward fuses operations that go element by element into one pass (Ansel et al. 2024). The
results are the same up to rounding. Translating takes a minute or more, so it pays for long trainings, on GPUs
above all. It needs a C++ compiler, or Triton on CUDA. Only a trial shows whether that is there, since nothing is
translated before the first call: the trial comes before training, and a failure leaves the model as it is.

Gain: 1.15 times the speed at 0.8 million parameters, 0.9 to 1.1 at 10.7 million, two threads of a CPU
(benchmarks/NOTES.md).
"""

import copy
import logging
import time
from collections.abc import Callable

import torch
from torch import nn

from minillm.models.language_model import device_of


def compiled(model: nn.Module) -> nn.Module:
    """Copy a model with `hidden` compiled, or `forward` in a model without it. The two share all parts."""
    twin, name = copy.copy(model), "forward" if model.head is None else "hidden"
    setattr(twin, name, torch.compile(getattr(twin, name)))
    return twin


def try_compiled(model: nn.Module, work: Callable[[nn.Module], object]) -> tuple[nn.Module | None, str]:
    """Try `work` on `compiled(model)`: the compiled model, or None where that fails, and the line that says so.

    Random generators stay as they were. Raises what the work raises without being compiled.
    """
    # subtle: torch warns that the question whether a text is dense, asked before the layers, is not compiled
    logging.getLogger("torch._dynamo.variables.tensor").setLevel(logging.ERROR)
    device, began = device_of(model), time.monotonic()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        work(
            model
        )  # also fills tables, which would look like another model to compiled code when they are filled later
        try:
            twin = compiled(model)
            work(twin)
        except Exception as e:  # of any kind: the compilers' own, and what they let through
            reason = str(e).strip().partition("\n")[0][:160]
            return None, f"train.compile: going on without, since here it cannot be done ({type(e).__name__}: {reason})"
    return twin, f"train.compile: forward and backward compiled in {time.monotonic() - began:.0f} s"
