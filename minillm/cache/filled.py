"""A cache that starts filled: its views begin with the keys and values of virtual tokens, which all rows share.

The first token of a text after P virtual tokens has position P. A filled cache wraps another cache, which stores only
the tokens of the text, counted from 0, and evicts, pages or rounds them as usual. So virtual tokens work with every
cache, are stored once for any number of rows, and are never evicted. Li and Liang 2021 call them a prefix. Read before:
`kv_cache`.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from minillm.cache.kv_cache import KVCache, KVView, Positions, Rotate, Weigh


class FilledCache:
    """The cache `rest` of one layer, behind P virtual tokens. Positions outside count them, those of `rest` do not."""

    def __init__(self, rest: KVCache, k: Tensor, v: Tensor):
        """k, v: (1, G, P, K), the keys rotated to positions 0 ... P - 1."""
        self.rest, self.k, self.v = rest, k, v
        self.span, self.exact, self.truncates = rest.span, rest.exact, rest.truncates

    def extend(self, k: Tensor, v: Tensor, positions: Positions, rotate: Rotate) -> KVView:
        """See `KVCache.extend`. Copies the keys and values of the text, to put them behind the virtual ones."""
        P, B = self.k.shape[2], len(k)
        own = Positions(later(positions.ids, -P), positions.dense)
        view = self.rest.extend(k, v, own, lambda x, places: rotate(x, later(places, P)))
        first = torch.arange(P, device=k.device).expand(*view.positions.shape[:2], P)
        return KVView(
            torch.cat([self.k.to(view.k.dtype).expand(B, -1, -1, -1), view.k], dim=2),
            torch.cat([self.v.to(view.v.dtype).expand(B, -1, -1, -1), view.v], dim=2),
            torch.cat([first, later(view.positions, P)], dim=2),
            view.dense,
            self._seen_by(view.observe),
        )

    def _seen_by(self, observe: Callable[[Weigh, Tensor, Tensor], None]) -> Callable[[Weigh, Tensor, Tensor], None]:
        """Pass the queries on to the observer of `rest`, which gets the weights of its own slots."""
        P = self.k.shape[2]

        def told(weigh: Weigh, q: Tensor, positions: Tensor) -> None:
            observe(lambda q, places: weigh(q, later(places, P))[..., P:], q, later(positions, -P))

        return told

    def reorder(self, rows: Tensor, since: int = 0) -> None:
        """See `KVCache.reorder`."""
        self.rest.reorder(rows, since)

    def truncate(self, lengths: Tensor) -> None:
        """See `KVCache.truncate`. The lengths are those of the text, without virtual tokens."""
        self.rest.truncate(lengths)

    def nbytes(self) -> int:
        """See `KVCache.nbytes`. Includes the virtual tokens."""
        return self.k.nbytes + self.v.nbytes + self.rest.nbytes()


def later(positions: Tensor, n: int) -> Tensor:
    """Positions moved by n; EMPTY stays EMPTY."""
    return positions.where(positions < 0, positions + n)
