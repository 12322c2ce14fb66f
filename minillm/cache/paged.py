"""Paged KV cache: memory in pages of a few tokens, and a table of pages for each row (Kwon et al. 2023).

A contiguous row must be as long as its text may become, and most of it stays unused. Here a row takes another page when
its last one is full, so it wastes less than one page: token i is in page table[i // page_size], at place i % page_size.
Rows may share pages: to copy a row is to copy its table, and a shared page is copied before it is written
(copy-on-write, as in the virtual memory of operating systems). Each page has a count of its users; a page without users
is free. `PagedCache` is one layer with its own tables. The engine makes one plan for all layers, and `PagedLayer`
executes it. Read before: `kv_cache`.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from minillm.cache.kv_cache import KVView, Positions, Rotate
from minillm.constants import EMPTY


class OutOfPages(ValueError):
    """No page is free. Nothing has changed."""


class PagePool:
    """Page allocator: free pages, and the number of users of each other page. Page p is page p of every layer."""

    def __init__(self, n_pages: int, page_size: int):
        """`page_size`: tokens in a page."""
        for name, value in (("n_pages", n_pages), ("page_size", page_size)):
            if value < 1:
                raise ValueError(f"{name} = {value}: expected a number >= 1; a page of 16 tokens wastes little")
        self.n_pages, self.page_size = n_pages, page_size
        self.users = [0] * n_pages
        self.free = list(range(n_pages - 1, -1, -1))

    @property
    def n_free(self) -> int:
        """Number of pages that can be taken now."""
        return len(self.free)

    def take(self) -> int:
        """Take a page for one user, which may write to it. Raises OutOfPages."""
        if not self.n_free:
            raise OutOfPages(
                f"n_pages = {self.n_pages}: expected more, since all are in use; give more or read fewer texts at once"
            )
        page = self._free_page()
        self.users[page] = 1
        return page

    def share(self, pages: Iterable[int]) -> None:
        """Add one user to each page."""
        for page in pages:
            self.users[page] += 1

    def release(self, pages: Sequence[int]) -> None:
        """Remove one user from each page, the last page first."""
        for page in reversed(pages):
            self.users[page] -= 1
            if not self.users[page]:
                self._retire(page)

    def copies(self, page: int, n_writers: int) -> int:
        """The number of `n_writers` jobs that copy a page before they write: all but the last one, which may keep it.

        >>> pool = PagePool(n_pages=4, page_size=2)
        >>> page = pool.take()
        >>> pool.share([page])
        >>> pool.copies(page, n_writers=1), pool.copies(page, n_writers=2)
        (1, 1)
        """
        return min(n_writers, self.users[page] - 1)

    def find(self, chain: Sequence[bytes]) -> list[int]:
        """Pages that already hold the beginning of a text: none here, see `PrefixPool`."""
        return []

    def publish(self, pages: Sequence[int], chain: Sequence[bytes]) -> None:
        """Make these full pages findable: does nothing here, see `PrefixPool`."""

    def _free_page(self) -> int:
        return self.free.pop()

    def _retire(self, page: int) -> None:
        self.free.append(page)


class PageTable:
    """The pages of one row, in order, and the number of tokens in them."""

    def __init__(self, pool: PagePool, pages: Sequence[int] = (), length: int = 0):
        """`pages` are shared with their other users."""
        pool.share(pages)
        self.pool, self.pages, self.length = pool, list(pages), length

    def reserve(self, n: int) -> list[tuple[int, int]]:
        """Make room for n more tokens; return the pages (from, to), at most one pair, to copy before writing.

        Raises OutOfPages, and then nothing has changed.
        """
        if not n:
            return []
        pool, last = self.pool, self.length // self.pool.page_size  # the page of the next token
        copied = last < len(self.pages) and pool.copies(self.pages[last], 1)
        missing = self.missing(n)
        if missing + copied > pool.n_free:
            raise OutOfPages(
                f"{missing + copied} pages: expected at most the {pool.n_free} that are free; "
                "give more, or read fewer texts"
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
        """Number of pages that n more tokens need, beyond those of the row."""
        return max(0, -(-(self.length + n) // self.pool.page_size) - len(self.pages))

    def fork(self) -> "PageTable":
        """Another row with the same text, which shares all its pages."""
        return PageTable(self.pool, self.pages, self.length)

    def truncate(self, length: int) -> None:
        """Keep at most the first `length` tokens, and release the pages beyond them."""
        self.length = min(self.length, length)
        n_kept = -(-self.length // self.pool.page_size)
        gone, self.pages = self.pages[n_kept:], self.pages[:n_kept]
        self.pool.release(gone)


class Plan(NamedTuple):
    """The slots that one read writes and the pages that it attends to, the same for all layers."""

    copies: tuple[Tensor, Tensor] | None  # pages (from, to), copied before anything is written
    slots: Tensor  # (N,) places of the new tokens, page * page_size + place within, in the order of rows
    filled: Tensor | None  # (B, T), True for a token, False for padding; None: all True
    pages: Tensor | None  # (B P,) pages to attend to; None: no row has read before, so the new tokens suffice
    positions: Tensor  # (B, 1, S), EMPTY beyond the end of a row
    dense: bool  # see KVView


def plan(
    tables: Sequence[PageTable], positions: Tensor, counts: Sequence[int], copies: Sequence[tuple[int, int]] = ()
) -> Plan:
    """Plan a read: row i, with reserved pages, reads counts[i] tokens, those whose `positions` (B, T) are not EMPTY.

    The lengths of the rows change only after the read, so a failed read changes no text.
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
    pages = torch.tensor(rows, device=device).flatten()
    return Plan(moved, where, filled, pages, seen[:, None], level and filled is None)


class PagedLayer:
    """One layer's pages, (n_pages, page_size, 2, G, K): rotated keys beside values. Executes `plan`.

    A page is one contiguous piece of memory, so that a row is gathered by copying a few large pieces.
    """

    span = None
    exact = True
    truncates = True

    def __init__(self, pool: PagePool):
        self.pool = pool
        self.plan: Plan | None = None  # of the next read
        self.memory = torch.empty(0)

    def extend(self, k: Tensor, v: Tensor, positions: Positions, rotate: Rotate) -> KVView:
        """See `KVCache.extend`. Writes the new tokens once, and gathers the pages to attend to once."""
        plan, self.plan, (B, G, _, K) = self.plan, None, k.shape
        assert plan is not None, "each read has a plan of its own"
        if plan.copies is not None:  # first: the tables already refer to the copies, even if a step below fails
            self.memory[plan.copies[1]] = self.memory[plan.copies[0]]
        # zeros, because a hidden slot is still multiplied by a weight of 0, and 0 * nan is nan
        if self.memory.dim() == 1:
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
    """A `KVCache` of one layer with its own pool and tables: `model.start(batch_size, cache=PagedCache)`."""

    def __init__(self, n_pages: int = 256, page_size: int = 16):
        super().__init__(PagePool(n_pages, page_size))
        self.tables: list[PageTable] = []

    def extend(self, k: Tensor, v: Tensor, positions: Positions, rotate: Rotate) -> KVView:
        """See `KVCache.extend`. If it raises OutOfPages or another error, nothing has been read."""
        self.tables = self.tables or [PageTable(self.pool) for _ in range(len(k))]
        each = positions.ids.expand(len(k), -1)
        counts = (each >= 0).sum(1).tolist()
        needed = self._needed(counts)
        if needed > self.pool.n_free:
            raise OutOfPages(
                f"n_pages = {self.pool.n_pages}: expected {needed - self.pool.n_free} more for these texts; "
                "give more pages"
            )
        copies = [move for table, n in zip(self.tables, counts, strict=True) for move in table.reserve(n)]
        try:
            self.plan = plan(self.tables, each, counts, copies)
            view = super().extend(k, v, positions, rotate)
            for table, n in zip(self.tables, counts, strict=True):
                table.length += n
        finally:  # after a failure, release the reserved pages
            for table in self.tables:
                table.truncate(table.length)
        return view

    def reorder(self, rows: Tensor, since: int = 0) -> None:
        """See `KVCache.reorder`. Copies no page: copies of a row share its pages until they write."""
        if self.tables:
            old, self.tables = self.tables, [self.tables[row].fork() for row in rows.tolist()]
            for table in old:
                table.truncate(0)

    def truncate(self, lengths: Tensor) -> None:
        """See `KVCache.truncate`."""
        for table, length in zip(self.tables, lengths.tolist(), strict=bool(self.tables)):
            table.truncate(length)

    def _needed(self, counts: Sequence[int]) -> int:
        """Number of pages that the rows need to grow by `counts`, copies of shared pages included."""
        size = self.pool.page_size
        growing = [(table, n) for table, n in zip(self.tables, counts, strict=True) if n]
        written = Counter(
            table.pages[table.length // size] for table, _ in growing if table.length // size < len(table.pages)
        )
        return sum(table.missing(n) for table, n in growing) + sum(
            self.pool.copies(page, n) for page, n in written.items()
        )
