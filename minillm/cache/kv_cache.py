"""The contract between attention and what it remembers.

Attention hands every layer's fresh keys and values to a cache and looks at whatever view comes back. A view carries the
position of each of its slots, so one mask rule (`layers/masks.py`) serves plain, padded, windowed, paged and evicted memory.
The cache also decides when keys are rotated (RoPE): most rotate on the way in; one that renumbers positions rotates on the way out.
"""

from collections.abc import Callable
from typing import NamedTuple, Protocol

from torch import Tensor

Rotate = Callable[[Tensor, Tensor], Tensor]  # (x (B, G, T, K), positions (B, T)) -> x turned to those positions
Weigh = Callable[
    [Tensor, Tensor], Tensor
]  # (queries (B, H, T, K), their positions (B or 1, T)) -> their weights (B, H, T, S)


def nobody(weigh: Weigh, q: Tensor, positions: Tensor) -> None:
    """Who watches the queries of most caches."""


class Positions(NamedTuple):
    """Where the tokens that a model reads stand in their rows."""

    ids: Tensor  # (B or 1, T) long; EMPTY where no token stands
    dense: bool  # no position is EMPTY, and every row goes on where it stopped


class KVView(NamedTuple):
    """What a query may look at."""

    k: Tensor  # (B, G, S, K)
    v: Tensor  # (B, G, S, K)
    positions: Tensor  # (B or 1, G or 1, S); EMPTY marks a slot that nobody may see
    # slot i of every row holds position i, and the columns just read, none of them EMPTY, are the last: the causal mask follows from shapes
    dense: bool
    observe: Callable[[Weigh, Tensor, Tensor], None] = nobody  # is told the queries, and may ask where they look


class KVCache(Protocol):
    """One layer's memory of keys and values."""

    # positions that it has for the tokens it remembers, if these are counted inside of the cache: texts may be endless then, and the
    # next token always stands at min(tokens read, span). None: a token's position is its place in the text.
    span: int | None
    exact: bool  # whether it keeps all tokens, as they were
    truncates: bool  # whether `truncate` can take back any of the last 32 tokens of each row, whatever was read

    def extend(self, k: Tensor, v: Tensor, positions: Positions, rotate: Rotate) -> KVView:
        """Remember k, v (B, G, T, K) of the tokens at `positions` (B or 1, T) and return all that may be looked at."""
        ...

    def reorder(self, rows: Tensor, since: int = 0) -> None:
        """Row i becomes what row `rows[i]` was; the batch may shrink or grow. rows: (B',) long. `since`: see `State.reorder`."""
        ...

    def truncate(self, lengths: Tensor) -> None:
        """Forget every slot whose position is at or beyond its row's length. lengths: (B,) long.

        Raises ValueError, and changes nothing, where what the shorter text would have left behind is gone.
        """
        ...

    def nbytes(self) -> int:
        """Bytes that are really held."""
        ...


class NoCache:
    """Remembers nothing: a view of the text at hand only, as in training."""

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


NO_CACHE = NoCache()  # it holds nothing, so one will do for everybody
