"""StreamingLLM: keep the first few tokens (attention sinks) and the last many; generate without end (Xiao et al. 2024).

    held = the first `sinks` tokens and the last `budget - sinks`;    position of a held token = its index among them

Softmax weights sum to 1, and trained models put the weight that they do not need on the first tokens. A plain window
forgets those, and every distribution collapses; keeping four of them prevents it. The cache renumbers positions: keys
are stored unrotated and rotated when they are read, so no distance exceeds the budget, and a model reads beyond its
context at constant memory. Tokens outside the window are forgotten. A read attends to all tokens held before it and to
itself. Read before: `slots`.
"""

from copy import copy

import torch
from torch import Tensor

from minillm.cache.kv_cache import KVView, Positions, Rotate
from minillm.cache.slots import Slots, rank
from minillm.constants import EMPTY


class StreamingCache:
    """One layer's sinks and recent tokens."""

    exact = False
    truncates = False

    def __init__(self, budget: int, sinks: int = 4):
        """`budget`: tokens held after every read, sinks included. Raises ValueError unless it exceeds `sinks`."""
        if budget <= sinks:
            raise ValueError(
                f"budget = {budget}: expected more than the {sinks} sinks, which are always kept; raise it"
            )
        self.budget, self.sinks, self.span = budget, sinks, budget
        self.slots = Slots()
        self.n_read = torch.zeros(0, dtype=torch.long)  # (B,)

    def extend(self, k: Tensor, v: Tensor, positions: Positions, rotate: Rotate) -> KVView:
        """See `KVCache.extend`."""
        if len(self.n_read) != len(k):
            self.n_read = positions.ids.new_zeros(len(k))
        slots = copy(self.slots)  # subtle: a copy, so that a failure of `rotate` below leaves the cache unchanged
        dense = slots.append(k, v, positions)
        filled = slots.positions[:, :1] >= 0
        places = torch.arange(filled.shape[2], device=k.device).where(filled, EMPTY)  # (B, 1, S)
        view = KVView(rotate(slots.k, places[:, 0]), slots.v, places, dense)
        self.slots, self.n_read = slots, self.n_read + (positions.ids >= 0).sum(1)
        if places.shape[2] > self.budget:
            priority = places.masked_fill((places >= 0) & (places < self.sinks), places.shape[2])
            self.slots.drop(rank(priority) >= self.budget, self.budget)
        return view

    def reorder(self, rows: Tensor, since: int = 0) -> None:
        """See `KVCache.reorder`."""
        self.slots.reorder(rows)
        if len(self.n_read):
            self.n_read = self.n_read[rows]

    def truncate(self, lengths: Tensor) -> None:
        """See `KVCache.truncate`. Possible to 0, or while no token has left the window."""
        if not len(self.n_read):
            return
        if bool(((self.n_read > self.budget) & (lengths > 0) & (lengths < self.n_read)).any()):
            raise ValueError(
                f"lengths = {lengths.tolist()}: expected the tokens read, {self.n_read.tolist()}, or 0, since a row "
                f"longer than budget = {self.budget} has lost the tokens that would return to the window; "
                "raise the budget"
            )
        places = torch.arange(self.slots.positions.shape[2], device=lengths.device)
        gone = (places >= lengths[:, None]) & (lengths < self.n_read)[:, None]
        self.slots.drop((self.slots.positions < 0) | gone[:, None])
        self.n_read = lengths.clone()

    def nbytes(self) -> int:
        """See `KVCache.nbytes`."""
        return self.slots.nbytes() + self.n_read.nbytes
