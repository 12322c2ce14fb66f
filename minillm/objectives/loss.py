"""A loss: the value of an objective, as a sum and the number of terms.

Means are taken once, by whoever sees the whole batch. A mean of means would weigh tokens by the micro-batch that they
fell into.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor, nn

from minillm.datasets.batch import Batch


@dataclass(frozen=True)
class Loss:
    """`total / count` is the loss; a batch with nothing to count has total 0 and count 0."""

    total: Tensor  # scalar, nats, differentiable
    count: Tensor  # scalar, long: targets that were counted
    metrics: Mapping[str, tuple[Tensor, Tensor]] = field(
        default_factory=dict
    )  # name -> (sum, count) of what else is worth a look


def mean_metrics(losses: Sequence[Loss]) -> dict[str, float]:
    """The metrics of all parts of a batch together: each sum over its own count, 0 where nothing was counted."""
    means = {}
    for name in losses[0].metrics:
        sums, counts = zip(*(loss.metrics[name] for loss in losses), strict=True)
        means[name] = float(sum(sums)) / max(int(sum(counts)), 1)
    return means


Objective = Callable[[nn.Module, Batch], Loss]
