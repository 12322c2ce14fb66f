"""Laws of every exact cache: a state equals a fresh read of the tokens that it holds."""

from functools import partial
from itertools import pairwise, product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from minillm.cache.contiguous import ContiguousCache
from minillm.cache.fixed import FixedCache
from minillm.cache.kv_cache import KVView, Positions
from minillm.cache.paged import PagedCache
from minillm.cache.quantized import QuantizedCache
from minillm.cache.snapkv import SnapKVCache
from minillm.constants import EMPTY
from minillm.layers.attention import attend_plainly
from minillm.lessons import kv_cache as lesson
from tests.tiny import N_HEADS, SHAPES, assert_equal, assert_reads_on, decoder, tokens

EXACT = {
    "contiguous": ContiguousCache,
    "contiguous, growing": partial(ContiguousCache, capacity=1),
    "int4, nothing rounded yet": partial(QuantizedCache, bits=4),
    "snapkv, with room for all": partial(SnapKVCache, budget=32),
    "paged": partial(PagedCache, n_pages=67, page_size=3),
    "fixed": partial(FixedCache, capacity=32),
}

every_cache = pytest.mark.parametrize("cache", EXACT.values(), ids=EXACT)
KEEPS_IDS = ("contiguous", "contiguous, growing", "paged", "fixed")  # caches that n-gram embeddings can read
every_shape_that_it_can_read = pytest.mark.parametrize(
    ("cache", "shape"),
    [
        pytest.param(EXACT[cache], shape, id=f"{cache}-{name}")
        for cache in EXACT
        for name, shape in SHAPES.items()
        if cache in KEEPS_IDS or "ngram_rows" not in shape
    ],
)


@st.composite
def shapes(draw):
    """Every kind of position, with every sharing of heads, and windows around the length of 13."""
    return {
        "positions": draw(st.sampled_from(["rotary", "learned", "sinusoidal", "alibi", "none"])),
        "n_kv_heads": draw(st.sampled_from([1, 2, N_HEADS])),
        "window": draw(st.sampled_from([0, 1, 3, 12, 13, 14])),
        "qk_norm": draw(st.booleans()),
    }


@every_cache
@settings(max_examples=40)
@given(shape=shapes(), cuts=st.lists(st.integers(0, 13), max_size=6).map(sorted))
def test_a_text_read_in_chunks_gives_the_logits_of_one_reading(cache, shape, cuts):
    model, text = decoder(**shape), tokens(3, 13)
    state, chunks = model.start(3, cache=cache), [text[:, a:b] for a, b in zip([0, *cuts], [*cuts, 13], strict=True)]
    n_read, logits = 0, []
    for chunk in chunks:
        out, same = model(chunk, state)
        logits.append(out)
        n_read += chunk.shape[1]
        assert same is state
        assert state.lengths.tolist() == [n_read] * 3
    assert_equal(torch.cat(logits, dim=1), model(text)[0])


@every_cache
@settings(max_examples=10)
@given(n_groups=st.sampled_from([1, 2, 3, 6]), cuts=st.lists(st.integers(0, 13), max_size=4).map(sorted))
def test_attention_over_a_cache_equals_the_lesson_for_each_head(cache, n_groups, cuts):
    B, H, T, D, K, cache = 2, 6, 13, 5, 7, cache()
    g = torch.Generator().manual_seed(n_groups)
    x, *weights = (
        torch.randn(shape, generator=g, dtype=torch.float64)
        for shape in ((B, T, D), (H, D, K), (n_groups, D, K), (n_groups, D, K))
    )
    q, k, v = (x[:, None] @ weight for weight in weights)
    held = {row_and_head: lesson.KVCache(K) for row_and_head in product(range(B), range(H))}
    for a, b in pairwise([0, *cuts, T]):
        ids = torch.arange(a, b)[None]
        view = cache.extend(k[:, :, a:b], v[:, :, a:b], Positions(ids, True), lambda x, _: x)
        output = attend_plainly(q[:, :, a:b], view, ids, causal=True)
        for (row, head), kept in held.items():
            group = head * n_groups // H
            of_head = weights[0][head], weights[1][group], weights[2][group]
            assert_equal(output[row, head], lesson.read(x[row, a:b], of_head, kept))


@every_cache
@settings(max_examples=60)
@given(shape=shapes(), data=st.data())
def test_after_any_reading_reordering_and_truncating_a_state_is_worth_a_fresh_reading(cache, shape, data):
    ngrams = {"ngram_rows": 53} if cache in [EXACT[name] for name in KEEPS_IDS] and data.draw(st.booleans()) else {}
    model, rows = decoder(**shape, **ngrams), [[], [], []]
    state = model.start(3, cache=cache)
    for _ in range(data.draw(st.integers(2, 7))):
        action = data.draw(st.sampled_from(["read", "read ragged", "truncate", "reorder"]))
        seed = data.draw(st.integers(0, 99))
        g = torch.Generator().manual_seed(seed)
        if action == "truncate":
            lengths = [data.draw(st.integers(0, len(row))) for row in rows]
            state.truncate(torch.tensor(lengths))
            rows = [row[:n] for row, n in zip(rows, lengths, strict=True)]
            assert state.lengths.tolist() == lengths
        elif action == "reorder":
            order = data.draw(st.lists(st.integers(0, len(rows) - 1), min_size=1, max_size=4))
            state.reorder(torch.tensor(order))
            rows = [rows[i].copy() for i in order]
        else:
            chunk = tokens(len(rows), data.draw(st.integers(0, 5)), seed)
            if action == "read ragged":
                chunk = chunk.masked_fill(torch.rand(chunk.shape, generator=g) < 0.5, EMPTY)
            if max(map(len, rows)) + chunk.shape[1] <= model.context_length:
                assert_reads_on(model, state, rows, chunk)
    assert_reads_on(model, state, rows, tokens(len(rows), 1))


@every_shape_that_it_can_read
def test_taken_back_tokens_leave_no_trace_and_rows_may_differ_in_length(cache, shape):
    model, text, other = decoder(**shape), tokens(3, 11), tokens(3, 6, seed=1)
    state = model.start(3, cache=cache)
    model(text, state)
    lengths = [4, 11, 0]
    state.truncate(torch.tensor(lengths))
    assert_reads_on(model, state, [row[:n] for row, n in zip(text.tolist(), lengths, strict=True)], other)


@every_cache
@pytest.mark.parametrize("rows", [[2, 0, 1], [1], [0, 0, 2, 2, 1]], ids=["permuted", "shrunk", "duplicated"])
def test_rows_can_be_permuted_dropped_and_duplicated(cache, rows):
    model, text = decoder(n_kv_heads=2), tokens(3, 7)
    state = model.start(3, cache=cache)
    model(text, state)
    state.reorder(torch.tensor(rows))
    assert_reads_on(model, state, text[rows].tolist(), tokens(len(rows), 5, seed=1))


@every_cache
def test_places_that_rows_share_need_not_be_exchanged(cache):
    model, text, other = decoder(n_kv_heads=2), tokens(3, 7), tokens(3, 4, seed=2)
    text[:, :5] = text[0, :5]
    rows = [2, 0, 0]
    state = model.start(3, cache=cache)
    for part in (text[:, :6], text[:, 6:]):
        model(part, state)
    state.reorder(torch.tensor(rows), since=5)
    assert_reads_on(model, state, text[rows].tolist(), other)


@every_cache
def test_a_state_that_was_emptied_takes_a_batch_of_another_size(cache):
    model = decoder()
    state = model.start(3, cache=cache)
    model(tokens(3, 5), state)
    state.truncate(torch.zeros(3, dtype=torch.long))
    state.reorder(torch.tensor([1]))
    assert_reads_on(model, state, [[]], tokens(1, 4))


@every_cache
def test_two_states_of_one_model_know_nothing_of_each_other(cache):
    model, text, other = decoder(), tokens(2, 7), tokens(2, 7, seed=1)
    one, two = model.start(2, cache=cache), model.start(2, cache=cache)
    for t in range(7):
        a, b = model(text[:, t : t + 1], one)[0], model(other[:, t : t + 1], two)[0]
        assert_equal(a[:, 0], model(text)[0][:, t])
        assert_equal(b[:, 0], model(other)[0][:, t])
    third = model.start(2, cache=cache)
    assert_equal(model(text, third)[0], model(text)[0])


@every_cache
def test_more_than_was_read_cannot_be_kept(cache):
    model = decoder()
    state = model.start(2, cache=cache)
    model(tokens(2, 5), state)
    with pytest.raises(ValueError, match=r"lengths = \[5, 6\]: expected at most the tokens read, \[5, 5\]"):
        state.truncate(torch.tensor([5, 6]))
    assert state.lengths.tolist() == [5, 5]


@every_cache
def test_the_callers_lengths_are_not_kept(cache):
    model, lengths = decoder(), torch.tensor([3, 2])
    state = model.start(2, cache=cache)
    model(tokens(2, 5), state)
    state.truncate(lengths)
    lengths += 1
    assert state.lengths.tolist() == [3, 2]
    model(tokens(2, 1), state)
    assert lengths.tolist() == [4, 3]


@every_cache
def test_a_cache_keeps_the_models_dtype_and_holds_less_for_fewer_key_heads(cache):
    bytes_held = {}
    for n_kv_heads in (1, 2, N_HEADS):
        for dtype in (torch.float32, torch.bfloat16):
            model = decoder(n_kv_heads=n_kv_heads, n_layers=3).to(dtype)
            state = model.start(2, cache=cache)
            assert state.nbytes() < 100
            model(tokens(2, 7), state)
            view = state.caches[0].extend(
                *torch.zeros(2, 2, n_kv_heads, 1, 4, dtype=dtype), Positions(torch.tensor([[7]]), True), lambda x, _: x
            )
            assert view.k.dtype == view.v.dtype == dtype
            bytes_held[n_kv_heads, dtype] = state.nbytes()
            assert state.nbytes() >= lesson.n_bytes(3, n_kv_heads, 4, 7, 2, dtype.itemsize)
    for (n_kv_heads, dtype), n_bytes in bytes_held.items():
        positions = bytes_held[1, dtype] - (bytes_held[2, dtype] - bytes_held[1, dtype])
        assert n_bytes - positions == n_kv_heads * (bytes_held[1, dtype] - positions)


class Checked(ContiguousCache):
    """Checks that a dense view has position i in slot i."""

    n_dense = 0

    def extend(self, *what) -> KVView:
        view = super().extend(*what)
        if view.dense:
            assert torch.equal(view.positions, torch.arange(view.k.shape[2]).expand_as(view.positions))
            Checked.n_dense += 1
        return view


@settings(max_examples=30)
@given(cut=st.integers(0, 7), ragged=st.booleans(), order=st.sampled_from([[0, 1], [1, 0], [1]]))
def test_a_view_is_called_dense_only_if_slot_i_holds_position_i(cut, ragged, order):
    model, before = decoder(), Checked.n_dense
    state = model.start(2, cache=Checked)
    model(tokens(2, 7), state)
    assert Checked.n_dense > before
    state.truncate(torch.tensor([cut, cut // 2 if ragged else cut]))
    state.reorder(torch.tensor(order))
    for _ in range(2):
        model(tokens(len(order), 3), state)


def test_the_bytes_of_keys_and_values_are_those_of_the_formula():
    cache, k = ContiguousCache(capacity=7), torch.zeros(2, 3, 7, 5, dtype=torch.bfloat16)
    cache.extend(k, k, Positions(torch.arange(7)[None], True), lambda x, _: x)
    assert cache.k.nbytes + cache.v.nbytes == lesson.n_bytes(1, 3, 5, 7, 2, 2)
    gib = [
        lesson.n_bytes(*model, 1, 2) / 2**30
        for model in ((32, 32, 128, 4096), (32, 32, 128, 2**17), (80, 8, 128, 4096))
    ]
    assert gib == [2, 64, 1.25], "Llama-2-7B at 4K and 128K, Llama-2-70B at 4K"


def test_growing_copies_seldom_and_looking_copies_nothing():
    cache, k, buffers = ContiguousCache(capacity=2), torch.ones(1, 1, 1, 3), set()
    for t in range(1000):
        view = cache.extend(k, k, Positions(torch.tensor([[t]]), True), lambda x, _: x)
        buffers.add(cache.k.data_ptr())
        assert view.k.data_ptr() == cache.k.data_ptr()
        assert view.k.shape[2] == t + 1
    assert cache.k.shape[2] <= 2 * 1000
    assert len(buffers) <= 10


def test_a_fresh_state_has_read_nothing_and_without_a_state_nothing_is_remembered():
    model = decoder()
    assert model.start(4).lengths.tolist() == [0] * 4
    assert model.start(4).nbytes() == 0
    assert model(tokens(2, 5))[1] is None
