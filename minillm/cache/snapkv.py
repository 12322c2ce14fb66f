"""The prompt, compressed once: its last tokens say which of the others will be needed (Li et al. 2024).

    vote(slot) = sum of the weights that the prompt's last `window` queries gave it;    votes pooled: max over `kernel` neighbours
    keep the last `window` tokens of the prompt, and the best votes of the others, `budget` together;    then keep all that is written

A prompt ends with its question, and what the question looks at, the answer will. Pooling keeps the neighbours of a winner, without
which it would make no sense. Each group of heads chooses on its own. Later questions find what an earlier one had no use for gone.
The prompt of a row is its first read, which sees all of itself. Positions stay those of the text. Read `slots` before.
"""

from functools import partial

import torch
from einops import rearrange, reduce
from torch import Tensor
from torch.nn.functional import max_pool1d

from minillm.cache.kv_cache import KVView, Positions, Rotate, Weigh, nobody
from minillm.cache.slots import Slots, rank


class SnapKVCache:
    """One layer's compressed prompt and all that came after."""

    span = None
    exact = False
    truncates = False

    def __init__(self, budget: int, window: int = 8, kernel: int = 5):
        """`budget`: tokens kept of a prompt; `window`: the last ones, which vote and are kept; `kernel`: width of the pooling, odd."""
        if budget <= window:
            raise ValueError(
                f"budget = {budget}: expected more than the window = {window} that votes and is kept; raise it"
            )
        assert kernel % 2 == 1, "neighbours on either side"
        self.budget, self.window, self.kernel = budget, window, kernel
        self.slots, self.whole = Slots(), True  # whole: nothing was forgotten
        self.compressed = torch.zeros(0, dtype=torch.long)  # (B,) length of the prompt where it was compressed, else 0

    def extend(self, k: Tensor, v: Tensor, positions: Positions, rotate: Rotate) -> KVView:
        """See `KVCache.extend`."""
        if len(self.compressed) != len(k):
            self.compressed = positions.ids.new_zeros(len(k))
        begins = (
            self.slots.ends() == 0 if self.slots.k.dim() == 4 else torch.ones_like(self.compressed, dtype=torch.bool)
        )
        dense = self.slots.append(rotate(k, positions.ids), v, positions)
        too_long = begins & (self.slots.ends() > self.budget)  # (B,)
        observe = partial(self._vote, too_long) if k.shape[2] > self.budget and bool(too_long.any()) else nobody
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
        """See `KVCache.truncate`. Impossible into a compressed prompt, but to nothing."""
        if not len(self.compressed):
            return
        if bool(((lengths > 0) & (lengths < self.compressed)).any()):
            raise ValueError(
                f"lengths = {lengths.tolist()}: expected at least those of the compressed prompts, {self.compressed.tolist()}, or 0, since "
                f"of what stands before only budget = {self.budget} tokens are left; raise the budget"
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
