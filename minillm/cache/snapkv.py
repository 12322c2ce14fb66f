"""SnapKV: compress the prompt once, to the tokens that its last tokens attend to (Li et al. 2024).

    vote(slot) = sum of the weights from the prompt's last `window` queries;    pooled: max over `kernel` neighbors
    keep the last `window` tokens of the prompt and the best of the others, `budget` in all;    then every new token

A prompt usually ends with its question, and the answer needs the tokens that the question attends to. Pooling also
keeps the neighbors of a token with many votes, for context. Each group of heads chooses on its own. A later question
cannot use a token that was dropped. The first read of a row is its prompt, and attends to all of itself. Positions
remain those of the text. Read before: `slots`.
"""

from functools import partial

import torch
from einops import rearrange, reduce
from torch import Tensor
from torch.nn.functional import max_pool1d

from minillm.cache.kv_cache import KVView, Positions, Rotate, Weigh, no_observer
from minillm.cache.slots import Slots, rank


class SnapKVCache:
    """One layer's compressed prompt, and all tokens after it."""

    span = None
    exact = False
    truncates = False

    def __init__(self, budget: int, window: int = 8, kernel: int = 5):
        """`budget`: tokens kept of a prompt; `window`: its last tokens, which vote; `kernel`: width of pooling, odd.

        Raises ValueError for a budget that is not larger than the window.
        """
        if budget <= window:
            raise ValueError(
                f"budget = {budget}: expected more than the window = {window} that votes and is kept; raise it"
            )
        assert kernel % 2 == 1, "an odd kernel has equally many neighbors on both sides"
        self.budget, self.window, self.kernel = budget, window, kernel
        self.slots, self.whole = Slots(), True  # whole: no token was forgotten
        self.compressed = torch.zeros(0, dtype=torch.long)  # (B,) length of a compressed prompt, else 0

    def extend(self, k: Tensor, v: Tensor, positions: Positions, rotate: Rotate) -> KVView:
        """See `KVCache.extend`."""
        if len(self.compressed) != len(k):
            self.compressed = positions.ids.new_zeros(len(k))
        is_first = torch.ones_like(self.compressed, dtype=torch.bool)
        begins = self.slots.ends() == 0 if self.slots.k.dim() == 4 else is_first
        dense = self.slots.append(rotate(k, positions.ids), v, positions)
        too_long = begins & (self.slots.ends() > self.budget)  # (B,)
        observe = partial(self._vote, too_long) if k.shape[2] > self.budget and bool(too_long.any()) else no_observer
        return KVView(self.slots.k, self.slots.v, self.slots.positions, self.whole and dense, observe)

    def _vote(self, too_long: Tensor, weigh: Weigh, q: Tensor, positions: Tensor) -> None:
        """Compress the prompts of the marked rows, (B,) bool."""
        held, n_read = self.slots.positions, self.slots.ends()
        last = held >= (n_read - self.window)[:, None, None]
        voters, where = _last(self.window, q, positions.expand(len(q), -1))
        votes = reduce(weigh(voters, where), "B (G h) T S -> B G S", "sum", G=held.shape[1]).masked_fill(last, 0.0)
        pooled = max_pool1d(votes, self.kernel, stride=1, padding=self.kernel // 2)
        priority = pooled.masked_fill(last, torch.inf).masked_fill(held < 0, -1.0)
        self.compressed = n_read.where(too_long, self.compressed)
        self.slots.drop((held < 0) | ((rank(priority) >= self.budget) & too_long[:, None, None]))
        self.whole = False

    def reorder(self, rows: Tensor, since: int = 0) -> None:
        """See `KVCache.reorder`."""
        self.slots.reorder(rows)
        if len(self.compressed):
            self.compressed = self.compressed[rows]

    def truncate(self, lengths: Tensor) -> None:
        """See `KVCache.truncate`. Possible to 0 or beyond a compressed prompt, not into it."""
        if not len(self.compressed):
            return
        if bool(((lengths > 0) & (lengths < self.compressed)).any()):
            raise ValueError(
                f"lengths = {lengths.tolist()}: expected at least those of the compressed prompts, "
                f"{self.compressed.tolist()}, or 0, since only budget = {self.budget} tokens of a prompt are left; "
                "raise the budget"
            )
        self.slots.drop((self.slots.positions < 0) | (self.slots.positions >= lengths[:, None, None]))
        self.compressed = self.compressed.masked_fill(lengths == 0, 0)
        self.whole = self.whole or not self.slots.positions.shape[2]

    def nbytes(self) -> int:
        """See `KVCache.nbytes`."""
        return self.slots.nbytes() + self.compressed.nbytes


def _last(n: int, q: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
    """The last n queries of each row that are not EMPTY, and their positions: (B, H, n, K) and (B, n)."""
    chosen = positions.topk(min(n, positions.shape[1]), dim=1).indices  # (B, n)
    each = rearrange(chosen, "B n -> B 1 n 1").expand(-1, q.shape[1], -1, q.shape[3])
    return q.gather(2, each), positions.gather(1, chosen)
