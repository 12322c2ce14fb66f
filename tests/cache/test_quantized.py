"""Quantized caches: the error is bounded, the cache takes fewer bytes, and no token is lost."""

from functools import partial
from itertools import pairwise, product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from minillm.cache.contiguous import ContiguousCache
from minillm.cache.kv_cache import Positions
from minillm.cache.quantized import QuantizedCache, dequantize, quantize
from minillm.constants import EMPTY
from minillm.lessons import cache_quantization as lesson
from tests.tiny import assert_equal, assert_reads_on, decoder, tokens

BITS = pytest.mark.parametrize("bits", [8, 4])


def unturned(x, positions):
    return x


def read(cache, k, v, chunk=1, start=0):
    """Extend the cache by k, v (B, G, T, K) in chunks; return the last view."""
    for a in range(0, k.shape[2], chunk):
        b = min(a + chunk, k.shape[2])
        view = cache.extend(
            k[:, :, a:b], v[:, :, a:b], Positions(torch.arange(start + a, start + b).expand(len(k), -1), True), unturned
        )
    return view


@BITS
@settings(max_examples=20)
@given(
    seed=st.integers(0, 999),
    dim=st.integers(0, 2),
    scale=st.sampled_from([0.0, 1e-12, 1e9]),
    shift=st.sampled_from([0.0, -7.0, 1e5]),
)
def test_no_number_is_off_by_more_than_half_of_its_scale(bits, seed, dim, scale, shift):
    x = torch.randn(3, 5, 14, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * scale + shift
    rounded = quantize(x, dim, bits)
    error = (dequantize(rounded, bits) - x).abs()
    assert rounded.codes.dtype == torch.uint8 and rounded.codes.numel() == x.numel() * bits // 8
    assert (error <= rounded.scale / 2 + 1e-14 * x.abs().max()).all()
    torch.testing.assert_close(
        rounded.scale * (2**bits - 1), x.amax(dim, keepdim=True) - x.amin(dim, keepdim=True), rtol=1e-12, atol=0
    )


@BITS
@settings(max_examples=15)
@given(seed=st.integers(0, 999), T=st.integers(1, 40), chunk=st.sampled_from([1, 7, 40]))
def test_keys_share_scales_along_tokens_and_values_along_channels_and_the_last_tokens_are_exact(bits, seed, T, chunk):
    g = torch.Generator().manual_seed(seed)
    k, v = torch.randn(2, 2, 3, T + 1, 5, generator=g, dtype=torch.float64)
    k[..., 3] *= 100  # a channel that is large for every token
    v[..., ::3, :] *= 100  # tokens that are large in every channel
    cache = QuantizedCache(bits, group=6, residual=5)
    read(cache, k[:, :, :T], v[:, :, :T], chunk)
    view = read(cache, k[:, :, T:], v[:, :, T:], start=T)
    n = max(0, (T - 5) // 6) * 6
    assert torch.equal(view.positions, torch.arange(T + 1).expand(2, 3, -1)) and view.dense
    assert torch.equal(view.k[:, :, n:], k[:, :, n:]) and torch.equal(view.v[:, :, n:], v[:, :, n:])
    levels = 2 * (2**bits - 1) * (1 - 1e-9)
    for begin in range(0, n, 6):
        a, b = slice(begin, begin + 6), k[:, :, begin : begin + 6]
        assert ((view.k[:, :, a] - b).abs() <= (b.amax(2, keepdim=True) - b.amin(2, keepdim=True)) / levels).all()
    width = v.amax(3, keepdim=True) - v.amin(3, keepdim=True)
    assert ((view.v - v).abs() <= width / levels).all()
    if n:
        assert not torch.equal(view.k[:, :, :n], k[:, :, :n]) and not torch.equal(view.v[:, :, :n], v[:, :, :n])


@settings(max_examples=20)
@given(seed=st.integers(0, 99), cuts=st.lists(st.integers(0, 29), max_size=4).map(sorted))
def test_four_bits_are_those_of_the_lesson_for_each_head(seed, cuts):
    k, v = torch.randn(2, 2, 3, 29, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    cache = QuantizedCache(4, group=6, residual=5)
    heads = {head: lesson.QuantizedCache(6, 5, 5) for head in product(range(2), range(3))}
    for a, b in pairwise([0, *cuts, 29]):
        ids = torch.arange(a, b)[None]
        view = cache.extend(k[:, :, a:b], v[:, :, a:b], Positions(ids, True), unturned)
        for head, slow in heads.items():
            keys, values = slow.append(k[head][a:b], v[head][a:b])
            assert_equal(view.k[head], keys)
            assert_equal(view.v[head], values)
    rounded = [part for slow in heads.values() for pair in slow.groups for x in pair for part in x]
    assert cache.k.nbytes() + cache.v.nbytes() == sum(part.nbytes for part in rounded)


@BITS
def test_the_bytes_held_are_those_of_the_codes_the_scales_and_the_last_tokens(bits):
    k, v = torch.randn(2, 2, 3, 4 * 32 + 32, 16)
    cache, plain = QuantizedCache(bits), ContiguousCache()
    assert cache.nbytes() == 0
    read(cache, k, v, 32)
    read(plain, k, v, 32)
    codes = 2 * 2 * 3 * 128 * 16 * bits // 8
    # scale and zero point, for four groups of keys and for each token's values
    scales = 2 * 4 * (2 * 3 * 16 * 4 + 2 * 3 * 128)
    last = 2 * 3 * 32 * (2 * 16 * 4 + 8)
    assert cache.nbytes() == codes + scales + last + 2 * 8
    assert len(cache.slots.positions[0, 0]) == 32


@BITS
def test_a_rounded_cache_says_nearly_what_an_exact_one_says(bits):
    model, text = decoder(n_kv_heads=2, context_length=100), tokens(2, 90)
    state = model.start(2, cache=partial(QuantizedCache, bits, group=4, residual=3))
    logits = torch.cat([model(text[:, t : t + 1], state)[0] for t in range(90)], 1)
    error = (logits - model(text)[0]).std() / model(text)[0].std()
    assert 1e-6 < error < {8: 0.02, 4: 0.3}[bits]


@BITS
@pytest.mark.parametrize("T", [7, 8, 9, 30])
def test_a_first_read_sees_itself_unrounded_and_the_next_one_sees_it_rounded(bits, T):
    k, v = torch.randn(2, 2, 3, T, 6, dtype=torch.float64)
    cache = QuantizedCache(bits, group=6, residual=2)
    view = read(cache, k, v, chunk=T)
    assert view.dense and torch.equal(view.k, k) and torch.equal(view.v, v)
    view = read(cache, *torch.randn(2, 2, 3, 1, 6, dtype=torch.float64), start=T)
    n = max(0, (T - 2) // 6) * 6
    assert torch.equal((view.k[:, :, :T] == k).all(3).all(1).all(0), torch.arange(T) >= n)


@BITS
def test_groups_that_no_row_needs_any_more_are_given_back(bits):
    cache = QuantizedCache(bits, group=4, residual=3)
    k, v = torch.randn(2, 2, 3, 40, 4)
    read(cache, k[:, :, :3], v[:, :, :3])
    small = cache.nbytes()
    ids = torch.stack([torch.arange(3, 43), torch.full((40,), EMPTY)])
    cache.extend(k, v, Positions(ids, False), unturned)
    assert cache.nbytes() > 3 * small
    cache.reorder(torch.tensor([1, 1]))  # the long row leaves
    new = torch.randn(2, 3, 0, 4)
    cache.extend(new, new, Positions(torch.empty(1, 0, dtype=torch.long), True), unturned)
    assert cache.nbytes() == small
    cache.truncate(torch.zeros(2, dtype=torch.long))
    assert cache.nbytes() == 2 * 8


@BITS
def test_while_no_group_is_full_a_rounded_cache_is_exact(bits):
    model, rows = decoder(n_kv_heads=2), [[], [], []]
    state = model.start(3, cache=partial(QuantizedCache, bits))
    for chunk in (tokens(3, 9), tokens(3, 7).masked_fill(torch.rand(3, 7) < 0.5, EMPTY), tokens(3, 0)):
        assert_reads_on(model, state, rows, chunk)
    state.reorder(torch.tensor([2, 0]))
    state.truncate(torch.tensor([3, 8]))
    assert_reads_on(model, state, [rows[2][:3], rows[0][:8]], tokens(2, 5))


@settings(max_examples=10)
@given(seed=st.integers(0, 99), cuts=st.lists(st.integers(0, 29), max_size=4).map(sorted))
def test_a_row_is_rounded_in_the_same_way_alone_and_in_company(seed, cuts):
    some = torch.rand(3, 29, generator=torch.Generator().manual_seed(seed)) < 0.4
    model, text, make = (
        decoder(n_kv_heads=3),
        tokens(3, 29, seed).masked_fill(some, EMPTY),
        partial(QuantizedCache, 4, 4, 3),
    )
    together, alone = model.start(3, cache=make), [model.start(1, cache=make) for _ in range(3)]
    for a, b in zip([0, *cuts], [*cuts, 29], strict=True):
        logits = model(text[:, a:b], together)[0]
        for row, state in enumerate(alone):
            filled = text[row, a:b] >= 0
            if filled.any():
                assert_equal(logits[row, filled], model(text[row : row + 1, a:b][:, filled], state)[0][0])
    together.reorder(torch.tensor([1, 1, 2]))
    logits = model(tokens(3, 1), together)[0]
    assert_equal(logits[2], model(tokens(3, 1)[2:], alone[2])[0][0])


def test_the_last_tokens_can_be_taken_back_and_rounded_ones_cannot():
    k, v = torch.randn(2, 2, 3, 12, 4)
    cache = QuantizedCache(8, group=4, residual=3)
    read(cache, k, v)
    before = cache.nbytes()
    assert cache.n_groups.tolist() == [2, 2]
    with pytest.raises(ValueError, match=r"lengths = \[12, 7\]: expected at least the rounded tokens, \[8, 8\], or 0"):
        cache.truncate(torch.tensor([12, 7]))
    assert cache.nbytes() == before
    cache.truncate(torch.tensor([9, 0]))
    new = torch.randn(2, 3, 1, 4)
    view = cache.extend(new, new, Positions(torch.tensor([[9], [0]]), True), unturned)
    assert view.positions[:, 0].tolist()[0][:8] == list(range(8)) and (view.positions[1, 0] >= 0).sum() == 1
    assert torch.equal(view.k[0, :, view.positions[0, 0] == 8], k[0, :, 8:9]) and not view.dense
