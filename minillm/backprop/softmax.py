"""Softmax: raising one score takes from all the others.

    y_i = exp(x_i) / sum_j exp(x_j)          dy_i/dx_j = y_i (1[i = j] - y_j)          dx = y * (dy - sum(dy * y))

The last form multiplies by the matrix of derivatives without ever making it (Bridle 1990).
"""

from torch import Tensor


def softmax(x: Tensor) -> tuple[Tensor, Tensor]:
    """x (..., N) -> y (..., N), and y again, which is all that the backward needs. A row of nothing but -inf becomes nan."""
    large = (x - x.amax(-1, keepdim=True)).exp()
    y = large / large.sum(-1, keepdim=True)
    return y, y


def softmax_backward(dy: Tensor, y: Tensor) -> Tensor:
    """dy (..., N) -> dx (..., N)."""
    weighted = dy * y
    return weighted - y * weighted.sum(-1, keepdim=True)
