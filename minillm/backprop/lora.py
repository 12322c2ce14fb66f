"""Backward of LoRA, low-rank adaptation: the weight is frozen, a low-rank term beside it is trained (Hu et al. 2021).

    y = x W^T + b + scale (x A^T) B^T          A (rank, D), B (F, rank)
    dB = scale dy^T (x A^T),   dA = scale (dy B)^T x,   dx = dy W + scale (dy B) A

B = 0 at the start, so y is unchanged and dA = 0, while dB is not: B changes first, then A. Read before: `linear`.
"""

from torch import Tensor

from minillm.backprop.linear import linear, linear_backward


def lora(
    x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, scale: float = 1.0
) -> tuple[Tensor, tuple]:
    """x (..., D), frozen weight (F, D) and bias (F,), a (rank, D), b (F, rank) -> y (..., F), kept."""
    y, _ = linear(x, weight, bias)
    narrow, kept_a = linear(x, a)
    update, kept_b = linear(narrow, b)
    return y + scale * update, (weight, kept_a, kept_b, scale)


def lora_backward(dy: Tensor, kept: tuple) -> tuple[Tensor, Tensor, Tensor]:
    """dy (..., F) -> dx (..., D), da (rank, D), db (F, rank). Frozen weights need no derivative."""
    weight, kept_a, kept_b, scale = kept
    dnarrow, db, _ = linear_backward(scale * dy, kept_b)
    dx, da, _ = linear_backward(dnarrow, kept_a)
    return dy @ weight + dx, da, db
