"""Padding: texts of different lengths as one tensor, filled up with EMPTY.

No model reads EMPTY, so padding does not change the output. Prompts are padded on the left, so they all end in the same
column, where the next token is predicted. Texts that grow at different rates are padded on the right.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from minillm.constants import EMPTY


def pad_right(rows: Sequence[Sequence[int]], room: int = 0) -> Tensor:
    """Rows that begin in the same column, with `room` columns after the longest, (B, width + room).

    >>> pad_right([[5, 6, 7], [8]], room=1)
    tensor([[ 5,  6,  7, -1],
            [ 8, -1, -1, -1]])
    """
    padded = torch.full((len(rows), max(map(len, rows)) + room), EMPTY)
    for filled, row in zip(padded, rows, strict=True):
        filled[: len(row)] = torch.tensor(row)
    return padded


def pad_left(rows: Sequence[Sequence[int]], room: int = 0) -> tuple[Tensor, int]:
    """Rows that end in the same column, with `room` columns after it, (B, width + room); and that width.

    >>> pad_left([[5, 6, 7], [8]], room=1)[0]
    tensor([[ 5,  6,  7, -1],
            [-1, -1,  8, -1]])
    """
    width = max(map(len, rows))
    padded = torch.full((len(rows), width + room), EMPTY)
    for filled, row in zip(padded, rows, strict=True):
        filled[width - len(row) : width] = torch.tensor(row)
    return padded, width
