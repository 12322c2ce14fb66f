"""Loss: the value of an objective, as a sum and the number of its terms.

The mean is taken once, over the whole batch. A mean of the means of micro-batches would give a token a weight that
depends on its micro-batch.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor, nn

from minillm.datasets.batch import Batch


@dataclass(frozen=True)
class Loss:
    """`total / count` is the mean loss; a batch without counted targets has total 0 and count 0."""

    total: Tensor  # scalar, nats, differentiable
    count: Tensor  # scalar, long: number of counted targets
    metrics: Mapping[str, tuple[Tensor, Tensor]] = field(default_factory=dict)  # name -> (sum, count) of other figures


def mean_metrics(losses: Sequence[Loss]) -> dict[str, float]:
    """The metrics of a whole batch from those of its parts: each sum divided by its count; 0 if the count is 0."""
    means = {}
    for name in losses[0].metrics:
        sums, counts = zip(*(loss.metrics[name] for loss in losses), strict=True)
        means[name] = float(sum(sums)) / max(int(sum(counts)), 1)
    return means


Objective = Callable[[nn.Module, Batch], Loss]
