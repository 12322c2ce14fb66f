"""Dropout: in training every number becomes 0 with probability `rate`, and the others grow by 1 / (1 - rate) (Srivastava et al. 2014)."""

from collections.abc import Callable

from torch import Tensor, nn


def dropout_layer(rate: float) -> Callable[[Tensor], Tensor]:
    """A dropout layer, or the identity for a rate of 0, which costs no module call."""
    return nn.Dropout(rate) if rate else no_dropout


def no_dropout(x: Tensor) -> Tensor:
    """x."""
    return x
