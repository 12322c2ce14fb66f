"""A model without weights for tests of the engine: its only memory is the KV cache, and it is fast."""

import torch
from torch import Tensor

from minillm.cache.kv_cache import Positions
from minillm.constants import EMPTY
from minillm.models.cached_state import CachedState

V = 5


class Sums:
    """Next-token logits depend on all visible tokens and their positions, by a sum of integers, exact in float64."""

    context_length, vocab_size, training = 16, V, False
    start_options = frozenset({"cache"})
    table = torch.randn(1009, V, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 2

    def __init__(self):
        self.n_read = 0  # tokens read in all calls together

    def start(self, batch_size, cache):
        return CachedState(batch_size, [cache(), cache()], torch.device("cpu"), self.context_length, relative=True)

    def hidden(self, tokens: Tensor, state: CachedState):
        """(B, T) -> (B, T, 1), and the state; only the cache keeps anything."""
        filled = tokens >= 0
        self.n_read += int(filled.sum())
        positions = (state.lengths[:, None] + filled.cumsum(1) - 1).masked_fill(~filled, EMPTY)
        assert int(positions.max()) < self.context_length
        k, sums = (tokens + 1).double()[:, None, :, None].expand(-1, 1, -1, 2), 0
        for cache in state.caches:
            view = cache.extend(k, 3 * k, Positions(positions, bool(filled.all())), lambda x, _: x)
            slots = view.positions[:, :, None]
            seen = (slots >= 0) & (slots <= positions[:, None, :, None])  # (B, 1, T, S)
            places = (7 * view.positions**2 + 3 * view.positions + 5).double()
            sums = sums + torch.where(seen, (places * (view.k[..., 0] + view.v[..., 1]))[:, :, None], 0.0).sum(-1)[:, 0]
        return (sums % 1009)[..., None], state

    def head(self, x: Tensor) -> Tensor:
        return self.table[x[..., 0].long()]

    def logits_after(self, text: list[int]) -> Tensor:
        """The logits after one text, written out: (1, V)."""
        total = sum((7 * i * i + 3 * i + 5) * 4 * (token + 1) for i, token in enumerate(text))
        return self.table[2 * total % 1009][None]
