"""N-gram look-ups in whole texts: the preceding tokens are found by a shift.

The plain version searches all slots of a view for the token n places before. In a dense view slot i holds position i,
so this token is n slots before.

Gain: 2.26 times the speed of the search, with 256 tokens a row (`python -m benchmarks.kernels`).
"""

import torch.nn.functional as F
from torch import Tensor

from minillm.cache.kv_cache import KVCache, KVView, Positions
from minillm.layers.ngram_embedding import NONE, NgramEmbedding, token_before
from minillm.layers.positions import no_rotation


class FastNgramEmbedding(NgramEmbedding):
    """Twin of `NgramEmbedding`: tokens (B, T) at positions (B or 1, T) -> (B, T, D)."""

    def forward(self, tokens: Tensor, positions: Positions, cache: KVCache) -> Tensor:
        ids = tokens[:, None, :, None]  # (B, 1, T, 1)
        view = cache.extend(ids, ids, positions, no_rotation)
        before, two_before = (token_before_in_a_row(view, positions.ids, n) for n in (1, 2))
        pair = (tokens + 1) * (self.vocab_size + 1) + before + 1
        triple = pair * (self.vocab_size + 1) + two_before + 1
        return self.table(self._row(pair)) + self.table(self._row(triple))


def token_before_in_a_row(view: KVView, positions: Tensor, n: int) -> Tensor:
    """`token_before` by a shift: the token n places before each of `positions` (B or 1, T) in a view of ids: (B, T)."""
    if not view.dense:
        return token_before(view, positions, n)
    read = view.k[:, 0, :, 0]  # (B, S); the last T belong to `positions`
    return F.pad(read, (n, 0), value=NONE)[:, read.shape[1] - positions.shape[1] : read.shape[1]]
