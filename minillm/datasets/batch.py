"""A batch: what the model reads and what it should have said.

`targets` are aligned with `tokens`: targets[b, t] is what should follow tokens[b, : t + 1]. The shift by one happens once,
where batches are made, and nowhere else.
"""

from typing import NamedTuple

from torch import Tensor

IGNORE = -100  # a target that is not counted


class Batch(NamedTuple):
    """Both (B, T) long; EMPTY (-1) among the tokens marks padding, IGNORE among the targets what is not counted."""

    tokens: Tensor
    targets: Tensor
