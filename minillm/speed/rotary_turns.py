"""Rotary positions turned by hand: one pass each way, and one look-up for all layers.

The derivative of a rotation is the rotation back. Autograd keeps and multiplies every part of it. All layers of a model
turn queries and keys to the same positions, so their cosines and sines are looked up once a call of the model.

Gain: other operations than these three in place take 1.25 to 2 times as long (benchmarks/NOTES.md).
"""

import torch
from torch import Tensor

from minillm.layers.positions import Rotary


class FastRotary:
    """Turns as a `Rotary` does: x (B, G, T, K) at positions (B or 1, T) -> the same shape and dtype."""

    def __init__(self, plain: Rotary):
        self.plain = plain
        # positions, their version, dtype, and what stands there in the tables
        self.last = torch.empty(0), 0, torch.float64, torch.empty(0), torch.empty(0)

    def __call__(self, x: Tensor, positions: Tensor) -> Tensor:
        # subtle: positions are known again by identity and version. Inference tensors count no versions, so they are
        # looked up anew; what was found in inference mode cannot serve a gradient
        last, seen, dtype, cos, sin = self.last
        version = -1 if positions.is_inference() else positions._version
        same = last is positions and version == seen >= 0 and dtype is x.dtype
        if not same or cos.is_inference() is not torch.is_inference_mode_enabled():
            tables = self.plain.tables(x.device, x.dtype)
            cos, sin = (table[positions.clamp(min=0)][:, None] for table in tables)  # (B or 1, 1, T, K)
            self.last = positions, version, x.dtype, cos, sin
        return (_Turn.apply if torch.is_grad_enabled() else _turn)(x, cos, sin)


class _Turn(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
        ctx.save_for_backward(cos, sin)
        return _turn(x, cos, sin)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[no-untyped-def]
        cos, sin = ctx.saved_tensors
        return _turn(gradient, cos, -sin), None, None


def _turn(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """(a, b) -> (a cos - b sin, b cos + a sin), a and b the halves of the last dimension; `sin` carries the signs."""
    a, b = x.chunk(2, dim=-1)
    return torch.cat([b, a], dim=-1).mul_(sin).addcmul_(x, cos)
