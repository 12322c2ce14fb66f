"""The contiguous KV cache: one long buffer of keys and values, appended to, and doubled when it is full.

Without a cache, every new token would recompute the keys and values of all tokens before it. All rows share the
columns; where a row has no token in a column, its position there is EMPTY, and masks hide it. So positions alone
express ragged batches, padding on either side and removed tokens. Incremental decoding with cached keys and values:
Shazeer 2019. Read before: `kv_cache`.
"""

import torch
from torch import Tensor

from minillm.cache.kv_cache import KVView, Positions, Rotate
from minillm.constants import EMPTY


class ContiguousCache:
    """One layer's rotated keys and its values, (B, G, capacity, K); the first `n_slots` columns are in use."""

    span = None
    exact = True
    truncates = True

    def __init__(self, capacity: int = 64):
        """`capacity`: initial number of columns."""
        self.capacity = capacity
        self.n_slots = 0
        self.dense = True
        self.k = self.v = self.positions = torch.empty(0)

    def extend(self, k: Tensor, v: Tensor, positions: Positions, rotate: Rotate) -> KVView:
        """See `KVCache.extend`. Writes the new columns once; the view copies nothing."""
        end = self.n_slots + k.shape[2]
        self._reserve(k, end)
        self.dense = self.dense and positions.dense
        new = slice(self.n_slots, end)
        self.k[:, :, new], self.v[:, :, new], self.n_slots = rotate(k, positions.ids), v, end
        if not self.dense:
            self.positions[:, new] = positions.ids
        return KVView(self.k[:, :, :end], self.v[:, :, :end], self.positions[:, None, :end], self.dense)

    def reorder(self, rows: Tensor, since: int = 0) -> None:
        """See `KVCache.reorder`. Columns before `since` are equal already, so only later ones are copied."""
        if self.k.dim() != 4:
            return
        if since and len(rows) == len(self.k):
            changed = slice(since, self.n_slots)
            parts = [self.k[:, :, changed], self.v[:, :, changed]]
            for part in parts if self.dense else [*parts, self.positions[:, changed]]:
                part.copy_(part.index_select(0, rows))
        else:
            self.k, self.v, self.positions = (x.index_select(0, rows) for x in (self.k, self.v, self.positions))

    def truncate(self, lengths: Tensor) -> None:
        """See `KVCache.truncate`. Columns that no row uses become free."""
        if not self.n_slots:
            return
        used = self.positions[:, : self.n_slots]
        gone = used >= lengths[:, None]
        used.masked_fill_(gone, EMPTY)
        kept = (used >= 0).any(0).nonzero()
        self.n_slots = int(kept[-1]) + 1 if len(kept) else 0
        self.dense = self.n_slots == 0 or (self.dense and not bool((self.positions[:, : self.n_slots] < 0).any()))
        if self.dense:
            self._expect(self.n_slots)

    def nbytes(self) -> int:
        """Bytes of the buffers, in use or not."""
        return sum(x.numel() * x.element_size() for x in (self.k, self.v, self.positions))

    def _reserve(self, like: Tensor, n_slots: int) -> None:
        """Make room for `n_slots` columns, at least doubling, so that n tokens cost O(n) copies."""
        if self.k.dim() == 4 and n_slots <= self.k.shape[2]:
            return
        B, G, _, K = like.shape
        capacity = max(n_slots, self.capacity, 2 * self.k.shape[2] if self.k.dim() == 4 else 0)
        k, v = like.new_empty(B, G, capacity, K), like.new_empty(B, G, capacity, K)
        positions = torch.full((B, capacity), EMPTY, device=like.device)
        if self.n_slots:
            old = slice(0, self.n_slots)
            k[:, :, old], v[:, :, old], positions[:, old] = self.k[:, :, old], self.v[:, :, old], self.positions[:, old]
        self.k, self.v, self.positions = k, v, positions
        if self.dense:
            self._expect(self.n_slots)

    def _expect(self, first: int) -> None:
        """Precompute the positions of a dense text from column `first` on, so that `extend` need not write them."""
        self.positions[:, first:] = torch.arange(first, self.positions.shape[1], device=self.positions.device)
