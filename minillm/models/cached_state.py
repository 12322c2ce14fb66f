"""The state of every model that attends: how much each row has read, and one KV cache a layer.

All of it is in the caches but the lengths, so that rows are reordered and tokens are taken back layer by layer. Read `base` and
`cache/base.py` before this.
"""

import torch
from torch import Tensor

from minillm.cache.base import KVCache


class CachedState:
    """See `State` in `base`."""

    def __init__(self, batch_size: int, caches: list[KVCache], device: torch.device):
        self.lengths = torch.zeros(batch_size, dtype=torch.long, device=device)
        self.caches = caches

    def reorder(self, rows: Tensor) -> None:
        """See `State.reorder`."""
        self.lengths = self.lengths[rows]
        for cache in self.caches:
            cache.reorder(rows)

    def truncate(self, lengths: Tensor) -> None:
        """See `State.truncate`."""
        if bool((lengths > self.lengths).any()):
            raise ValueError(f"lengths = {lengths.tolist()}: expected at most the tokens read, {self.lengths.tolist()}")
        self.lengths = lengths.clone()
        for cache in self.caches:
            cache.truncate(lengths)

    def nbytes(self) -> int:
        """See `State.nbytes`."""
        return sum(cache.nbytes() for cache in self.caches)
