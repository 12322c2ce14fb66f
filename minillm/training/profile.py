"""Profiling: the time of each part of a training step, and the share of the machine's peak (train.py --profile 20).

Two measured rates bound every step: arithmetic (a large matrix product) and memory (a large copy). By the roofline
model (Williams et al. 2009), a step with F operations on M bytes takes at least max(F / arithmetic, M / memory)
seconds. F counts the operations of matrix products, forward and backward. M counts the bytes that operations read and
write, whether or not they are in a cache.
"""

import os
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, record_function
from torch.profiler import profile as recorded
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from minillm.datasets.batch import Batch
from minillm.training.precision import DTYPES, finish
from minillm.training.step import OPTIMIZER, GradientStep

DATA = "data"
PARTS = ("matmul", "attention", OPTIMIZER, DATA, "other")
MATMULS = ("aten::mm", "aten::addmm")
# operations of attention, outside the optimizer
ATTENTION = ("scaled_dot_product", "flash_attention", "aten::bmm", "aten::baddbmm", "aten::_softmax")


class Profile(NamedTuple):
    """Costs of one training step."""

    seconds: dict[str, float]  # part -> seconds per step
    n_operations: int  # additions and multiplications of matrix products
    n_bytes: int  # bytes read and written
    peak_operations: float  # operations per second, measured
    peak_bytes: float  # bytes per second, measured

    def __str__(self) -> str:
        whole = sum(self.seconds.values())
        lines = [f"time of a step: {1000 * whole:.1f} ms"]
        lines += [f"  {part:<10} {1000 * s:8.1f} ms {100 * s / whole:5.1f} %" for part, s in self.seconds.items()]
        bounds = {
            "arithmetic": (self.n_operations, self.peak_operations, "FLOP"),
            "memory": (self.n_bytes, self.peak_bytes, "B"),
        }
        for what, (amount, peak, unit) in bounds.items():
            rates = f"{amount / whole / 1e9:.1f} of {peak / 1e9:.1f} G{unit}/s, {100 * amount / whole / peak:.0f} %"
            lines.append(f"  {what:<10} {amount / 1e9:.2f} G{unit} a step: {rates}")
        return "\n".join(lines)


def profile(step: GradientStep, batch: Callable[[int], Batch], n_steps: int, device: str, precision: str) -> Profile:
    """Measure `n_steps` training steps; they change the weights as usual."""
    for i in range(2):
        step(batch(i))
    began = time.perf_counter()
    for i in range(n_steps):
        step(batch(i))
    whole = (time.perf_counter() - began) / n_steps
    shares = _shares(step, batch, n_steps, device)
    with FlopCounterMode(display=False) as flops, Traffic() as traffic:
        step(batch(0))
    peaks = matmul_rate(DTYPES[precision], device), copy_rate(device)
    return Profile(
        {part: whole * share for part, share in shares.items()}, flops.get_total_flops(), traffic.n_bytes, *peaks
    )


def _shares(step: GradientStep, batch: Callable[[int], Batch], n_steps: int, device: str) -> dict[str, float]:
    """The share of each part in the recorded time; shares sum to 1."""
    on_cuda = torch.device(device).type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_cuda else [])]
    # subtle: 99 is above all levels of the profiler; at each of its levels it writes lines to stderr
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    with recorded(activities=activities) as events:
        for i in range(n_steps):
            with record_function(DATA):
                now = batch(i)
            step(now)
    spent = dict.fromkeys(PARTS, 0.0)
    for event in events.events():
        spent[part_of(event)] += event.self_device_time_total if on_cuda else event.self_cpu_time_total
    whole = sum(spent.values())
    return {part: microseconds / whole for part, microseconds in spent.items()}


def part_of(event: torch.autograd.profiler_util.FunctionEvent) -> str:
    """Which of PARTS an operation belongs to: optimizer and data by the enclosing scope, the others by name."""
    scope = event
    while scope is not None:
        if scope.name in (OPTIMIZER, DATA):
            return scope.name
        scope = scope.cpu_parent
    if event.name in MATMULS:
        return "matmul"
    return "attention" if any(name in event.name for name in ATTENTION) else "other"


class Traffic(TorchDispatchMode):
    """Counts the bytes of all tensors that operations read and write; views count 0."""

    n_bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        out = func(*args, **(kwargs or {}))
        if not func.is_view:
            self.n_bytes += sum(x.nbytes for x in _tensors((args, kwargs or {}, out)))
        return out


def _tensors(found: object) -> Iterator[Tensor]:
    if isinstance(found, Tensor):
        yield found
    elif isinstance(found, tuple | list | dict):
        for part in found.values() if isinstance(found, dict) else found:
            yield from _tensors(part)


def matmul_rate(dtype: torch.dtype, device: str = "cpu", n: int = 2048, repeats: int = 5) -> float:
    """Operations per second of a product of square matrices; the best of `repeats`."""
    a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
    return 2 * n**3 / min(_seconds(lambda: a @ b, device, repeats))


def copy_rate(device: str = "cpu", n_bytes: int = 2**27, repeats: int = 5) -> float:
    """Bytes per second, read and written, of a copy that is too large for caches; the best of `repeats`."""
    a, b = torch.zeros(n_bytes // 4, device=device), torch.empty(n_bytes // 4, device=device)
    return 2 * n_bytes / min(_seconds(lambda: b.copy_(a), device, repeats))


def _seconds(work: Callable[[], object], device: str, repeats: int) -> list[float]:
    times = []
    for _ in range(1 + repeats):
        began = time.perf_counter()
        work()
        finish(torch.device(device))
        times.append(time.perf_counter() - began)
    return times[1:]
