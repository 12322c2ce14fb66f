"""A KV cache that never moves: for CUDA graphs, which write again and again where they wrote while they were recorded.

Slot i of a row holds position i. The room for all positions is there from the beginning, queries look at every slot of it, and positions
say which are filled; so nothing that is done depends on how much was read, and nothing has to be asked of the device. Read `contiguous`
before, and `decoding/captured.py` for what it is good for.
"""

import torch
from torch import Tensor

from minillm.cache.base import EMPTY, KVView, Rotate


class FixedCache:
    """One layer's keys (rotated on the way in) and values: (B, G, capacity + 1, K). EMPTY tokens go to the last slot, which stays EMPTY."""

    span = None
    exact = True

    def __init__(self, capacity: int):
        """`capacity`: positions that there will ever be."""
        self.capacity = capacity
        self.k = self.v = self.positions = torch.empty(0)

    def extend(self, k: Tensor, v: Tensor, positions: Tensor, dense: bool, rotate: Rotate) -> KVView:
        """See `KVCache.extend`. Costs one write of the new tokens; the view copies nothing."""
        if self.k.dim() != 4:
            B, G, _, K = k.shape  # zeros, because what nobody may see is still multiplied by a weight of 0
            self.k, self.v = k.new_zeros(B, G, self.capacity + 1, K), v.new_zeros(B, G, self.capacity + 1, K)
            self.positions = torch.full((B, self.capacity + 1), EMPTY, device=k.device)
        positions = positions.expand(len(k), -1)
        slots = positions.where(positions >= 0, self.capacity)  # (B, T)
        each = slots[:, None, :, None].expand(k.shape)
        self.k.scatter_(2, each, rotate(k, positions))
        self.v.scatter_(2, each, v)
        self.positions.scatter_(1, slots, positions)
        return KVView(self.k, self.v, self.positions[:, None], False)

    def reorder(self, rows: Tensor, since: int = 0) -> None:
        """See `KVCache.reorder`. The memory stays where it is as long as there are as many rows."""
        if self.k.dim() != 4:
            return
        moved = [x.index_select(0, rows) for x in (self.k, self.v, self.positions)]
        if len(rows) == len(self.k):
            for x, new in zip((self.k, self.v, self.positions), moved, strict=True):
                x.copy_(new)
        else:
            self.k, self.v, self.positions = moved

    def truncate(self, lengths: Tensor) -> None:
        """See `KVCache.truncate`. Nothing to do: no query looks beyond its own position, and what stands there is overwritten by then."""

    def nbytes(self) -> int:
        """Bytes of the buffers, in use or not."""
        return sum(x.numel() * x.element_size() for x in (self.k, self.v, self.positions))
