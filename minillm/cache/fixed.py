"""Static KV cache: buffers of fixed shape and address, for CUDA graphs, which replay the same memory writes.

Slot i of a row holds position i. The memory for all positions is allocated at the start, and queries attend to all
slots; the causal mask hides slots beyond a query's position, and they are overwritten before they become visible. So no
operation depends on how many tokens were read. Static caches: PyTorch's gpt-fast (2023). Read before: `contiguous`;
after: `speed/captured.py`.
"""

from functools import cache

import torch
from torch import Tensor

from minillm.cache.kv_cache import KVView, Positions, Rotate
from minillm.constants import EMPTY


class FixedCache:
    """One layer's keys and values, (B, G, capacity + 1, K), for causal attention; EMPTY tokens go to the last slot."""

    span = None
    exact = True
    truncates = True

    def __init__(self, capacity: int):
        """`capacity`: number of positions."""
        self.capacity = capacity
        self.k = self.v = torch.empty(0)

    def extend(self, k: Tensor, v: Tensor, positions: Positions, rotate: Rotate) -> KVView:
        """See `KVCache.extend`. Writes the new tokens once; the view copies nothing."""
        if self.k.dim() != 4:
            B, G, _, K = k.shape
            # zeros, because a hidden slot is still multiplied by a weight of 0, and 0 * nan is nan
            self.k, self.v = k.new_zeros(B, G, self.capacity + 1, K), v.new_zeros(B, G, self.capacity + 1, K)
        slots = positions.ids.where(positions.ids >= 0, self.capacity)[:, None, :, None].expand(k.shape)
        self.k.scatter_(2, slots, rotate(k, positions.ids))
        self.v.scatter_(2, slots, v)
        return KVView(self.k, self.v, _numbers(self.capacity, k.device), False)

    def reorder(self, rows: Tensor, since: int = 0) -> None:
        """See `KVCache.reorder`. The buffers stay in place while the number of rows does not change."""
        if self.k.dim() != 4:
            return
        k, v = self.k.index_select(0, rows), self.v.index_select(0, rows)
        if len(rows) == len(self.k):
            self.k.copy_(k)
            self.v.copy_(v)
        else:
            self.k, self.v = k, v

    def truncate(self, lengths: Tensor) -> None:
        """See `KVCache.truncate`. Does nothing: the causal mask hides later slots."""

    def nbytes(self) -> int:
        """Bytes of the buffers, in use or not."""
        return self.k.nbytes + self.v.nbytes


@cache
def _numbers(capacity: int, device: torch.device) -> Tensor:
    """Positions of all slots, (1, 1, capacity + 1)."""
    with torch.inference_mode(False):
        return torch.cat([torch.arange(capacity), torch.tensor([EMPTY])])[None, None].to(device)
