"""Dropout (Srivastava et al. 2014): a regularizer that sets random numbers to 0 during training.

Each number becomes 0 with probability `rate`; the others are multiplied by 1 / (1 - rate), which keeps the mean.
"""

from collections.abc import Callable

from torch import Tensor, nn


def dropout_layer(rate: float) -> Callable[[Tensor], Tensor]:
    """A dropout layer; for a rate of 0 the function `no_dropout`, which costs no module call."""
    return nn.Dropout(rate) if rate else no_dropout


def no_dropout(x: Tensor) -> Tensor:
    """Return x unchanged."""
    return x
