"""RMSNorm differentiated by hand: the forward saves only the input and one number per vector.

With y = x / rms and h = gradient * weight:   dx = (h - y mean(h y)) / rms      dweight = sum of gradient * y

Autograd saves the result of every operation, including a float32 copy of a bfloat16 x, and reads each again. The
equation is that of `minillm/layers/norm.py`, the derivative that of `minillm/backprop/norm.py`.

Gain: 1.30 times the speed of autograd, forward and backward (`python -m benchmarks.kernels`).
"""

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from minillm.layers.norm import RMSNorm


class FastRMSNorm(RMSNorm):
    """Twin of `RMSNorm`: (..., D) -> (..., D)."""

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            return _RMSNorm.apply(x, self.weight, self.eps)
        return _rms_norm(x, self.weight, self.eps)[0]


def _rms_norm(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """The normalized vectors (..., D), and 1 / rms (..., 1)."""
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
        mean = gy @ (weight.to(gy.dtype) / len(weight))  # mean(h y)
        dx = torch.addcmul(g * weight, y, mean[..., None], value=-1).mul_(scale)
        return dx.to(x.dtype), gy.reshape(-1, len(weight)).sum(0).to(weight.dtype), None
