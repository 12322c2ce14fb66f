"""Prefix caching: pages are found by their text until they are evicted, and their content is right."""

from hypothesis import given
from hypothesis import strategies as st

from minillm.cache.paged import PageTable
from minillm.cache.prefix import PrefixPool, digests

texts = st.lists(st.integers(0, 1), max_size=13)


def read(pool, text):
    """A row that has read a text, as a request would."""
    chain = digests(text, pool.page_size)
    found = pool.find(chain)
    table = PageTable(pool, found, len(found) * pool.page_size)
    table.reserve(len(text) - table.length)
    table.length = len(text)
    pool.publish(table.pages, chain)
    return table


@given(texts, texts, st.integers(1, 5))
def test_digests_agree_on_exactly_the_full_pages_of_a_common_beginning(a, b, page_size):
    same = 0
    while same < min(len(a), len(b)) and a[same] == b[same]:
        same += 1
    pairs = list(zip(digests(a, page_size), digests(b, page_size), strict=False))
    assert [x == y for x, y in pairs] == [i < same // page_size for i in range(len(pairs))]


@given(texts, st.integers(1, 5), st.integers(0, 9))
def test_known_digests_are_gone_on_from(text, page_size, n_known):
    chain = digests(text, page_size)
    assert len(chain) == len(text) // page_size
    assert digests(text, page_size, chain[:n_known]) == chain


def test_equal_pages_after_unequal_ones_are_not_mistaken_for_each_other():
    pool = PrefixPool(9, page_size=2)
    read(pool, [1, 1, 2, 2])
    assert len(pool.find(digests([1, 1, 2, 2, 3, 3], 2))) == 2
    assert pool.find(digests([0, 0, 2, 2], 2)) == []


def test_pages_without_users_stay_until_room_is_needed_and_the_least_recently_used_goes_first_from_its_end():
    pool = PrefixPool(4, page_size=1)
    first, second = [1, 2], [3, 4]
    for text in (first, second, first):  # the first was used again
        read(pool, text).truncate(0)
    assert pool.n_free == 4 and not pool.free
    known = []
    for _ in range(4):
        pool.take()
        known.append([len(pool.find(digests(text, 1))) for text in (first, second)])
    assert known == [[2, 1], [2, 0], [1, 0], [0, 0]]


def test_a_page_in_use_is_never_taken_however_long_ago_it_was_read():
    pool = PrefixPool(4, page_size=1)
    kept = read(pool, [1, 2])
    read(pool, [3, 4]).truncate(0)
    assert not {pool.take(), pool.take()} & set(kept.pages) and pool.n_free == 0
