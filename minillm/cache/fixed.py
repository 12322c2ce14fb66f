"""A KV cache that never moves: for steps that were recorded once and write again and again where they wrote then.

Slot i of a row holds position i. The room for all positions is there from the beginning and queries look at every slot of it, whatever it
holds: what stands beyond a query's own position is not visible to it, and is overwritten before it is. So nothing that is done depends
on how much was read. Read `contiguous` before, and `speed/captured.py` for what it is good for.
"""

from functools import cache

import torch
from torch import Tensor

from minillm.cache.kv_cache import KVView, Positions, Rotate
from minillm.constants import EMPTY


class FixedCache:
    """One layer's keys and values, (B, G, capacity + 1, K), for causal attention; the last slot is for EMPTY tokens."""

    span = None
    exact = True
    truncates = True

    def __init__(self, capacity: int):
        """`capacity`: positions that there will ever be."""
        self.capacity = capacity
        self.k = self.v = torch.empty(0)

    def extend(self, k: Tensor, v: Tensor, positions: Positions, rotate: Rotate) -> KVView:
        """See `KVCache.extend`. Costs one write of the new tokens; the view copies nothing."""
        if self.k.dim() != 4:
            B, G, _, K = k.shape  # zeros, because what nobody may see is still multiplied by a weight of 0
            self.k, self.v = k.new_zeros(B, G, self.capacity + 1, K), v.new_zeros(B, G, self.capacity + 1, K)
        slots = positions.ids.where(positions.ids >= 0, self.capacity)[:, None, :, None].expand(k.shape)
        self.k.scatter_(2, slots, rotate(k, positions.ids))
        self.v.scatter_(2, slots, v)
        return KVView(self.k, self.v, _numbers(self.capacity, k.device), False)

    def reorder(self, rows: Tensor, since: int = 0) -> None:
        """See `KVCache.reorder`. The memory stays where it is as long as there are as many rows."""
        if self.k.dim() != 4:
            return
        k, v = self.k.index_select(0, rows), self.v.index_select(0, rows)
        if len(rows) == len(self.k):
            self.k.copy_(k)
            self.v.copy_(v)
        else:
            self.k, self.v = k, v

    def truncate(self, lengths: Tensor) -> None:
        """See `KVCache.truncate`. Nothing to do: what was read beyond is not visible any more."""

    def nbytes(self) -> int:
        """Bytes of the buffers, in use or not."""
        return self.k.nbytes + self.v.nbytes


@cache
def _numbers(capacity: int, device: torch.device) -> Tensor:
    """The positions of all slots, (1, 1, capacity + 1)."""
    with torch.inference_mode(False):
        return torch.cat([torch.arange(capacity), torch.tensor([EMPTY])])[None, None].to(device)
