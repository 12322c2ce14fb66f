"""Attention by the fused kernel, by the written-out equation, and by torch's own layers: all the same."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from minillm.cache.base import EMPTY, KVView, NoCache
from minillm.layers.attention import Attention, attend, attend_plainly
from minillm.layers.positions import Rotary
from tests.tiny import assert_equal

H, K = 6, 5

DENSE = ["whole text", "last tokens", "last token", "other text"]
RAGGED = ["slots of a row", "slots of a group", "nothing"]

VIEWS = [(kind, causal) for kind in DENSE + RAGGED for causal in (True, False) if (kind, causal) != ("other text", True)]

every_view = pytest.mark.parametrize(("kind", "causal"), VIEWS)
every_ragged_view = pytest.mark.parametrize(("kind", "causal"), [view for view in VIEWS if view[0] in RAGGED])
few = settings(max_examples=20)


@st.composite
def questions(draw, kind: str, causal: bool):
    """q (B, H, T, K), a view of S slots, the queries' positions, causal and window."""
    B, T, S, G = draw(st.integers(1, 3)), draw(st.integers(2, 7)), draw(st.integers(2, 11)), draw(st.sampled_from([1, 2, 3, H]))
    T = 1 if kind == "last token" else T
    S = {"whole text": T, "last tokens": T + S}.get(kind, S)
    window = draw(st.sampled_from([0, 0, 1, S - 1, S, S + 1])) if kind != "other text" else 0
    g = torch.Generator().manual_seed(draw(st.integers(0, 2**32 - 1)))
    if kind in DENSE:
        q_positions, k_positions = torch.arange(max(S - T, 0), max(S - T, 0) + T)[None], torch.arange(S)[None, None]
    else:
        groups = G if kind == "slots of a group" else 1
        q_positions = torch.randint(EMPTY, S + 2, (B, T), generator=g)
        k_positions = torch.randint(EMPTY, S, (B, groups, S), generator=g)
        k_positions = k_positions.where(torch.rand(k_positions.shape, generator=g) < 0.7, EMPTY)
        k_positions = k_positions * 0 + EMPTY if kind == "nothing" else k_positions
    q, k, v = (torch.randn(B, n, m, K, generator=g, dtype=torch.float64, requires_grad=True) for n, m in ((H, T), (G, S), (G, S)))
    return q, KVView(k, v, k_positions, kind in DENSE), q_positions, causal, window


@every_view
@few
@given(data=st.data())
def test_the_fused_kernel_is_the_equation_in_values_and_gradients(kind, causal, data):
    question = data.draw(questions(kind, causal))
    q, view, *_ = question
    direction = torch.randn_like(q)
    results = []
    for road in (attend, attend_plainly):
        out = road(*question)
        results.append((out, *torch.autograd.grad((out * direction).sum(), (q, view.k, view.v))))
    for fast, slow in zip(*results, strict=True):
        assert fast.isfinite().all()
        assert_equal(fast, slow)


@every_view
@few
@given(data=st.data())
def test_in_bfloat16_it_is_the_equation_up_to_rounding(kind, causal, data):
    question = data.draw(questions(kind, causal))
    q, view, *rest = question
    rounded = [x.detach().bfloat16() for x in (q, view.k, view.v)]
    direction, results = torch.randn_like(q).bfloat16(), []
    for dtype, road in ((torch.bfloat16, attend), (torch.float64, attend_plainly)):
        parts = [x.to(dtype).requires_grad_() for x in rounded]
        out = road(parts[0], KVView(*parts[1:], view.positions, view.dense), *rest)
        assert out.dtype == dtype
        results.append((out, *torch.autograd.grad((out * direction).sum(), parts)))
    for fast, slow in zip(*results, strict=True):
        assert (fast.double() - slow).abs().max() <= 0.04 * slow.abs().max().clamp(min=1)


@every_ragged_view
@few
@given(data=st.data(), junk=st.floats(-1e3, 1e3))
def test_what_lies_in_empty_slots_is_never_read(kind, causal, data, junk):
    question = data.draw(questions(kind, causal))
    q, view, *rest = question
    empty = (view.positions == EMPTY)[..., None].expand(len(q), -1, -1, -1)
    changed = KVView(view.k.masked_fill(empty, junk), view.v.masked_fill(empty, junk), view.positions, view.dense)
    assert_equal(attend(q, changed, *rest), attend(q, view, *rest))


@every_view
@few
@given(data=st.data())
def test_the_order_of_slots_does_not_matter(kind, causal, data):
    question = data.draw(questions(kind, causal))
    q, view, *rest = question
    order = torch.randperm(view.k.shape[2])
    shuffled = KVView(view.k[:, :, order], view.v[:, :, order], view.positions[..., order], dense=False)
    assert_equal(attend(q, shuffled, *rest), attend(q, view, *rest))


def test_the_equation_with_one_key_gives_its_value_and_with_equal_keys_the_mean():
    q, v = torch.randn(1, 1, 3, K), torch.randn(1, 1, 3, K)
    view = KVView(torch.zeros(1, 1, 3, K), v, torch.arange(3)[None, None], True)
    out = attend_plainly(q, view, torch.arange(3)[None], causal=True)
    torch.testing.assert_close(out[0, 0], torch.stack([v[0, 0, : t + 1].mean(0) for t in range(3)]))


def layer(n_kv_heads: int, d_model: int = H * K, **options) -> Attention:
    torch.manual_seed(0)
    return Attention(d_model, H, n_kv_heads, K, bias=True, **options).double()


def theirs_with_the_weights_of(mine: Attention) -> nn.MultiheadAttention:
    theirs = nn.MultiheadAttention(H * K, H, batch_first=True).double()
    parts = (mine.to_q, mine.to_k, mine.to_v)
    theirs.in_proj_weight.data = torch.cat([part.weight for part in parts])
    theirs.in_proj_bias.data = torch.cat([part.bias for part in parts])
    theirs.out_proj.load_state_dict(mine.to_out.state_dict())
    return theirs


def test_self_attention_is_torchs_multi_head_attention():
    mine, x = layer(H), torch.randn(3, 7, H * K, dtype=torch.float64)
    theirs, future = theirs_with_the_weights_of(mine), torch.ones(7, 7).triu(1).bool()
    out = mine(x, torch.arange(7)[None], True, NoCache())
    assert_equal(out, theirs(x, x, x, attn_mask=future)[0])


@pytest.mark.parametrize("n_kv_heads", [1, 2, H])
def test_the_same_extra_value_for_every_token_is_a_bias_of_the_values(n_kv_heads):
    mine, x, extra = layer(n_kv_heads), torch.randn(3, 7, H * K, dtype=torch.float64), torch.randn(n_kv_heads * K, dtype=torch.float64)
    out = mine(x, torch.arange(7)[None], True, NoCache(), extra.expand(3, 7, -1))
    mine.to_v.bias.data += extra
    assert_equal(out, mine(x, torch.arange(7)[None], True, NoCache()))


def test_cross_attention_is_torchs_multi_head_attention_over_ragged_sources():
    mine = layer(H, causal=False)
    x, memory = torch.randn(3, 7, H * K, dtype=torch.float64), torch.randn(3, 11, H * K, dtype=torch.float64)
    positions = torch.arange(11).repeat(3, 1)
    positions[1, 4:] = EMPTY
    positions[2, :5] = EMPTY
    out = mine.look(x, torch.arange(7)[None], mine.show(memory, positions, dense=False))
    assert_equal(out, theirs_with_the_weights_of(mine)(x, memory, memory, key_padding_mask=positions == EMPTY)[0])
    everything = mine.look(x, torch.arange(7)[None], mine.show(memory, torch.arange(11)[None], dense=True))
    assert_equal(everything, theirs_with_the_weights_of(mine)(x, memory, memory)[0])


@pytest.mark.parametrize("n_kv_heads", [1, 2, 3])
def test_groups_of_heads_share_keys_and_values_in_the_order_of_torchs_grouped_kernel(n_kv_heads):
    mine = layer(n_kv_heads, d_model=13, causal=False)
    x, memory = torch.randn(2, 7, 13, dtype=torch.float64), torch.randn(2, 11, 13, dtype=torch.float64)
    q, k, v = (to(y).unflatten(-1, (-1, K)).transpose(1, 2) for to, y in ((mine.to_q, x), (mine.to_k, memory), (mine.to_v, memory)))
    expected = mine.to_out(F.scaled_dot_product_attention(q, k, v, enable_gqa=True).transpose(1, 2).flatten(2))
    assert_equal(mine.look(x, torch.arange(7)[None], mine.show(memory, torch.arange(11)[None], dense=True)), expected)


def test_queries_and_keys_are_normed_before_they_are_turned():
    torch.manual_seed(0)
    norms = []

    def norm(width: int) -> nn.Module:
        norms.append(nn.RMSNorm(width).double())
        nn.init.normal_(norms[-1].weight)
        return norms[-1]

    rotary = Rotary(4, context_length=19)
    mine = Attention(13, H, 2, 4, rotate=rotary, qk_norm=norm).double()
    x, positions = torch.randn(2, 7, 13, dtype=torch.float64), torch.arange(11, 18)[None]
    q, k, v = (to(x).unflatten(-1, (-1, 4)).transpose(1, 2) for to in (mine.to_q, mine.to_k, mine.to_v))
    q, k = rotary(norms[0](q), positions), rotary(norms[1](k), positions)
    expected = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True).transpose(1, 2).flatten(2)
    assert_equal(mine(x, positions, True, NoCache()), mine.to_out(expected))


def test_dropout_of_weights_keeps_the_mean():
    torch.manual_seed(0)
    q, view = torch.randn(1, H, 3, K), KVView(torch.randn(1, 2, 4, K), torch.rand(1, 2, 4, K), torch.arange(4)[None, None], True)
    exact = attend(q, view, torch.arange(3)[None], causal=False)
    many = torch.stack([attend(q, view, torch.arange(3)[None], causal=False, dropout=0.4) for _ in range(3000)])
    assert many.std(0).min() > 0.05
    torch.testing.assert_close(many.mean(0), exact, rtol=0, atol=0.05)


def test_heads_that_cannot_be_shared_evenly_are_refused():
    with pytest.raises(ValueError, match="n_kv_heads = 4: expected a divisor of n_heads = 6"):
        layer(4)
