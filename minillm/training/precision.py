"""Which precision to train in: the one that a short trial finds faster.

bfloat16 halves the bytes and, where the processor multiplies it natively (AVX512-BF16, AMX, tensor cores), doubles the rate;
elsewhere it is emulated and slower. Small models may lose more by casting than they gain. So it is measured, on the real model.
"""

import statistics
import time

from torch import nn

from minillm.datasets.batch import Batch
from minillm.objectives.loss import Objective
from minillm.training.step import mixed


def seconds_per_pass(model: nn.Module, objective: Objective, batch: Batch, repeats: int = 3) -> dict[str, float]:
    """Median seconds of a forward and a backward in "fp32" and "bf16", taken in turns after one warm-up each.

    Leaves weights and gradients as they were; the model must not draw random numbers that matter (seed after it).
    """
    device = next(model.parameters()).device
    batch = Batch(*(part.to(device) for part in batch))
    seconds: dict[str, list[float]] = {"fp32": [], "bf16": []}
    for _ in range(1 + repeats):
        for precision, times in seconds.items():
            began = time.perf_counter()
            with mixed(precision, device):
                loss = objective(model, batch)
            loss.total.backward()
            float(loss.total)  # waits for a device that works on its own
            times.append(time.perf_counter() - began)
            model.zero_grad(set_to_none=True)
    return {precision: statistics.median(times[1:]) for precision, times in seconds.items()}
