"""N-gram embeddings: each token also adds a vector for the pair and one for the triple of tokens that end with it.

    x = embed(token) + table[hash(token before, token)] + table[hash(two before, before, token)]      Huang et al. 2025

A character model first has to learn which characters follow which, and for that attention must learn to look at the
neighbors. A table has this information from the first step on, at the cost of look-ups, without a matrix product. There
are more triples than rows, so several triples share a row; the rest of the model tells them apart. Earlier tokens are
kept as keys are: one more layer of the KV cache holds ids. Compare `python train.py --config gpt-shakespeare` with the
same and `--model.ngram_rows 0`.
"""

from torch import Tensor, nn

from minillm.cache.kv_cache import KVCache, KVView, Positions
from minillm.layers.positions import no_rotation

NONE = -1  # the token before the first


class NgramEmbedding(nn.Module):
    """tokens (B, T) at positions (B or 1, T) -> (B, T, D); its own cache holds the tokens read before."""

    n_caches = 1

    def __init__(self, n_rows: int, d_model: int, vocab_size: int):
        super().__init__()
        self.table, self.vocab_size = nn.Embedding(n_rows, d_model), vocab_size

    def forward(self, tokens: Tensor, positions: Positions, cache: KVCache) -> Tensor:
        ids = tokens[:, None, :, None]  # (B, 1, T, 1): one head with ids as keys and values
        view = cache.extend(ids, ids, positions, no_rotation)
        before, two_before = (token_before(view, positions.ids, n) for n in (1, 2))
        pair = (tokens + 1) * (self.vocab_size + 1) + before + 1  # a different number for each pair and each triple
        triple = pair * (self.vocab_size + 1) + two_before + 1
        return self.table(self._row(pair)) + self.table(self._row(triple))

    def _row(self, number: Tensor) -> Tensor:
        """Multiplicative hash (Knuth 1973): times a large odd number, with wrap-around, so neighbors spread out."""
        return number * 0x9E3779B97F4A7C1 % 0xFFFFFFFB % self.table.num_embeddings


class NoNgramEmbedding(nn.Module):
    """Adds nothing and needs no cache."""

    n_caches = 0

    def forward(self, tokens: Tensor, positions: Positions) -> float:
        return 0.0


def token_before(view: KVView, positions: Tensor, n: int) -> Tensor:
    """The token n places before each of `positions` (B or 1, T) in a view of ids: (B, T); NONE before the text."""
    read, places = view.k[:, 0, :, 0], view.positions[:, 0]  # (B, S) and (B or 1, S)
    found = (places[:, None] == positions[..., None] - n) & (places >= 0)[:, None]  # (B, T, S)
    return ((read - NONE)[:, None] * found).sum(-1) + NONE  # at most one slot is found
