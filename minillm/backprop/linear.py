"""Linear layers: the derivative that all others lead to.

    y = x W^T + b          dx = dy W          dW = dy^T x          db = sum of dy over all rows

Every weight meets every row once, so its derivative is a sum over rows of (what came in) times (what is wanted of what went out).
"""

from torch import Tensor


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> tuple[Tensor, tuple]:
    """x (..., D), weight (F, D), bias (F,) -> y (..., F), kept."""
    y = x @ weight.T
    return (y if bias is None else y + bias), (x, weight, bias is not None)


def linear_backward(dy: Tensor, kept: tuple) -> tuple[Tensor, Tensor, Tensor | None]:
    """dy (..., F) -> dx (..., D), dweight (F, D), dbias (F,) or None where there was no bias."""
    x, weight, biased = kept
    rows, drows = x.reshape(-1, x.shape[-1]), dy.reshape(-1, dy.shape[-1])
    return dy @ weight, drows.T @ rows, drows.sum(0) if biased else None
