"""A batch: input tokens, and the targets that a model should predict.

`targets` are aligned with `tokens`: targets[b, t] is the token that should follow tokens[b, : t + 1]. The shift by one
happens once, where batches are made (`windows`), and nowhere else.
"""

from collections.abc import Sequence
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

B = TypeVar("B", bound=tuple[Tensor, ...])  # a batch of any kind


class Batch(NamedTuple):
    """Tensors (B, T) of type long. EMPTY (-1) in tokens is padding; IGNORE (-100) in targets is not counted."""

    tokens: Tensor
    targets: Tensor


def moved(batch: B, device: torch.device) -> B:
    """Copy a batch to a device. A copy to CUDA starts from pinned memory and does not block the processor."""
    if device.type != "cuda":
        return type(batch)(*(part.to(device) for part in batch))
    return type(batch)(*(part if part.is_cuda else part.pin_memory().to(device, non_blocking=True) for part in batch))


def padded(rows: Sequence[np.ndarray], fill: int) -> Tensor:
    """Rows of different lengths as one tensor (B, longest) of type long, filled up on the right.

    >>> padded([np.array([5, 6]), np.array([7])], fill=-1)
    tensor([[ 5,  6],
            [ 7, -1]])
    """
    out = np.full((len(rows), max(map(len, rows))), fill, np.int64)
    for row, ids in zip(out, rows, strict=True):
        row[: len(ids)] = ids
    return torch.from_numpy(out)
