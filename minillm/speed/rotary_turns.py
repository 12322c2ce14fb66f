"""Rotary positions differentiated by hand, with one look-up of cosines and sines for all layers.

The backward of a rotation is the opposite rotation, with the same cosines and sines; autograd saves more tensors. All
layers of a model turn queries and keys by the same positions, so their cosines and sines are looked up once per call.

Gain: other operations than the three used here take 1.25 to 2 times as long (benchmarks/NOTES.md).
"""

import torch
from torch import Tensor

from minillm.layers.positions import Rotary


class FastRotary:
    """Twin of `Rotary`: x (B, G, T, K) at positions (B or 1, T) -> the same shape and dtype."""

    def __init__(self, plain: Rotary):
        self.plain = plain
        # the last positions, their version, the dtype, and their cosines and sines
        self.last = torch.empty(0), 0, torch.float64, torch.empty(0), torch.empty(0)

    def __call__(self, x: Tensor, positions: Tensor) -> Tensor:
        # subtle: positions are recognized by identity and version. Inference tensors have no version, so they are
        # looked up again each time; cosines and sines from inference mode cannot be used with gradients
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
