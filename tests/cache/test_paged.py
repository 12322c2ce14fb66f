"""Paged rows behave like lists: every row keeps its own text, no page is lost, and no shared page is written."""

from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule

from minillm.cache.kv_cache import Positions
from minillm.cache.paged import OutOfPages, PagedCache, PagePool, PageTable
from minillm.cache.prefix import PrefixPool, digests
from minillm.constants import EMPTY
from minillm.lessons import paged_cache as lesson
from tests.tiny import assert_reads_on, decoder, tokens


class Rows(RuleBasedStateMachine):
    """Page tables over a memory of numbers, each with the list that it should hold."""

    rows = Bundle("rows")
    Pool = PagePool

    @initialize(n_pages=st.integers(1, 11), page_size=st.integers(1, 5))
    def begin(self, n_pages, page_size):
        self.pool = self.Pool(n_pages, page_size)
        self.memory = [[None] * page_size for _ in range(n_pages)]
        self.texts: dict[PageTable, list[int]] = {}

    @rule(target=rows)
    def allocate(self):
        table = PageTable(self.pool)
        self.texts[table] = []
        return table

    @rule(table=rows, new=st.lists(st.integers(0, 1), max_size=9))
    def append(self, table, new):
        before = (table.pages[:], table.length, self.pool.users[:], self.pool.n_free)
        try:
            moves = table.reserve(len(new))
        except OutOfPages:
            assert before == (table.pages, table.length, self.pool.users, self.pool.n_free), "nothing has changed"
            size = self.pool.page_size
            last = table.length // size
            kept = last + (last < len(table.pages) and not self.pool.copies(table.pages[last], 1))
            assert -(-(table.length + len(new)) // size) - kept > self.pool.n_free, "there was room"
            return
        for old, new_page in moves:
            self.memory[new_page] = self.memory[old][:]
        for i, token in enumerate(new, start=table.length):
            page = table.pages[i // self.pool.page_size]
            assert self.pool.users[page] == 1, "nobody else looks at it"
            self.memory[page][i % self.pool.page_size] = token
        table.length += len(new)
        self.texts[table] += new

    @rule(target=rows, table=rows)
    def fork(self, table):
        other = table.fork()
        self.texts[other] = self.texts[table][:]
        return other

    @rule(table=rows, length=st.integers(0, 20))
    def truncate(self, table, length):
        table.truncate(length)
        self.texts[table] = self.texts[table][:length]

    @rule(table=consumes(rows))
    def forget(self, table):
        table.truncate(0)
        del self.texts[table]

    @invariant()
    def every_row_holds_its_text(self):
        for table, text in getattr(self, "texts", {}).items():
            size = self.pool.page_size
            assert [self.memory[table.pages[i // size]][i % size] for i in range(table.length)] == text

    @invariant()
    def no_page_is_lost_or_has_a_user_too_many(self):
        if hasattr(self, "pool"):
            users = Counter(page for table in self.texts for page in table.pages)
            assert self.pool.users == [users[page] for page in range(self.pool.n_pages)]
            assert self.pool.n_free == self.pool.n_pages - len(users)
            assert not set(self.pool.free) & set(users) and len(set(self.pool.free)) == len(self.pool.free)
            assert all(len(table.pages) == -(-table.length // self.pool.page_size) for table in self.texts)


class PrefixedRows(Rows):
    """The same for `PrefixPool`: full pages are found by their text, and rows may start with found pages."""

    Pool = PrefixPool

    @rule(table=Rows.rows)
    def publish(self, table):
        self.pool.publish(table.pages, digests(self.texts[table], self.pool.page_size))

    @rule(target=Rows.rows, text=st.lists(st.integers(0, 1), max_size=9))
    def begin_with_what_is_known(self, text):
        size = self.pool.page_size
        found = self.pool.find(digests(text, size))
        table = PageTable(self.pool, found, len(found) * size)
        self.texts[table] = text[: table.length]
        return table


long = settings(max_examples=40, stateful_step_count=25, deadline=None)
TestRows = Rows.TestCase
TestRows.settings = long
TestPrefixedRows = PrefixedRows.TestCase
TestPrefixedRows.settings = long


counts = st.tuples(st.just("append"), st.lists(st.integers(0, 5), min_size=3, max_size=3))
orders = st.tuples(st.just("fork"), st.lists(st.integers(0, 2), min_size=3, max_size=3))


@settings(max_examples=40)
@given(script=st.lists(counts | orders, max_size=6), page_size=st.integers(1, 4))
def test_rows_hold_the_numbers_and_the_pages_that_those_of_the_lesson_hold(script, page_size):
    cache = PagedCache(120, page_size)
    slow, names = lesson.PagedCache(torch.zeros(120, page_size, 2, 2 * 5, dtype=torch.float64)), ["0", "1", "2"]
    for i, (action, numbers) in enumerate([("append", [1, 2, 3]), *script, ("append", [1, 1, 1])]):
        if action == "fork":
            cache.reorder(torch.tensor(numbers))
            copies = [f"{i}.{j}" for j in range(3)]
            for j, copy in zip(numbers, copies, strict=True):
                slow.fork(names[j], copy)
            for name in names:
                slow.drop(name)
            names = copies
        else:
            k, v = torch.randn(2, 3, 2, max(numbers), 5, dtype=torch.float64)
            new = torch.arange(max(numbers))
            begins = torch.tensor([[slow.lengths[name]] for name in names])
            ids = (begins + new).where(new < torch.tensor(numbers)[:, None], EMPTY)
            view = cache.extend(k, v, Positions(ids, bool((ids >= 0).all())), lambda x, _: x)
            for row, (name, n) in enumerate(zip(names, numbers, strict=True)):
                for t in range(n):
                    slow.append(name, torch.stack([k[row, :, t].flatten(), v[row, :, t].flatten()]))
                seen = (view.positions.expand(3, -1, -1)[row, 0] >= 0).nonzero()[:, 0]
                for part, expected in zip((view.k, view.v), slow.read(name).unbind(1), strict=True):
                    assert torch.equal(part[row, :, seen].transpose(0, 1).flatten(1), expected)
        assert cache.pool.n_free == len(slow.free)


@pytest.mark.parametrize(
    ("n_pages", "page_size", "name"), [(4, 0, "page_size"), (0, 4, "n_pages"), (4, -1, "page_size")]
)
def test_pages_without_room_are_refused(n_pages, page_size, name):
    with pytest.raises(ValueError, match=rf"{name} = \S+: expected a number >= 1"):
        PagedCache(n_pages, page_size)


def test_rows_that_come_from_one_share_its_pages_and_exactly_all_but_one_copy_the_last():
    model = decoder()
    state = model.start(1, cache=lambda: PagedCache(5, page_size=3))
    text = tokens(1, 7)
    model(text, state)
    state.reorder(torch.tensor([0, 0, 0]))
    pool = state.caches[0].pool
    assert pool.n_free == 2 and sorted(pool.users) == [0, 0, 3, 3, 3]
    assert_reads_on(model, state, text.repeat(3, 1).tolist(), tokens(3, 2, seed=1))
    assert pool.n_free == 0 and sorted(pool.users) == [1, 1, 1, 3, 3]


def test_running_out_of_pages_says_so_and_reads_nothing():
    model, text = decoder(), tokens(2, 7)
    state = model.start(2, cache=lambda: PagedCache(6, page_size=3))
    model(text, state)
    with pytest.raises(OutOfPages, match="n_pages = 6: expected 2 more for these texts; give more pages"):
        model(tokens(2, 3), state)
    assert state.lengths.tolist() == [7, 7]
    assert_reads_on(model, state, text.tolist(), tokens(2, 2, seed=1))


def test_out_of_pages_by_copies_alone_changes_nothing():
    model, text = decoder(), tokens(1, 4)
    state = model.start(1, cache=lambda: PagedCache(3, page_size=3))
    model(text, state)
    state.reorder(torch.tensor([0, 0, 0]))  # each has room for two more tokens in a page that two of them must copy
    [pool], tables = {cache.pool for cache in state.caches[:1]}, state.caches[0].tables
    before = [table.pages[:] for table in tables], pool.users[:], pool.free[:]
    with pytest.raises(OutOfPages, match="n_pages = 3: expected 1 more for these texts"):
        model(tokens(3, 1, seed=1), state)
    assert before == ([table.pages for table in tables], pool.users, pool.free)
    state.reorder(torch.tensor([0, 1]))  # now one copy is enough
    assert_reads_on(model, state, text.repeat(2, 1).tolist(), tokens(2, 2, seed=1))


def test_a_table_that_cannot_copy_its_last_page_stays_as_it_was():
    pool = PagePool(2, page_size=3)
    table = PageTable(pool)
    table.reserve(4)
    table.length = 4
    other = table.fork()
    with pytest.raises(OutOfPages, match="1 pages: expected at most the 0 that are free"):
        other.reserve(1)
    assert other.pages == table.pages == [1, 0][::-1] and pool.users == [2, 2] and other.length == 4


BROKEN = {  # ways for a read to fail: keys, values (B, G, T, K) and the rotation
    "the rotation": lambda k, v: (k, v, lambda x, positions: x.log(0, 1)),
    "values of another width": lambda k, v: (k, v[..., :3], lambda x, positions: x),
    "values of another length": lambda k, v: (k, v[:, :, :2], lambda x, positions: x),
    "another dtype": lambda k, v: (k.double(), v.double(), lambda x, positions: x),
}


@pytest.mark.parametrize("broken", BROKEN.values(), ids=BROKEN)
@pytest.mark.parametrize("rows", [[0, 1], [0, 0], [1]], ids=["own pages", "shared pages", "one row"])
def test_a_read_that_fails_grows_no_row_and_keeps_no_page(broken, rows):
    cache, (k, v), B = PagedCache(9, page_size=3), torch.randn(2, 2, 2, 5, 4), len(rows)
    cache.extend(k, v, Positions(torch.arange(5)[None], True), lambda x, positions: x)
    cache.reorder(torch.tensor(rows))
    n_free = cache.pool.n_free
    bad_k, bad_v, rotate = broken(*torch.randn(2, B, 2, 4, 4))
    with pytest.raises((RuntimeError, TypeError)):
        cache.extend(bad_k, bad_v, Positions(torch.arange(5, 9)[None], True), rotate)
    n_copies = B - len(set(rows))
    assert [table.length for table in cache.tables] == [5] * B and cache.pool.n_free == n_free - n_copies
    new_k, new_v = torch.randn(2, B, 2, 2, 4)
    view = cache.extend(new_k, new_v, Positions(torch.arange(5, 7)[None], True), lambda x, positions: x)
    for seen, old, new in ((view.k, k, new_k), (view.v, v, new_v)):
        assert torch.equal(seen, torch.cat([old[rows], new], 2))


def test_tokens_taken_back_give_their_pages_back():
    model = decoder()
    state = model.start(2, cache=lambda: PagedCache(9, page_size=3))
    model(tokens(2, 10), state)
    for lengths, free in (([10, 9], 2), ([3, 9], 5), ([3, 4], 6), ([0, 0], 9)):
        state.truncate(torch.tensor(lengths))
        assert [cache.pool.n_free for cache in state.caches] == [free, free]
