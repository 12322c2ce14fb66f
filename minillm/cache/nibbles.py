"""Two numbers of four bits in a byte: what rounded caches and rounded weights are held in."""

import torch
from torch import Tensor


def pack_nibbles(values: Tensor) -> Tensor:
    """Numbers 0 ... 15, (..., n) -> (..., n / 2) bytes, the first of each pair in the lower half."""
    values = values.to(torch.uint8)
    return values[..., ::2] | values[..., 1::2] << 4


def unpack_nibbles(packed: Tensor) -> Tensor:
    """The inverse of `pack_nibbles`."""
    return torch.stack([packed & 15, packed >> 4], dim=-1).flatten(-2)
