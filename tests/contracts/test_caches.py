"""The contract of every KV cache: ragged reads, dense views, measured bytes, and failing reads."""

from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from minillm.cache.contiguous import ContiguousCache
from minillm.cache.fixed import FixedCache
from minillm.cache.h2o import H2OCache
from minillm.cache.kv_cache import Positions
from minillm.cache.paged import PagedCache
from minillm.cache.quantized import QuantizedCache
from minillm.cache.snapkv import SnapKVCache
from minillm.cache.streaming import StreamingCache
from tests.ragged import WHERE, columns, ragged
from tests.tiny import assert_equal, decoder, tokens

COMPLETE = {  # with room for all that is read here
    "contiguous": ContiguousCache,
    "contiguous, growing": partial(ContiguousCache, capacity=1),
    "fixed": partial(FixedCache, 32),
    "paged": partial(PagedCache, n_pages=67, page_size=3),
    "int8": partial(QuantizedCache, 8),
    "int4": partial(QuantizedCache, 4),
    "streaming": partial(StreamingCache, 31),
    "h2o": partial(H2OCache, 31),
    "snapkv": partial(SnapKVCache, 31),
}
LOSSY = {
    "int8, rounded": partial(QuantizedCache, 8, group=4, residual=3),
    "int4, rounded": partial(QuantizedCache, 4, group=2, residual=1),
    "streaming, short": partial(StreamingCache, 7, sinks=2),
    "h2o, short": partial(H2OCache, 7),
    "snapkv, short": partial(SnapKVCache, 7, 3, 3),
}
EVERY = COMPLETE | LOSSY
every_complete_cache = pytest.mark.parametrize("cache", COMPLETE.values(), ids=COMPLETE)
every_cache = pytest.mark.parametrize("cache", EVERY.values(), ids=EVERY)


@st.composite
def level_reads(draw, lengths):
    """A read after which rows of these lengths are level: the columns of each row, and how many columns there are."""
    end = max(lengths) + draw(st.integers(0, 3))
    width = end - min(lengths) + draw(st.integers(0, 2))
    return [columns(end - n, width, draw(st.sampled_from(WHERE))) for n in lengths], width


@every_complete_cache
@settings(max_examples=25)
@given(data=st.data())
def test_rows_that_end_level_after_ragged_reads_say_what_contiguous_memory_says(cache, data):
    model = decoder(n_kv_heads=2, n_layers=1)
    lengths = data.draw(st.lists(st.integers(0, 4), min_size=3, max_size=3))
    state, plain = model.start(3, cache=cache), model.start(3)
    reads = [([columns(n, max(lengths), data.draw(st.sampled_from(WHERE))) for n in lengths], max(lengths))]
    for _ in range(data.draw(st.integers(1, 3))):
        reads.append(data.draw(level_reads(lengths)))
        lengths = [n + len(places) for n, places in zip(lengths, reads[-1][0], strict=True)]
    for i, (places, width) in enumerate(reads):
        texts = tokens(3, width, seed=i).tolist()
        chunk = ragged([text[: len(row)] for text, row in zip(texts, places, strict=True)], places, width)
        assert_equal(*(model(chunk, each)[0][chunk >= 0] for each in (state, plain)))
    assert state.lengths.tolist() == plain.lengths.tolist() == lengths


def unturned(x, positions):
    return x


def read(cache, lengths, places, width, dtype=torch.float64):
    """Random keys and values at the positions that follow; the view, the positions, and the new lengths."""
    k, v = torch.randn(2, len(lengths), 2, width, 4, dtype=dtype)
    positions = ragged([range(n, n + len(row)) for n, row in zip(lengths, places, strict=True)], places, width)
    dense = bool((positions >= 0).all())
    view = cache.extend(k, v, Positions(positions, dense), unturned)
    view.observe(lambda q, at: torch.rand(*q.shape[:3], view.k.shape[2], dtype=dtype), k, positions)
    return view, positions, [n + len(row) for n, row in zip(lengths, places, strict=True)]


@every_complete_cache
@settings(max_examples=25)
@given(data=st.data())
def test_a_view_is_dense_only_if_every_slot_holds_its_position_and_the_read_is_the_last_of_them(cache, data):
    cache, lengths = cache(), data.draw(st.sampled_from([[0, 0], [0, 2], [1, 0]]))
    if any(lengths):
        read(cache, [0, 0], [columns(n, 2, "last") for n in lengths], 2)
    for _ in range(3):
        n = data.draw(st.integers(0, 2))
        level = data.draw(level_reads(lengths))
        reads = data.draw(st.sampled_from([([range(n)] * 2, n), level]))  # the same columns for all rows, or level rows
        view, positions, lengths = read(cache, lengths, *reads)
        if view.dense:
            S = view.k.shape[2]
            assert torch.equal(view.positions.expand(2, 2, -1), torch.arange(S).expand(2, 2, -1))
            assert torch.equal(positions, torch.arange(S)[S - positions.shape[1] :].expand(2, -1))


@pytest.mark.parametrize("cache", [cache for name, cache in COMPLETE.items() if name != "fixed"])
def test_a_text_that_is_read_without_gaps_is_dense(cache):
    cache, lengths = cache(), [0, 0]
    for n in (5, 1, 2):
        view, _, lengths = read(cache, lengths, [range(n)] * 2, n)
        assert view.dense


def held(cache) -> int:
    """Bytes of the distinct storages that can be reached from a cache."""
    storages, seen, open_ = {}, set(), [cache]
    while open_:
        thing = open_.pop()
        if id(thing) in seen:
            continue
        seen.add(id(thing))
        if isinstance(thing, Tensor):
            storages[thing.untyped_storage().data_ptr()] = thing.untyped_storage().nbytes()
        elif isinstance(thing, dict):
            open_ += thing.values()
        elif isinstance(thing, (list, tuple, set)):
            open_ += thing
        elif hasattr(thing, "__dict__"):
            open_ += vars(thing).values()
    return sum(storages.values())


@every_cache
@settings(max_examples=25)
@given(data=st.data())
def test_bytes_are_those_of_the_storages_that_a_cache_holds(cache, data):
    cache, lengths = cache(), [0, 0, 0]
    assert cache.nbytes() == held(cache) == 0
    for _ in range(data.draw(st.integers(1, 5))):
        action = data.draw(st.sampled_from(["read", "read", "truncate", "forget", "reorder"]))
        if action == "read" and max(lengths) <= 20:
            counts = data.draw(st.lists(st.integers(0, 11), min_size=len(lengths), max_size=len(lengths)))
            *_, lengths = read(cache, lengths, [range(n) for n in counts], max(counts))
        elif action == "truncate":
            kept = [data.draw(st.sampled_from([0, n, max(0, n - 1)])) for n in lengths]
            try:
                cache.truncate(torch.tensor(kept))
                lengths = kept
            except ValueError:  # it cannot take these back, and nothing has changed
                pass
        elif action == "forget":
            cache.truncate(torch.zeros(len(lengths), dtype=torch.long))
            lengths = [0] * len(lengths)
        elif action == "reorder":
            rows = data.draw(st.lists(st.integers(0, len(lengths) - 1), min_size=1, max_size=4))
            cache.reorder(torch.tensor(rows))
            lengths = [lengths[row] for row in rows]
        assert cache.nbytes() == held(cache)


def fails(x, positions):
    raise RuntimeError("out of memory")


@every_cache
@pytest.mark.parametrize("shared", [False, True])
def test_a_read_whose_rotation_fails_leaves_what_was_read_as_it_was(cache, shared):
    caches = [cache() for _ in range(2)]
    for each in caches:
        torch.manual_seed(1)
        read(each, [0, 0], [range(5)] * 2, 5)
        if shared:
            each.reorder(torch.tensor([0, 0]))
    k, v = torch.randn(2, 2, 2, 3, 4, dtype=torch.float64)
    with pytest.raises(RuntimeError, match="out of memory"):
        caches[0].extend(k, v, Positions(torch.tensor([[5, 6, 7]]), True), fails)
    views = []
    for each in caches:
        torch.manual_seed(2)
        _, _, lengths = read(each, [5, 5], [range(1), []], 1)
        views.append(read(each, lengths, [range(2)] * 2, 2)[0])
    one, other = views
    seen = (one.positions >= 0).expand(2, 2, -1)
    assert torch.equal(one.positions, other.positions) and one.dense is other.dense
    assert torch.equal(one.k[seen], other.k[seen]) and torch.equal(one.v[seen], other.v[seen])
