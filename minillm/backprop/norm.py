"""Backward of normalization: dx loses the directions that the norm removes from x.

    n = (x - mean(x)) / sqrt(var(x) + eps),  y = n weight + bias          LayerNorm, Ba et al. 2016
    n =  x / sqrt(mean(x^2) + eps),          y = n weight                 RMSNorm, Zhang and Sennrich 2019

With dn = dy weight and s the divisor, all means over the last dimension:

    LayerNorm   dx = (dn - mean(dn) - n mean(dn n)) / s          RMSNorm   dx = (dn - n mean(dn n)) / s

Scaling x (and for LayerNorm shifting it) does not change y; the subtracted terms are these two directions. Read before:
`linear`.
"""

from torch import Tensor


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor | None = None, eps: float = 1e-5) -> tuple[Tensor, tuple]:
    """x (..., D), weight (D,), bias (D,) -> y (..., D), kept."""
    centered = x - x.mean(-1, keepdim=True)
    s = (centered.square().mean(-1, keepdim=True) + eps).sqrt()
    n = centered / s
    y = n * weight
    return (y if bias is None else y + bias), (n, s, weight, bias is not None)


def layer_norm_backward(dy: Tensor, kept: tuple) -> tuple[Tensor, Tensor, Tensor | None]:
    """dy (..., D) -> dx (..., D), dweight (D,), dbias (D,) or None without a bias."""
    n, s, weight, biased = kept
    dn = dy * weight
    dx = (dn - dn.mean(-1, keepdim=True) - n * (dn * n).mean(-1, keepdim=True)) / s
    return dx, _over_rows(dy * n), _over_rows(dy) if biased else None


def rms_norm(x: Tensor, weight: Tensor, eps: float = 1e-5) -> tuple[Tensor, tuple]:
    """x (..., D), weight (D,) -> y (..., D), kept."""
    s = (x.square().mean(-1, keepdim=True) + eps).sqrt()
    n = x / s
    return n * weight, (n, s, weight)


def rms_norm_backward(dy: Tensor, kept: tuple) -> tuple[Tensor, Tensor]:
    """dy (..., D) -> dx (..., D), dweight (D,)."""
    n, s, weight = kept
    dn = dy * weight
    return (dn - n * (dn * n).mean(-1, keepdim=True)) / s, _over_rows(dy * n)


def _over_rows(x: Tensor) -> Tensor:
    """Sum over all dimensions but the last: (..., D) -> (D,)."""
    return x.reshape(-1, x.shape[-1]).sum(0)
