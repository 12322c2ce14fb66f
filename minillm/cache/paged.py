"""The paged KV cache: memory in pages of a few tokens, and a table for each row that says which pages are its own.

A row of contiguous memory must be as long as the text may ever become, and most of it stays empty. Here a row takes a page when
it has filled its last one, so it wastes less than one page: token i stands in page table[i // page_size], at place i % page_size.
Rows may share pages: a copy of a row is a copy of its table, and whoever writes into a shared page copies that page first. Pages
know how many rows use them; without users they are free. PagedAttention (Kwon et al. 2023), after the virtual memory of operating
systems. `PagedCache` is one layer with tables of its own; the engine plans once for all layers, and `PagedLayer` follows. Read
`kv_cache` before.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from minillm.cache.kv_cache import KVView, Positions, Rotate
from minillm.constants import EMPTY


class OutOfPages(ValueError):
    """No page is left; nothing has changed."""


class PagePool:
    """Which pages are free, and how many rows use each of the others. Page p is page p of every layer."""

    def __init__(self, n_pages: int, page_size: int):
        """`page_size`: tokens of a page."""
        for name, value in (("n_pages", n_pages), ("page_size", page_size)):
            if value < 1:
                raise ValueError(f"{name} = {value}: expected a number >= 1; a page of 16 tokens wastes little")
        self.n_pages, self.page_size = n_pages, page_size
        self.users = [0] * n_pages
        self.free = list(range(n_pages - 1, -1, -1))

    @property
    def n_free(self) -> int:
        """Pages that can be taken now."""
        return len(self.free)

    def take(self) -> int:
        """A page for one user, who may write into it."""
        if not self.n_free:
            raise OutOfPages(
                f"n_pages = {self.n_pages}: expected more, since all are in use; give more or read fewer texts at once"
            )
        page = self._room()
        self.users[page] = 1
        return page

    def share(self, pages: Iterable[int]) -> None:
        """One more user for each."""
        for page in pages:
            self.users[page] += 1

    def release(self, pages: Sequence[int]) -> None:
        """One user less for each, the last page first."""
        for page in reversed(pages):
            self.users[page] -= 1
            if not self.users[page]:
                self._idle(page)

    def copies(self, page: int, n_writers: int) -> int:
        """How many of `n_writers` of its users must copy a page before they write: all but one, who may keep it if nobody else looks."""
        return min(n_writers, self.users[page] - 1)

    def find(self, chain: Sequence[bytes]) -> list[int]:
        """The pages that hold the beginning of a text already: none here, see `PrefixPool`."""
        return []

    def publish(self, pages: Sequence[int], chain: Sequence[bytes]) -> None:
        """These pages are full and may be found: not here, see `PrefixPool`."""

    def _room(self) -> int:
        return self.free.pop()

    def _idle(self, page: int) -> None:
        self.free.append(page)


class PageTable:
    """One row: the pages in which it stands, in order, and how many tokens are in them."""

    def __init__(self, pool: PagePool, pages: Sequence[int] = (), length: int = 0):
        """`pages` are shared with whoever has them already."""
        pool.share(pages)
        self.pool, self.pages, self.length = pool, list(pages), length

    def reserve(self, n: int) -> list[tuple[int, int]]:
        """Make room for n more tokens; the pages (from, to) that must be copied before they are written, at most one.

        Raises OutOfPages, and then nothing has changed.
        """
        if not n:
            return []
        pool, last = self.pool, self.length // self.pool.page_size  # the page of the next token
        copied = last < len(self.pages) and pool.copies(self.pages[last], 1)
        missing = self.missing(n)
        if missing + copied > pool.n_free:
            raise OutOfPages(
                f"{missing + copied} pages: expected at most the {pool.n_free} that are free; give more, or read fewer texts"
            )
        moves = []
        if copied:
            old, new = self.pages[last], pool.take()
            self.pages[last] = new
            pool.release([old])
            moves.append((old, new))
        self.pages += [pool.take() for _ in range(missing)]
        return moves

    def missing(self, n: int) -> int:
        """Pages that n more tokens need, beyond those it has."""
        return max(0, -(-(self.length + n) // self.pool.page_size) - len(self.pages))

    def fork(self) -> "PageTable":
        """Another row with the same text, which shares every page of it."""
        return PageTable(self.pool, self.pages, self.length)

    def truncate(self, length: int) -> None:
        """Keep the first `length` tokens at most, and no page beyond them."""
        self.length = min(self.length, length)
        n_kept = -(-self.length // self.pool.page_size)
        gone, self.pages = self.pages[n_kept:], self.pages[:n_kept]
        self.pool.release(gone)


class Plan(NamedTuple):
    """Where one reading writes and what it looks at: the same for all layers."""

    copies: tuple[Tensor, Tensor] | None  # pages (from, to), done before anything is written
    slots: Tensor  # (N,) places of the new tokens, page * page_size + place within, in the order of rows
    filled: Tensor | None  # (B, T), where a token stands; None: everywhere
    pages: (
        Tensor | None
    )  # (B P,) to look at; None: no row has read anything before, so each looks at its own new tokens
    positions: Tensor  # (B, 1, S), EMPTY beyond the end of a row
    dense: bool  # see KVView


def plan(
    tables: Sequence[PageTable], positions: Tensor, counts: Sequence[int], copies: Sequence[tuple[int, int]] = ()
) -> Plan:
    """Plan to read counts[i] tokens on row i, for which there is room already, where `positions` (B, T) are not EMPTY.

    The rows' lengths stay as they are until the tokens are read, so that a reading that fails leaves nothing behind.
    """
    size, device, filled = tables[0].pool.page_size, positions.device, None
    if any(n < positions.shape[1] for n in counts):
        filled = positions >= 0
    slots = [
        table.pages[i // size] * size + i % size
        for table, n in zip(tables, counts, strict=True)
        for i in range(table.length, table.length + n)
    ]
    moved = tuple(torch.tensor(copies, device=device).T) if copies else None
    where = torch.tensor(slots, dtype=torch.long, device=device)
    if not any(table.length for table in tables):
        return Plan(moved, where, filled, None, positions[:, None], filled is None)
    lengths = [table.length + n for table, n in zip(tables, counts, strict=True)]
    longest = max(lengths)
    n_pages = -(-longest // size)
    rows = [table.pages[:n_pages] + [0] * (n_pages - len(table.pages)) for table in tables]
    places, level = torch.arange(longest, device=device)[None], min(lengths) == longest
    seen = places if level else places.masked_fill(places >= torch.tensor(lengths, device=device)[:, None], EMPTY)
    return Plan(
        moved, where, filled, torch.tensor(rows, device=device).flatten(), seen[:, None], level and filled is None
    )


class PagedLayer:
    """One layer's pages, (n_pages, page_size, 2, G, K): keys (rotated on the way in) and values beside each other. Follows `plan`.

    Keys and values of a page are one piece of memory, so that a row is gathered by copying a few large pieces.
    """

    span = None
    exact = True
    truncates = True

    def __init__(self, pool: PagePool):
        self.pool = pool
        self.plan: Plan | None = None  # of the next reading
        self.memory = torch.empty(0)

    def extend(self, k: Tensor, v: Tensor, positions: Positions, rotate: Rotate) -> KVView:
        """See `KVCache.extend`. Costs one write of the new tokens and one gathering of the pages that are looked at."""
        plan, self.plan, (B, G, _, K) = self.plan, None, k.shape
        assert plan is not None, "each reading has a plan of its own"
        if plan.copies is not None:  # first of all: tables name the copies already, whatever fails below
            self.memory[plan.copies[1]] = self.memory[plan.copies[0]]
        if self.memory.dim() == 1:  # zeros, because what nobody may see is still multiplied by a weight of 0
            self.memory = k.new_zeros(self.pool.n_pages, self.pool.page_size, 2, G, K)
        k = rotate(k, positions.ids)
        new = torch.stack([k, v], 1).permute(0, 3, 1, 2, 4)  # (B, T, 2, G, K)
        new = new.flatten(0, 1) if plan.filled is None else new[plan.filled]
        self.memory.view(-1, 2, G, K).index_copy_(0, plan.slots, new)
        if plan.pages is None:
            return KVView(k, v, plan.positions, plan.dense)
        seen = self.memory.view(self.pool.n_pages, -1).index_select(0, plan.pages)
        seen = seen.view(B, -1, 2, G, K)[:, : plan.positions.shape[2]]  # (B, S, 2, G, K)
        return KVView(seen[:, :, 0].transpose(1, 2), seen[:, :, 1].transpose(1, 2), plan.positions, plan.dense)

    def nbytes(self) -> int:
        """Bytes of all pages, in use or not."""
        return self.memory.numel() * self.memory.element_size()


class PagedCache(PagedLayer):
    """A `KVCache`: one layer with a pool and tables of its own, for `model.start(batch_size, cache=PagedCache)`."""

    def __init__(self, n_pages: int = 256, page_size: int = 16):
        super().__init__(PagePool(n_pages, page_size))
        self.tables: list[PageTable] = []

    def extend(self, k: Tensor, v: Tensor, positions: Positions, rotate: Rotate) -> KVView:
        """See `KVCache.extend`. Whatever it raises, such as OutOfPages, nothing has been read then."""
        self.tables = self.tables or [PageTable(self.pool) for _ in range(len(k))]
        each = positions.ids.expand(len(k), -1)
        counts = (each >= 0).sum(1).tolist()
        needed = self._needed(counts)
        if needed > self.pool.n_free:
            raise OutOfPages(
                f"n_pages = {self.pool.n_pages}: expected {needed - self.pool.n_free} more for these texts; give more pages"
            )
        copies = [move for table, n in zip(self.tables, counts, strict=True) for move in table.reserve(n)]
        try:
            self.plan = plan(self.tables, each, counts, copies)
            view = super().extend(k, v, positions, rotate)
            for table, n in zip(self.tables, counts, strict=True):
                table.length += n
        finally:  # after a failure, the pages that were reserved for nothing are free again
            for table in self.tables:
                table.truncate(table.length)
        return view

    def reorder(self, rows: Tensor, since: int = 0) -> None:
        """See `KVCache.reorder`. Copies no page: rows that come from the same one share theirs until they write."""
        if self.tables:
            old, self.tables = self.tables, [self.tables[row].fork() for row in rows.tolist()]
            for table in old:
                table.truncate(0)

    def truncate(self, lengths: Tensor) -> None:
        """See `KVCache.truncate`."""
        for table, length in zip(self.tables, lengths.tolist(), strict=bool(self.tables)):
            table.truncate(length)

    def _needed(self, counts: Sequence[int]) -> int:
        """Pages that rows take in growing by `counts`, copies of shared ones included."""
        size = self.pool.page_size
        growing = [(table, n) for table, n in zip(self.tables, counts, strict=True) if n]
        written = Counter(
            table.pages[table.length // size] for table, _ in growing if table.length // size < len(table.pages)
        )
        return sum(table.missing(n) for table, n in growing) + sum(
            self.pool.copies(page, n) for page, n in written.items()
        )
