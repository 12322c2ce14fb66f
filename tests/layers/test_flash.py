"""Tiled attention: equal to the equation, with less memory and work, and zeros for fully masked queries."""

from functools import partial
from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from minillm.cache.kv_cache import KVView
from minillm.constants import EMPTY
from minillm.layers.attention import attend_plainly
from minillm.layers.flash import attend_in_tiles
from minillm.layers.positions import Alibi, no_bias
from minillm.lessons.attention import attention
from minillm.lessons.flash_attention import flash_attention
from tests.layers.questions import VIEWS, H, K, questions
from tests.tiny import N_HEADS, SHAPES, assert_equal, decoder, tokens

every_view = pytest.mark.parametrize(("kind", "causal"), VIEWS)
tiles = st.sampled_from([1, 2, 3, 5, 128])
biases = st.sampled_from([no_bias, Alibi(H)])


def values_and_gradients(road, q, view, *rest):
    """(out, dq, dk, dv) for one gradient of the output, the same for every implementation."""
    out = road(q, view, *rest)
    direction = torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(out.dtype)
    return out, *torch.autograd.grad((out * direction).sum(), (q, view.k, view.v))


def plain_view(B: int, G: int, S: int, width: int = K) -> KVView:
    k, v = torch.randn(2, B, G, S, width, dtype=torch.float64)
    return KVView(k.requires_grad_(), v.requires_grad_(), torch.arange(S)[None, None], True)


@every_view
@settings(max_examples=20)
@given(data=st.data(), tile=tiles, bias=biases)
def test_tiles_are_the_equation_in_values_and_gradients(kind, causal, data, tile, bias):
    question = data.draw(questions(kind, causal))
    in_tiles = values_and_gradients(partial(attend_in_tiles, bias=bias, tile=tile), *question)
    at_once = values_and_gradients(partial(attend_plainly, bias=bias), *question)
    for a, b in zip(in_tiles, at_once, strict=True):
        assert a.isfinite().all()
        assert_equal(a, b)


@pytest.mark.parametrize("causal", [True, False])
@settings(max_examples=15)
@given(T=st.integers(1, 11), n_groups=st.sampled_from([1, 2, 3, H]), tile=tiles)
def test_tiles_are_those_of_the_lesson_for_each_head_and_those_are_exact(causal, T, n_groups, tile):
    q, view = torch.randn(2, H, T, K, dtype=torch.float64), plain_view(2, n_groups, T)
    out = attend_in_tiles(q, view, torch.arange(T)[None], causal, tile=tile)
    for row, head in product(range(2), range(H)):
        k, v = (x[row, head * n_groups // H] for x in (view.k, view.v))
        expected = flash_attention(q[row, head], k, v, causal, tile)
        assert_equal(out[row, head], expected)
        assert_equal(expected, attention(q[row, head], k, v, causal)[0])


@pytest.mark.parametrize("bias", [no_bias, Alibi(2)])
def test_the_gradients_are_those_of_finite_differences(bias):
    view, positions = plain_view(1, 1, 5, 3), torch.tensor([[3, EMPTY, 4, 5]])

    def tiled(q, k, v):
        return attend_in_tiles(
            q, KVView(k, v, torch.tensor([[[0, 3, EMPTY, 2, 5]]]), False), positions, True, 4, bias, tile=2
        )

    assert torch.autograd.gradcheck(
        tiled, (torch.randn(1, 2, 4, 3, dtype=torch.float64, requires_grad=True), view.k, view.v)
    )


@pytest.mark.parametrize("tile", [1, 3, 128])
@pytest.mark.parametrize("size", [1e-3, 1e3, 1e150])
def test_scores_of_any_size_overflow_nowhere(size, tile):
    view, q, positions = (
        plain_view(2, 3, 11),
        size * torch.randn(2, H, 11, K, dtype=torch.float64),
        torch.arange(11)[None],
    )
    q.requires_grad_()
    in_tiles = values_and_gradients(partial(attend_in_tiles, tile=tile), q, view, positions, True)
    for a, b in zip(in_tiles, values_and_gradients(attend_plainly, q, view, positions, True), strict=True):
        assert a.isfinite().all()
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-11 * max(1, size))


def test_in_bfloat16_sums_are_kept_in_float32():
    parts, positions = [torch.randn(2, n, 257, K).bfloat16() for n in (H, 2, 2)], torch.arange(257)[None]
    results = []
    for dtype, road in ((torch.bfloat16, partial(attend_in_tiles, tile=16)), (torch.float64, attend_plainly)):
        q, k, v = (x.to(dtype).requires_grad_() for x in parts)
        results.append(values_and_gradients(road, q, KVView(k, v, positions[:, None], True), positions, True))
    for tiled, exact in zip(*results, strict=True):
        assert tiled.dtype == torch.bfloat16
        assert (tiled.double() - exact).abs().max() <= 2**-7 * exact.abs().max()


@pytest.mark.parametrize("bias", [no_bias, Alibi(6)])
def test_a_query_that_sees_nothing_gives_zeros_and_no_gradient_at_all(bias):
    k_positions = torch.tensor([[[EMPTY, 3, 4, EMPTY, 9]], [[EMPTY] * 5]])
    q_positions = torch.tensor([[EMPTY, 2, 3, 8, 9], [0, 1, 2, 3, EMPTY]])
    blind = torch.tensor([[1, 1, 0, 1, 0], [1, 1, 1, 1, 1]]).bool()
    unseen = torch.tensor([[1, 0, 1, 1, 0], [1, 1, 1, 1, 1]]).bool()
    q, view = torch.randn(2, 6, 5, K, dtype=torch.float64, requires_grad=True), plain_view(2, 3, 5)
    view = view._replace(positions=k_positions, dense=False)
    for tile in (1, 2, 128):
        out, dq, dk, dv = values_and_gradients(
            partial(attend_in_tiles, bias=bias, tile=tile), q, view, q_positions, True, 2
        )
        for x, dead in ((out, blind), (dq, blind), (dk, unseen), (dv, unseen)):
            assert (x.transpose(1, 2)[dead] == 0).all()
        for x, dead in ((out, blind), (dv, unseen)):
            assert (x.transpose(1, 2)[~dead] != 0).all()


@pytest.mark.parametrize("shape", [(0, 7), (5, 0)])
def test_no_queries_and_no_slots_are_texts_too(shape):
    T, S = shape
    q, view = torch.randn(2, H, T, K, dtype=torch.float64, requires_grad=True), plain_view(2, 3, S)
    roads = [
        values_and_gradients(road, q, view, torch.arange(T)[None], True) for road in (attend_in_tiles, attend_plainly)
    ]
    for a, b in zip(*roads, strict=True):
        assert_equal(a, b)


class Largest(TorchDispatchMode):
    """Records the largest number of elements in a result of an operation; a view counts as its base."""

    n = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        sizes = [
            x.untyped_storage().nbytes() // x.element_size() for x in tree_leaves(out) if isinstance(x, torch.Tensor)
        ]
        self.n = max([self.n, *sizes])
        return out


def largest(road, T: int, **how) -> int:
    q, view = torch.randn(1, 2, T, 3, dtype=torch.float64, requires_grad=True), plain_view(1, 1, T, 3)
    with Largest() as seen:
        values_and_gradients(road, q, view, torch.arange(T)[None], True, **how)
    return seen.n


@pytest.mark.parametrize("bias", [no_bias, Alibi(2)])
def test_no_tensor_is_larger_than_a_tile_of_scores_or_an_input(bias):
    road, tile = partial(attend_in_tiles, bias=bias, tile=16), 2 * 16 * 16
    assert [largest(road, T) for T in (17, 67, 131)] == [max(tile, 2 * T * 3) for T in (17, 67, 131)]
    assert largest(partial(attend_plainly, bias=bias), 131) >= 2 * 131 * 131


def work(causal: bool, window: int = 0, n_tiles: int = 7) -> int:
    """Number of multiplications, in units of one tile of a full computation."""
    q, view, positions = (
        torch.randn(1, 2, 16 * n_tiles, 3),
        plain_view(1, 1, 16 * n_tiles, 3),
        torch.arange(16 * n_tiles)[None],
    )
    view = view._replace(k=view.k.float(), v=view.v.float())
    with FlopCounterMode(display=False) as counter:
        attend_in_tiles(q, view, positions, causal, window, tile=16)
    return counter.get_total_flops() * n_tiles**2


def test_tiles_that_no_query_may_see_cost_nothing():
    full = work(causal=False) // 7**2
    assert work(causal=True) // full == 7 * 8 // 2
    assert work(causal=True, window=17) // full == 7 + 6
    assert work(causal=True, window=18) // full == 7 + 6 + 5
    assert work(causal=False, window=17) // full == 7 * 8 // 2 + 6


@pytest.mark.parametrize("causal", [True, False])
def test_what_lies_in_tiles_that_are_not_seen_is_not_even_read(causal):
    q, view, positions = torch.randn(2, H, 8, K, dtype=torch.float64), plain_view(2, 3, 40), torch.arange(16, 24)[None]
    if not causal:
        view = view._replace(positions=view.positions.masked_fill(view.positions >= 24, EMPTY), dense=False)
    expected = attend_in_tiles(q, view, positions, causal, window=9, tile=8)
    k, v = view.k.detach().clone(), view.v.detach().clone()
    for x in (k, v):
        x[:, :, :8] = x[:, :, 24:] = torch.nan
    assert torch.equal(attend_in_tiles(q, view._replace(k=k, v=v), positions, causal, window=9, tile=8), expected)


def test_a_derivative_of_the_gradient_is_refused_rather_than_wrong():
    q, view = torch.randn(1, H, 3, K, dtype=torch.float64, requires_grad=True), plain_view(1, 2, 3)
    (dq,) = torch.autograd.grad(
        attend_in_tiles(q, view, torch.arange(3)[None], True).square().sum(), q, create_graph=True
    )
    with pytest.raises(RuntimeError, match="once_differentiable"):
        dq.sum().backward()


WITHOUT_SINKS = {name: shape for name, shape in SHAPES.items() if "sinks" not in shape}  # which tiles do not know


@pytest.mark.parametrize("shape", WITHOUT_SINKS.values(), ids=WITHOUT_SINKS)
def test_a_decoder_may_run_on_tiles(shape):
    model, text = decoder(**shape), tokens(3, 11)
    text[1, :4] = text[2, 5:7] = EMPTY
    bias = Alibi(N_HEADS) if shape.get("positions") == "alibi" else no_bias
    results = []
    for in_tiles in (False, True):
        for block in model.blocks if in_tiles else []:
            block.attention.attend = lambda q, view, positions, causal, window, dropout: attend_in_tiles(
                q, view, positions, causal, window, bias, tile=3
            )
        model.zero_grad()
        logits = model(text)[0][text >= 0]
        logits.square().sum().backward()
        results.append([logits, *(p.grad for p in model.parameters())])
    for a, b in zip(*results, strict=True):
        assert_equal(a, b)
