"""Normalization: scale each token's vector to a fixed size, so that deep stacks train.

    LayerNorm(x) = (x - mean(x)) / sqrt(var(x) + eps) * weight + bias      Ba et al. 2016
    RMSNorm(x)   =  x / sqrt(mean(x^2) + eps) * weight                     Zhang and Sennrich 2019

Means run over the last dimension. RMSNorm leaves out the centering and the bias, at no loss of quality. Both compute in
float32 or wider and return the dtype of the input. LayerNorm calls torch's fused kernel; `tests/layers/test_norm.py`
checks both against these equations, gradients included.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn


class LayerNorm(nn.Module):
    """Center and scale each vector: (..., D) -> (..., D)."""

    def __init__(self, d_model: int, bias: bool = True, eps: float = 1e-5):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(d_model))
        self.bias = nn.Parameter(torch.zeros(d_model)) if bias else None
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return torch.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)


class RMSNorm(nn.Module):
    """Scale each vector, without centering: (..., D) -> (..., D)."""

    def __init__(self, d_model: int, eps: float = 1e-5):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(d_model))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        scale = torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)  # 1 / rms, (..., 1)
        return (wide * scale * self.weight).to(x.dtype)


class OffsetRMSNorm(RMSNorm):
    """RMSNorm that multiplies by 1 + weight, so weights near 0 are harmless to decay and to store (Gemma)."""

    def __init__(self, d_model: int, eps: float = 1e-5):
        super().__init__(d_model, eps)
        nn.init.zeros_(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        scale = torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)  # 1 / rms, (..., 1)
        return (wide * scale * (1.0 + self.weight.to(wide.dtype))).to(x.dtype)


class NoNorm:
    """No normalization: returns its input."""

    def __init__(self, d_model: int):
        """Take the width, as the norms do; it is not used."""

    def __call__(self, x: Tensor) -> Tensor:
        return x


NORMS: dict[str, Callable[[int, float, bool], nn.Module]] = {  # name -> builder of a norm from d_model, eps and bias
    "rmsnorm": lambda d_model, eps, bias: RMSNorm(d_model, eps),
    "offset-rmsnorm": lambda d_model, eps, bias: OffsetRMSNorm(d_model, eps),
    "layernorm": lambda d_model, eps, bias: LayerNorm(d_model, bias, eps),
}
