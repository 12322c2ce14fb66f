"""Nibbles: two numbers of four bits in a byte, the storage of quantized caches and weights."""

import torch
from torch import Tensor


def pack_nibbles(values: Tensor) -> Tensor:
    """Pack numbers 0 ... 15: (..., n) -> (..., n / 2) uint8, the first of each pair in the lower half.

    >>> pack_nibbles(torch.tensor([1, 2, 15, 0])).tolist()
    [33, 15]
    """
    values = values.to(torch.uint8)
    return values[..., ::2] | values[..., 1::2] << 4


def unpack_nibbles(packed: Tensor) -> Tensor:
    """The inverse of `pack_nibbles`: (..., n) uint8 -> (..., 2 n).

    >>> unpack_nibbles(torch.tensor([33, 15], dtype=torch.uint8)).tolist()
    [1, 2, 15, 0]
    """
    return torch.stack([packed & 15, packed >> 4], dim=-1).flatten(-2)
