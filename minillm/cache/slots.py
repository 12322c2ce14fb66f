"""Slots: storage for caches that evict; each row and each group of heads may drop any of its tokens.

An eviction policy is a priority: `rank` orders the slots, and `drop` removes those whose rank is not below the budget.
The other tokens are packed in the order of the text. So a row is stored in the same way alone and in any batch, and a
batch is only as wide as its longest row. Read before: `kv_cache`; after: the policies `streaming` (Xiao et al. 2024),
`h2o` (Zhang et al. 2023) and `snapkv` (Li et al. 2024).
"""

import torch
from torch import Tensor

from minillm.cache.kv_cache import Positions
from minillm.constants import EMPTY


class Slots:
    """k, v (B, G, S, K) and positions (B, G, S) of the tokens of each row and group, oldest first, EMPTY slots last."""

    def __init__(self) -> None:
        self.k = self.v = torch.empty(0)
        self.positions = torch.empty(0, dtype=torch.long)
        self.full = True  # no slot is EMPTY

    def append(self, k: Tensor, v: Tensor, positions: Positions) -> bool:
        """Append k, v (B, G, T, K) at `positions` (B or 1, T).

        Returns whether the new tokens are the last T slots of every row and no slot is EMPTY, as in rows of equal
        length.
        """
        B, G, T, _ = k.shape
        if self.k.dim() != 4:
            self.k, self.v, self.positions = k[:, :, :0], v[:, :, :0], positions.ids.new_empty(B, G, 0)
        self.k, self.v = torch.cat([self.k, k], dim=2), torch.cat([self.v, v], dim=2)
        self.positions = torch.cat([self.positions, positions.ids[:, None].expand(B, G, T)], dim=2)
        self.full = self.full and positions.dense
        if not self.full:
            self.drop(self.positions < 0)
        return positions.dense and self.full

    def drop(self, gone: Tensor, width: int | None = None) -> Tensor:
        """Remove the slots marked in `gone` (B, G or 1, S), and keep `width` columns, or as many as needed.

        Give `width` only if every row and group that had more slots keeps exactly `width`.

        Returns the former slot of each column, (B, G, S'), to rearrange tensors that are aligned with the slots.
        """
        positions = self.positions.masked_fill(gone, EMPTY)
        if width is None:
            counts = (positions >= 0).sum(-1)
            width, least = map(int, counts.aminmax()[::-1]) if positions.numel() else (0, 0)
            self.full = least == width
        came_from = (positions < 0).to(torch.uint8).argsort(dim=-1, stable=True)[..., :width]
        self.positions = positions.gather(2, came_from)
        each = came_from[..., None].expand(-1, -1, -1, self.k.shape[-1])
        self.k, self.v = self.k.gather(2, each), self.v.gather(2, each)
        return came_from

    def reorder(self, rows: Tensor) -> None:
        """See `KVCache.reorder`."""
        if self.k.dim() == 4:
            self.k, self.v, self.positions = (x.index_select(0, rows) for x in (self.k, self.v, self.positions))

    def ends(self) -> Tensor:
        """The position after each row's last token, (B,); 0 for an empty row."""
        last = self.positions[:, 0]
        return last.amax(-1) + 1 if last.shape[-1] else last.new_zeros(len(last))

    def nbytes(self) -> int:
        """Bytes of memory in use."""
        return self.k.nbytes + self.v.nbytes + self.positions.nbytes


def rank(priority: Tensor) -> Tensor:
    """Rank of each slot, (B, G, S): its place in order of falling priority, from 0; of equal ones, the older is first.

    >>> rank(torch.tensor([0.5, 0.9, 0.5, 0.1])).tolist()
    [1, 0, 2, 3]
    """
    return priority.argsort(dim=-1, descending=True, stable=True).argsort(dim=-1)
