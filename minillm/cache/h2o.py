"""Heavy hitters: remember the tokens that were looked at most, and the last ones (Zhang et al. 2023).

    score(slot) = sum of the weights that queries so far gave it;    keep the last budget / 2, and the best scores of the others

Attention weights are uneven, and a slot that was looked at much will be again. Each group of heads forgets on its own. What nobody
has asked about yet scores low and is forgotten, and then no question brings it back; and a sum favours tokens that were there early.
Positions stay those of the text, so a text ends where the model's context does. A read sees all that was held before it and itself.
Read `slots` before.
"""

import torch
from einops import reduce
from torch import Tensor
from torch.nn.functional import pad

from minillm.cache.kv_cache import KVView, Positions, Rotate, Weigh
from minillm.cache.slots import Slots, rank


class H2OCache:
    """One layer's recent tokens and heavy hitters."""

    span = None
    exact = False
    truncates = False

    def __init__(self, budget: int):
        """`budget`: tokens held after every read, half of them the last ones."""
        if budget < 2:
            raise ValueError(
                f"budget = {budget}: expected 2 tokens at least, a recent one and a heavy hitter; raise it"
            )
        self.budget, self.recent = budget, budget // 2
        self.slots, self.whole = Slots(), True  # whole: nothing was forgotten
        self.scores = torch.empty(0)  # (B, G, S), float32 at least

    def extend(self, k: Tensor, v: Tensor, positions: Positions, rotate: Rotate) -> KVView:
        """See `KVCache.extend`."""
        if self.scores.dim() != 3:
            self.scores = k.new_zeros(*k.shape[:2], 0, dtype=torch.promote_types(k.dtype, torch.float32))
        dense = self.slots.append(rotate(k, positions.ids), v, positions)
        # subtle: a row's EMPTY slots stand last, so its scores still stand beside its tokens
        self.scores = pad(self.scores, (0, self.slots.positions.shape[2] - self.scores.shape[2]))
        return KVView(self.slots.k, self.slots.v, self.slots.positions, self.whole and dense, self._observe)

    def _observe(self, weigh: Weigh, q: Tensor, positions: Tensor) -> None:
        """Add up who was looked at, and forget down to the budget."""
        held = self.slots.positions
        self.scores = self.scores + reduce(
            weigh(q, positions).to(self.scores.dtype), "B (G h) T S -> B G S", "sum", G=held.shape[1]
        )
        if held.shape[2] <= self.budget:
            return
        recent = held >= (self.slots.ends() - self.recent)[:, None, None]
        priority = self.scores.masked_fill(recent, torch.inf).masked_fill(held < 0, -1.0)
        self._drop(rank(priority) >= self.budget, self.budget)
        self.whole = False

    def _drop(self, gone: Tensor, width: int | None = None) -> None:
        kept = self.scores.gather(2, self.slots.drop(gone, width))
        self.scores = kept.masked_fill(self.slots.positions < 0, 0.0)  # a token that comes there begins with nothing

    def reorder(self, rows: Tensor, since: int = 0) -> None:
        """See `KVCache.reorder`."""
        self.slots.reorder(rows)
        if self.scores.dim() == 3:
            self.scores = self.scores[rows]

    def truncate(self, lengths: Tensor) -> None:
        """See `KVCache.truncate`. Impossible but to nothing: what a query added to the sums is not known any more."""
        if self.scores.dim() != 3:
            return
        n_read = self.slots.ends()
        if bool(((lengths > 0) & (lengths < n_read)).any()):
            raise ValueError(
                f"lengths = {lengths.tolist()}: expected the tokens read, {n_read.tolist()}, or 0, since the weights of single "
                "queries cannot be taken out of the sums that heavy hitters are told by; take another cache"
            )
        self._drop((self.slots.positions < 0) | (lengths < n_read)[:, None, None])
        self.whole = self.whole or not self.slots.positions.shape[2]

    def nbytes(self) -> int:
        """See `KVCache.nbytes`. The scores are counted too."""
        return self.slots.nbytes() + self.scores.nbytes
