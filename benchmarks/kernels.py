"""The kernels that are written out for speed, against what they replace: python -m benchmarks.kernels

Forward and backward on one thread, the two taken in turns; median milliseconds of each, lowest ... highest, and the ratio of medians.
"""

import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F

from minillm.cache.base import KVView
from minillm.layers.attention import attend
from minillm.layers.norm import RMSNorm
from minillm.objectives import cross_entropy


def alternate(ours: Callable[[], object], theirs: Callable[[], object], repeats: int = 15) -> list[list[float]]:
    """Milliseconds of each, taken in turns after a warm-up."""
    times: list[list[float]] = [[], []]
    for i in range(repeats + 1):
        for work, kept in zip((ours, theirs), times, strict=True):
            began = time.perf_counter()
            work()
            if i:
                kept.append(1000 * (time.perf_counter() - began))
    return times


def attention(B: int, H: int, T: int, K: int) -> list[list[float]]:
    """bfloat16 on the CPU: the weights written out, against torch's fused kernel."""
    q, k, v = (torch.randn(B, H, T, K).bfloat16().requires_grad_() for _ in range(3))
    positions, gradient = torch.arange(T)[None], torch.randn(B, H, T, K).bfloat16()
    view = KVView(k, v, positions[:, None], dense=True)
    ours = lambda: attend(q, view, positions, causal=True).backward(gradient)  # noqa: E731
    return alternate(ours, lambda: F.scaled_dot_product_attention(q, k, v, is_causal=True).backward(gradient))


def tiles(N: int, V: int) -> list[list[float]]:
    """Cross-entropy of bfloat16 logits in tiles of rows, against all rows at once."""
    logits, targets, rows = torch.randn(N, V).bfloat16().requires_grad_(), torch.randint(V, (N,)), cross_entropy.ROWS

    def work(n_rows: int) -> None:
        cross_entropy.ROWS = n_rows
        cross_entropy.cross_entropy(logits, targets)[0].backward()
        cross_entropy.ROWS = rows

    return alternate(lambda: work(rows), lambda: work(N))


def rms_norm(N: int, D: int) -> list[list[float]]:
    """RMSNorm differentiated by hand, against the formula left to autograd."""
    x, gradient, norm = torch.randn(N, D, requires_grad=True), torch.randn(N, D), RMSNorm(D)
    formula = lambda: x * torch.rsqrt(x.square().mean(-1, keepdim=True) + norm.eps) * norm.weight  # noqa: E731
    return alternate(lambda: norm(x).backward(gradient), lambda: formula().backward(gradient))


def main() -> None:
    """Print a row for each."""
    torch.set_num_threads(1)
    results = {
        "attention 16 x 2 x 192 x 64": attention(16, 2, 192, 64),
        "attention 48 x 2 x 64 x 64": attention(48, 2, 64, 64),
        "cross-entropy 3072 x 3072": tiles(3072, 3072),
        "rms norm 3072 x 128": rms_norm(3072, 128),
    }
    for name, (ours, theirs) in results.items():
        spans = [f"{statistics.median(x):6.1f} ({min(x):.1f} ... {max(x):.1f})" for x in (ours, theirs)]
        print(f"{name:<30} ours {spans[0]}  other {spans[1]}  {statistics.median(theirs) / statistics.median(ours):.2f} x")


if __name__ == "__main__":
    main()
