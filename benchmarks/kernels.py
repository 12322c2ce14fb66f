"""Hand-written kernels compared with what they replace: python -m benchmarks.kernels

Forward and backward on one thread, the two in turns: milliseconds of each, and the speed-up. Freed memory is kept, as
in training.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F

from benchmarks.record import record
from benchmarks.timing import in_turns, ratios
from minillm.config.flags import Parser
from minillm.layers.attention import attend_written_out
from minillm.layers.norm import RMSNorm
from minillm.speed import chunked_cross_entropy
from minillm.speed.allocator import keep_freed_memory

Ways = dict[str, Callable[[], object]]  # "ours" and "other"


def attention(B: int, H: int, T: int, K: int) -> Ways:
    """bfloat16 attention on the CPU: weights written out, against torch's fused kernel."""
    q, k, v = (torch.randn(B, H, T, K).bfloat16().requires_grad_() for _ in range(3))
    gradient = torch.randn(B, H, T, K).bfloat16()
    return {
        "ours": lambda: attend_written_out(q, k, v).backward(gradient),
        "other": lambda: F.scaled_dot_product_attention(q, k, v, is_causal=True).backward(gradient),
    }


def tiles(N: int, V: int) -> Ways:
    """Cross-entropy of bfloat16 logits: in tiles of rows, against all rows at once."""
    logits, targets = torch.randn(N, V).bfloat16().requires_grad_(), torch.randint(V, (N,))
    rows = chunked_cross_entropy.ROWS

    def work(n_rows: int) -> None:
        chunked_cross_entropy.ROWS = n_rows
        chunked_cross_entropy.chunked_cross_entropy(logits, targets)[0].backward()
        chunked_cross_entropy.ROWS = rows

    return {"ours": lambda: work(rows), "other": lambda: work(N)}


def rms_norm(N: int, D: int) -> Ways:
    """RMSNorm: differentiated by hand, against autograd."""
    x, gradient, norm = torch.randn(N, D, requires_grad=True), torch.randn(N, D), RMSNorm(D)
    formula = lambda: x * torch.rsqrt(x.square().mean(-1, keepdim=True) + norm.eps) * norm.weight  # noqa: E731
    return {"ours": lambda: norm(x).backward(gradient), "other": lambda: formula().backward(gradient)}


KERNELS: dict[str, Callable[[], Ways]] = {
    "attention-64": lambda: attention(48, 2, 64, 64),
    "attention-192": lambda: attention(16, 2, 192, 64),
    "attention-512": lambda: attention(6, 2, 512, 64),
    "attention-1024": lambda: attention(3, 2, 1024, 64),
    "attention-2048": lambda: attention(2, 2, 2048, 64),
    "cross-entropy": lambda: tiles(3072, 3072),
    "rms-norm": lambda: rms_norm(3072, 128),
}


def main() -> None:
    """Measure each and record it."""
    parser = Parser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=15)
    args = parser.parse()
    torch.set_num_threads(1)
    keep_freed_memory()
    for name, roads in KERNELS.items():
        times = in_turns(roads(), args.repeats)
        rows = zip(times["ours"], times["other"], ratios(times["other"], times["ours"]), strict=True)
        record(
            f"kernel-{name}",
            [{"ms": 1000 * ours, "other_ms": 1000 * other, "ratio": ratio} for ours, other, ratio in rows],
        )


if __name__ == "__main__":
    main()
