"""What an objective returns: a sum and what it sums over.

Means are taken once, by whoever sees the whole batch. A mean of means would weigh tokens by the micro-batch that they fell into.
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from minillm.datasets.batch import Batch


@dataclass(frozen=True)
class Loss:
    """`total / count` is the loss; a batch with nothing to count has total 0 and count 0."""

    total: Tensor  # scalar, nats, differentiable
    count: Tensor  # scalar, long: targets that were counted


Objective = Callable[[nn.Module, Batch], Loss]
