"""Normalization: keep every token's vector at a steady size, so that deep stacks train.

    LayerNorm(x) = (x - mean(x)) / sqrt(var(x) + eps) * weight + bias      Ba et al. 2016
    RMSNorm(x)   =  x / sqrt(mean(x^2) + eps) * weight                     Zhang and Sennrich 2019

Means run over the last dimension. RMSNorm drops the centering and the bias, which costs nothing in quality. Both are computed
in float32 at least, whatever the input, and given back in the input's dtype. LayerNorm calls torch's fused kernel, and RMSNorm
is differentiated by hand; `tests/layers/test_norm.py` holds both equal to the lines above, gradients included.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class LayerNorm(nn.Module):
    """(..., D) -> (..., D), centered and scaled."""

    def __init__(self, d_model: int, bias: bool = True, eps: float = 1e-5):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(d_model))
        self.bias = nn.Parameter(torch.zeros(d_model)) if bias else None
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return torch.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)


class RMSNorm(nn.Module):
    """(..., D) -> (..., D), scaled only."""

    def __init__(self, d_model: int, eps: float = 1e-5):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(d_model))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            return _RMSNorm.apply(x, self.weight, self.eps)
        return _rms_norm(x, self.weight, self.eps)[0]


class NoNorm:
    """(..., D) -> (..., D), the same vectors."""

    def __init__(self, d_model: int):
        """Of any width."""

    def __call__(self, x: Tensor) -> Tensor:
        return x


NORMS: dict[str, Callable[[int, float, bool], nn.Module]] = {  # name -> what builds a norm from d_model, eps and bias
    "rmsnorm": lambda d_model, eps, bias: RMSNorm(d_model, eps),
    "layernorm": lambda d_model, eps, bias: LayerNorm(d_model, bias, eps),
}


def _rms_norm(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """The equation, and 1 / rms (..., 1)."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    scale = torch.rsqrt(torch.linalg.vector_norm(wide, dim=-1, keepdim=True).square() / len(weight) + eps)
    return (wide * scale).mul_(weight).to(x.dtype), scale


class _RMSNorm(torch.autograd.Function):
    """Keeps x and one number a vector, 1 / rms; autograd would also keep y, and a copy of x where that is not float32.

    With y = x / rms and h = gradient * weight:   dx = (h - y mean(h y)) / rms      dweight = sum of gradient * y
    """

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
