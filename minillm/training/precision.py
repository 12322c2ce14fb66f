"""Which precision to train in: the one that a short trial finds faster.

bfloat16 halves the bytes and, where the processor multiplies it natively (AVX512-BF16, AMX, tensor cores), multiplies the rate;
elsewhere it is emulated and slower. So it is measured, on the real model and a real batch.
"""

import copy
import statistics
import time

import torch
from torch import nn

from minillm.datasets.batch import Batch, moved
from minillm.objectives.loss import Objective

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def finish(device: torch.device) -> None:
    """Wait until a device that works on its own has done all that it was asked to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def seconds_per_pass(model: nn.Module, objective: Objective, batch: Batch, repeats: int = 3) -> dict[str, float]:
    """Median seconds of a forward and a backward in each precision, taken in turns after a warm-up, on copies of the model."""
    device = next(model.parameters()).device
    batch = moved(batch, device)
    models = {precision: copy.deepcopy(model).to(dtype) for precision, dtype in DTYPES.items()}
    seconds: dict[str, list[float]] = {precision: [] for precision in models}
    for _ in range(1 + repeats):
        for precision, times in seconds.items():
            finish(device)
            began = time.perf_counter()
            objective(models[precision], batch).total.backward()
            finish(device)
            times.append(time.perf_counter() - began)
    return {precision: statistics.median(times[1:]) for precision, times in seconds.items()}
