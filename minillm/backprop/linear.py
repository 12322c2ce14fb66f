"""Backward of a linear layer, which most other backwards use.

    y = x W^T + b          dx = dy W          dW = dy^T x          db = sum of dy over all rows

Every weight is used once for every row, so its derivative is a sum over rows: (its input) times (the derivative of its
output). Rumelhart, Hinton and Williams 1986.
"""

from torch import Tensor


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> tuple[Tensor, tuple]:
    """x (..., D), weight (F, D), bias (F,) -> y (..., F), kept.

    >>> import torch
    >>> y, kept = linear(torch.tensor([[1.0, 2.0]]), weight=torch.tensor([[3.0, 4.0]]))
    >>> dx, dweight, _ = linear_backward(torch.ones(1, 1), kept)
    >>> y.tolist(), dx.tolist(), dweight.tolist()
    ([[11.0]], [[3.0, 4.0]], [[1.0, 2.0]])
    """
    y = x @ weight.T
    return (y if bias is None else y + bias), (x, weight, bias is not None)


def linear_backward(dy: Tensor, kept: tuple) -> tuple[Tensor, Tensor, Tensor | None]:
    """dy (..., F) -> dx (..., D), dweight (F, D), dbias (F,) or None without a bias."""
    x, weight, biased = kept
    rows, drows = x.reshape(-1, x.shape[-1]), dy.reshape(-1, dy.shape[-1])
    return dy @ weight, drows.T @ rows, drows.sum(0) if biased else None
