"""torch.compile: the same model, translated once into fewer and larger kernels (train.py --train.compile true).

Eager PyTorch starts a kernel for every operation, and each reads and writes memory. A compiler that has seen the whole forward and its
backward fuses what goes element by element into one pass (Ansel et al. 2024). The results are the same up to rounding. Translating takes
a minute or more, so it pays for long trainings, on GPUs above all; it needs a C++ compiler, or Triton on CUDA. Where that is missing
only a trial shows it, for nothing is translated before the first call: so the trial is made before training, and failing is no error.
"""

import copy
import logging
import time
from collections.abc import Callable

import torch
from torch import nn

from minillm.models.language_model import device_of


def compiled(model: nn.Module) -> nn.Module:
    """The model once more, sharing all of its parts, in which `hidden` is compiled; or `forward`, for a model without it.

    The model itself stays as it was, for validation and checkpoints.
    """
    twin, name = copy.copy(model), "forward" if model.head is None else "hidden"
    setattr(twin, name, torch.compile(getattr(twin, name)))
    return twin


def try_compiled(model: nn.Module, work: Callable[[nn.Module], object]) -> tuple[nn.Module, str]:
    """`compiled(model)` if it can do its work, or else the model itself; and the line that says so. Random generators stay as they were.

    Raises whatever the work raises without being compiled.
    """
    # subtle: whether a text is dense is asked before the layers, outside of what is compiled, and warned of as if it were a mistake
    logging.getLogger("torch._dynamo.variables.tensor").setLevel(logging.ERROR)
    device, began = device_of(model), time.monotonic()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        work(
            model
        )  # raises what is wrong with the work itself, and fills tables that would look like another model when they are there
        try:
            twin = compiled(model)
            work(twin)
        except Exception as e:  # of any kind: the compilers' own, and what they let through
            reason = str(e).strip().partition("\n")[0][:160]
            return (
                model,
                f"train.compile: going on without, since here it cannot be done ({type(e).__name__}: {reason})",
            )
    return twin, f"train.compile: forward and backward compiled in {time.monotonic() - began:.0f} s"
