"""N-gram embeddings: every token also brings the vectors of the pair and of the triple of tokens that end with it.

    x = embed(token) + table[hash(token before, token)] + table[hash(two before, before, token)]      Huang et al. 2025

The first thing that a model of characters has to learn is which characters follow which, and attention must be trained
to look at the neighbors for it. A table knows from the first step on. It costs look-ups and no matrix product. There
are more triples than rows; those that meet in a row are told apart by all else that the model knows. The tokens before
are remembered like keys: one more layer of the KV cache holds ids. Compare `python train.py --config gpt-shakespeare`
with the same and `--model.ngram_rows 0`.
"""

from torch import Tensor, nn

from minillm.cache.kv_cache import KVCache, KVView, Positions
from minillm.layers.positions import no_rotation

NONE = -1  # the token before the first


class NgramEmbedding(nn.Module):
    """tokens (B, T) at positions (B or 1, T) -> (B, T, D); a cache of its own says what was read before."""

    n_caches = 1

    def __init__(self, n_rows: int, d_model: int, vocab_size: int):
        super().__init__()
        self.table, self.vocab_size = nn.Embedding(n_rows, d_model), vocab_size

    def forward(self, tokens: Tensor, positions: Positions, cache: KVCache) -> Tensor:
        ids = tokens[:, None, :, None]  # (B, 1, T, 1): one head, whose keys and values are ids
        view = cache.extend(ids, ids, positions, no_rotation)
        before, two_before = (token_before(view, positions.ids, n) for n in (1, 2))
        pair = (tokens + 1) * (self.vocab_size + 1) + before + 1  # another number for every pair, and for every triple
        triple = pair * (self.vocab_size + 1) + two_before + 1
        return self.table(self._row(pair)) + self.table(self._row(triple))

    def _row(self, number: Tensor) -> Tensor:
        """Multiplied by a large odd number, which may wrap around, neighbors land far from each other (Knuth 1973)."""
        return number * 0x9E3779B97F4A7C1 % 0xFFFFFFFB % self.table.num_embeddings


class NoNgramEmbedding(nn.Module):
    """Adds nothing and remembers nothing."""

    n_caches = 0

    def forward(self, tokens: Tensor, positions: Positions) -> float:
        return 0.0


def token_before(view: KVView, positions: Tensor, n: int) -> Tensor:
    """The token n places before each of `positions` (B or 1, T), of a view of ids: (B, T), NONE where the text had not begun."""
    read, places = view.k[:, 0, :, 0], view.positions[:, 0]  # (B, S) and (B or 1, S)
    found = (places[:, None] == positions[..., None] - n) & (places >= 0)[:, None]  # (B, T, S)
    return ((read - NONE)[:, None] * found).sum(-1) + NONE  # one slot at most is found
