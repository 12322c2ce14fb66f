"""Backward of softmax: raising one score lowers the weights of all others (Bridle 1990).

    y_i = exp(x_i) / sum_j exp(x_j)          dy_i/dx_j = y_i (1[i = j] - y_j)          dx = y * (dy - sum(dy * y))

The last form multiplies by the matrix of derivatives without building it.
"""

from torch import Tensor


def softmax(x: Tensor) -> tuple[Tensor, Tensor]:
    """x (..., N) -> y (..., N), and y again, which the backward needs. A row in which all x are -inf becomes nan.

    >>> import torch
    >>> softmax(torch.tensor([112.0, 96.0]) / 8)[0]
    tensor([0.8808, 0.1192])
    """
    large = (x - x.amax(-1, keepdim=True)).exp()
    y = large / large.sum(-1, keepdim=True)
    return y, y


def softmax_backward(dy: Tensor, y: Tensor) -> Tensor:
    """dy (..., N) -> dx (..., N)."""
    weighted = dy * y
    return weighted - y * weighted.sum(-1, keepdim=True)
