"""Written-out attention: causal attention that stores its T x S weights, for training in bfloat16 on a CPU.

There the backward of torch's fused kernel is slow. Without gradients the fused kernel is fast, for long texts the
stored weights need too much memory traffic, and a CPU that emulates bfloat16 takes twice as long for the written-out
products; in all three cases the fused kernel is used.

Gain: in bfloat16 on one thread, forward and backward, 3.48 times the speed of the fused kernel at 64 tokens, 1.33 times
at 512, and 0.80 times at 1,024 (`python -m benchmarks.kernels`).
"""

import math

import torch
from torch import Tensor

from minillm.cache.kv_cache import KVView
from minillm.layers.attention import _for_every_head, attend
from minillm.system.processor import has_bfloat16

LONGEST = 512  # tokens of the longest text for which the weights are stored


def attend_in_training(
    q: Tensor, view: KVView, q_positions: Tensor, causal: bool, window: int = 0, dropout: float = 0.0
) -> Tensor:
    """Twin of `attend`: q (B, H, T, K) over a view of S slots -> (B, H, T, K)."""
    native = q.dtype is torch.bfloat16 and q.device.type == "cpu" and has_bfloat16(q.device)
    slow = native and torch.is_grad_enabled() and not dropout  # the fused kernel
    if slow and causal and view.dense and 1 < q.shape[2] == view.k.shape[2] <= min(LONGEST, window or LONGEST):
        return attend_written_out(q, view.k, view.v)
    return attend(q, view, q_positions, causal, window, dropout)


def attend_written_out(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Causal attention of a whole text: q (B, H, T, K), k and v (B, G, T, K) -> (B, H, T, K)."""
    H, T, K = q.shape[1:]
    q, k, v = (_for_every_head(x, H).reshape(-1, T, K) for x in (q, k, v))
    future = torch.full((T, T), -torch.inf, dtype=q.dtype).triu(1)
    scores = torch.baddbmm(future, q, k.mT, alpha=1 / math.sqrt(K))
    return (torch.softmax(scores, dim=-1) @ v).view(-1, H, T, K)
