"""A batch: what the model reads and what it should have said.

`targets` are aligned with `tokens`: targets[b, t] is what should follow tokens[b, : t + 1]. The shift by one happens once,
where batches are made, and nowhere else.
"""

from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

B = TypeVar("B", bound=tuple[Tensor, ...])  # a batch of any kind


class Batch(NamedTuple):
    """Both (B, T) long; EMPTY (-1) among the tokens marks padding, IGNORE among the targets what is not counted."""

    tokens: Tensor
    targets: Tensor


def moved(batch: B, device: torch.device) -> B:
    """The batch on a device. A CUDA device fetches it from pinned memory by itself, while the processor goes on."""
    if device.type != "cuda":
        return type(batch)(*(part.to(device) for part in batch))
    return type(batch)(*(part if part.is_cuda else part.pin_memory().to(device, non_blocking=True) for part in batch))
