"""torch.compile: compile a model into fewer and larger kernels (train.py --train.compile true).

Eager PyTorch starts a kernel for every operation, and each reads and writes memory. A compiler that sees the whole
forward and backward fuses elementwise operations into one pass (Ansel et al. 2024). The results are the same up to
rounding. Compiling takes a minute or more, so it pays off in long runs, mostly on GPUs. It needs a C++ compiler, or
Triton on CUDA. Compilation happens only at the first call, so a trial call before training shows whether it works; if
it fails, the model is used without compilation.

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
    """A copy of a model with a compiled `hidden`, or `forward` if it has no head. Copy and model share all parts."""
    twin, name = copy.copy(model), "forward" if model.head is None else "hidden"
    setattr(twin, name, torch.compile(getattr(twin, name)))
    return twin


def try_compiled(model: nn.Module, work: Callable[[nn.Module], object]) -> tuple[nn.Module | None, str]:
    """Try `work` on `compiled(model)`; returns the compiled model, or None if it fails, and a line that reports it.

    The state of random generators is restored. Errors of `work` on the plain model propagate.
    """
    # subtle: torch warns that the check whether a text is dense, which precedes the layers, is not compiled
    logging.getLogger("torch._dynamo.variables.tensor").setLevel(logging.ERROR)
    device, began = device_of(model), time.monotonic()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        # also fills tables: filled later, they would make the compiled code recompile
        work(model)
        try:
            twin = compiled(model)
            work(twin)
        except Exception as e:  # of any type: errors of the compilers, and errors that they pass on
            reason = str(e).strip().partition("\n")[0][:160]
            return None, f"train.compile: going on without it, since it failed ({type(e).__name__}: {reason})"
    return twin, f"train.compile: forward and backward compiled in {time.monotonic() - began:.0f} s"
