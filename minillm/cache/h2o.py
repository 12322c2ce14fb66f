"""H2O, heavy-hitter oracle: keep the tokens with the most attention so far, and the last ones (Zhang et al. 2023).

    score(slot) = sum of the weights from all queries so far;    keep the last budget / 2, and the best of the others

Attention weights are uneven, and a slot that received much attention tends to receive more. Each group of heads evicts
independently. A token without attention so far scores low and is evicted, so a later question cannot use it. Sums favor
early tokens. Positions remain those of the text, so the model's context limits the length of a text. A read attends to
all tokens held before it and to itself. Read before: `slots`.
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
        """`budget`: tokens held after every read, half of them the last ones. Raises ValueError below 2."""
        if budget < 2:
            raise ValueError(
                f"budget = {budget}: expected at least 2 tokens, a recent one and a heavy hitter; raise it"
            )
        self.budget, self.recent = budget, budget // 2
        self.slots, self.whole = Slots(), True  # whole: no token was forgotten
        self.scores = torch.empty(0)  # (B, G, S), float32 at least

    def extend(self, k: Tensor, v: Tensor, positions: Positions, rotate: Rotate) -> KVView:
        """See `KVCache.extend`."""
        if self.scores.dim() != 3:
            self.scores = k.new_zeros(*k.shape[:2], 0, dtype=torch.promote_types(k.dtype, torch.float32))
        dense = self.slots.append(rotate(k, positions.ids), v, positions)
        # subtle: a row's EMPTY slots are last, so its scores remain aligned with its tokens
        self.scores = pad(self.scores, (0, self.slots.positions.shape[2] - self.scores.shape[2]))
        return KVView(self.slots.k, self.slots.v, self.slots.positions, self.whole and dense, self._observe)

    def _observe(self, weigh: Weigh, q: Tensor, positions: Tensor) -> None:
        """Add the attention weights of the new queries to the scores, and evict down to the budget."""
        held = self.slots.positions
        weights = weigh(q, positions).to(self.scores.dtype)
        self.scores = self.scores + reduce(weights, "B (G h) T S -> B G S", "sum", G=held.shape[1])
        if held.shape[2] <= self.budget:
            return
        recent = held >= (self.slots.ends() - self.recent)[:, None, None]
        priority = self.scores.masked_fill(recent, torch.inf).masked_fill(held < 0, -1.0)
        self._drop(rank(priority) >= self.budget, self.budget)
        self.whole = False

    def _drop(self, gone: Tensor, width: int | None = None) -> None:
        kept = self.scores.gather(2, self.slots.drop(gone, width))
        self.scores = kept.masked_fill(self.slots.positions < 0, 0.0)  # a new token starts from 0

    def reorder(self, rows: Tensor, since: int = 0) -> None:
        """See `KVCache.reorder`."""
        self.slots.reorder(rows)
        if self.scores.dim() == 3:
            self.scores = self.scores[rows]

    def truncate(self, lengths: Tensor) -> None:
        """See `KVCache.truncate`. Possible to 0 only: the sums do not show the share of a single query."""
        if self.scores.dim() != 3:
            return
        n_read = self.slots.ends()
        if bool(((lengths > 0) & (lengths < n_read)).any()):
            raise ValueError(
                f"lengths = {lengths.tolist()}: expected the tokens read, {n_read.tolist()}, or 0, since the weights "
                "of single queries cannot be taken out of the sums that rank the tokens; take another cache"
            )
        self._drop((self.slots.positions < 0) | (lengths < n_read)[:, None, None])
        self.whole = self.whole or not self.slots.positions.shape[2]

    def nbytes(self) -> int:
        """See `KVCache.nbytes`. Includes the scores."""
        return self.slots.nbytes() + self.scores.nbytes
