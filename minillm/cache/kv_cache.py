"""The contract between attention and its KV cache.

Attention passes the new keys and values of a layer to a cache and attends to the view that the cache returns. A view
has the position of each of its slots, so one mask rule (`layers/masks.py`) serves plain, padded, windowed, paged and
evicted memory. The cache also decides when keys are rotated (RoPE, Su et al. 2021): most caches store rotated keys; one
that renumbers positions rotates keys when it builds a view. Read after this: `contiguous`.
"""

from collections.abc import Callable
from typing import NamedTuple, Protocol

from torch import Tensor

Rotate = Callable[[Tensor, Tensor], Tensor]  # (x (B, G, T, K), positions (B, T)) -> x rotated to these positions
Weigh = Callable[[Tensor, Tensor], Tensor]  # (queries (B, H, T, K), positions (B or 1, T)) -> weights (B, H, T, S)


def no_observer(weigh: Weigh, q: Tensor, positions: Tensor) -> None:
    """Default observer of queries; does nothing."""


class Positions(NamedTuple):
    """The positions of one call's tokens in their rows."""

    ids: Tensor  # (B or 1, T) long; EMPTY for padding
    dense: bool  # no position is EMPTY, and every row continues at its own length


class KVView(NamedTuple):
    """The keys and values that queries may attend to."""

    k: Tensor  # (B, G, S, K)
    v: Tensor  # (B, G, S, K)
    positions: Tensor  # (B or 1, G or 1, S); EMPTY marks a hidden slot
    # slot i of every row holds position i, no slot is EMPTY, and the new tokens are last: shapes give the causal mask
    dense: bool
    observe: Callable[[Weigh, Tensor, Tensor], None] = no_observer  # called with the queries; can get their weights


class KVCache(Protocol):
    """One layer's memory of keys and values."""

    # number of positions, for a cache that renumbers them: texts may be endless then, and the next token has position
    # min(tokens read, span). None: a token's position is its place in the text.
    span: int | None
    exact: bool  # whether all tokens are kept, unchanged
    truncates: bool  # whether `truncate` can always remove the last 32 tokens of each row

    def extend(self, k: Tensor, v: Tensor, positions: Positions, rotate: Rotate) -> KVView:
        """Store k, v (B, G, T, K) of the tokens at `positions` (B or 1, T); return the view to attend to."""
        ...

    def reorder(self, rows: Tensor, since: int = 0) -> None:
        """Row i becomes a copy of row `rows[i]`, (B',) long; B' may differ from B. `since`: see `State.reorder`."""
        ...

    def truncate(self, lengths: Tensor) -> None:
        """Remove every token whose position is at or beyond its row's new length. lengths: (B,) long.

        Raises ValueError, and changes nothing, if tokens that the shorter text needs were evicted or rounded.
        """
        ...

    def nbytes(self) -> int:
        """Bytes of memory in use."""
        ...


class NoCache:
    """A cache that stores nothing: the view has the tokens of this call only, as in training."""

    span = None
    exact = True
    truncates = True

    def extend(self, k: Tensor, v: Tensor, positions: Positions, rotate: Rotate) -> KVView:
        return KVView(rotate(k, positions.ids), v, positions.ids[:, None], positions.dense)

    def reorder(self, rows: Tensor, since: int = 0) -> None:
        pass

    def truncate(self, lengths: Tensor) -> None:
        pass

    def nbytes(self) -> int:
        return 0


NO_CACHE = NoCache()  # stateless, so one instance serves all layers
