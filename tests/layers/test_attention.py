"""Attention agrees in all versions: by hand, the equation, tiles, the fused kernel, and torch's own layers."""

import itertools
import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from minillm.cache.contiguous import ContiguousCache
from minillm.cache.kv_cache import NO_CACHE, KVView, Positions
from minillm.constants import EMPTY
from minillm.layers.attention import Attention, attend, attend_plainly, attend_with_bias
from minillm.layers.flash import attend_in_tiles
from minillm.layers.positions import Alibi, Rotary, no_rotation
from minillm.lessons import attention as lesson
from minillm.lessons.positions import alibi
from tests.layers.questions import RAGGED, VIEWS, H, K, assert_rounded, questions
from tests.tiny import assert_equal, assert_equal_with_gradients

every_view = pytest.mark.parametrize(("kind", "causal"), VIEWS)
every_ragged_view = pytest.mark.parametrize(("kind", "causal"), [view for view in VIEWS if view[0] in RAGGED])
few = settings(max_examples=20)


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
def test_with_a_bias_the_fused_kernel_is_the_equation_in_values_and_gradients(kind, causal, data):
    question = data.draw(questions(kind, causal))
    q, view, *_ = question
    direction = torch.randn_like(q)
    results = []
    for road in (attend_with_bias, attend_plainly):
        out = road(*question, bias=Alibi(H))
        results.append((out, *torch.autograd.grad((out * direction).sum(), (q, view.k, view.v))))
    for fast, slow in zip(*results, strict=True):
        assert fast.isfinite().all()
        assert_equal(fast, slow)


@every_view
@few
@given(data=st.data())
def test_in_bfloat16_it_is_the_equation_up_to_rounding(kind, causal, data):
    assert_rounded(attend, data.draw(questions(kind, causal)))


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


def by_hand(q: torch.Tensor, view: KVView, q_positions: torch.Tensor, window: int, slopes: list[float]) -> torch.Tensor:
    """Causal attention, one query at a time, over the list of keys that it sees."""
    out = torch.zeros_like(q)
    B, _, T, _ = q.shape
    for b, h, t in itertools.product(range(B), range(H), range(T)):
        k, v, places = (x.expand(B, *x.shape[1:])[b, h * x.shape[1] // H] for x in (view.k, view.v, view.positions))
        i = q_positions.expand(B, T)[b, t].item()
        seen = [(s, i - j) for s, j in enumerate(places.tolist()) if 0 <= j <= i and (not window or i - j < window)]
        scores = torch.tensor(
            [(q[b, h, t] @ k[s]).item() / math.sqrt(K) - slopes[h] * distance for s, distance in seen]
        )
        for (s, _), weight in zip(seen, scores.exp() / scores.exp().sum(), strict=True):
            out[b, h, t] += weight * v[s]
    return out


ROADS = {
    "plain": (attend_plainly, [0.0] * H),
    "fused": (attend, [0.0] * H),
    "tiled": (partial(attend_in_tiles, tile=3), [0.0] * H),
    "plain with alibi": (partial(attend_plainly, bias=Alibi(H)), Alibi(H).slopes.tolist()),
    "fused with alibi": (partial(attend_with_bias, bias=Alibi(H)), Alibi(H).slopes.tolist()),
    "tiled with alibi": (partial(attend_in_tiles, bias=Alibi(H), tile=3), Alibi(H).slopes.tolist()),
}

every_road = pytest.mark.parametrize(("road", "slopes"), ROADS.values(), ids=ROADS)


@pytest.fixture
def float64():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@every_road
@pytest.mark.parametrize("n_groups", [1, 2, H])
@pytest.mark.parametrize("T", [3, 5, 6, 17], ids=["T < W", "T = W", "T = W + 1", "T >> W"])
def test_a_window_shows_a_band_and_a_text_may_come_in_chunks(road, slopes, n_groups, T, float64):
    window, q, k, v = 5, torch.randn(2, H, T, K), torch.randn(2, n_groups, T, K), torch.randn(2, n_groups, T, K)
    positions = torch.arange(T)[None]
    expected = by_hand(q, KVView(k, v, positions[:, None], True), positions, window, slopes)
    assert_equal(road(q, KVView(k, v, positions[:, None], True), positions, True, window), expected)
    for sizes in ([1] * T, [2, T - 2], [T - 1, 1], [1, T - 2, 1]):
        cache, done = ContiguousCache(), 0
        for n in sizes:
            new = slice(done, done + n)
            view = cache.extend(k[:, :, new], v[:, :, new], Positions(positions[:, new], True), no_rotation)
            assert_equal(road(q[:, :, new], view, positions[:, new], True, window), expected[:, :, new])
            done += n


@every_road
@pytest.mark.parametrize("n_groups", [1, 2, H])
def test_ragged_slots_in_any_order_are_seen_by_their_positions(road, slopes, n_groups, float64):
    q, k, v = torch.randn(2, H, 7, K), torch.randn(2, n_groups, 11, K), torch.randn(2, n_groups, 11, K)
    q_positions, k_positions = (
        torch.randint(EMPTY, 13, (2, 7)),
        torch.stack([torch.randperm(11) for _ in range(2 * n_groups)]),
    )
    view = KVView(k, v, k_positions.view(2, n_groups, 11).masked_fill(torch.rand(2, n_groups, 11) < 0.3, EMPTY), False)
    assert_equal(road(q, view, q_positions, True, 4), by_hand(q, view, q_positions, 4, slopes))


@pytest.mark.parametrize("road", [attend_plainly, attend, attend_in_tiles, partial(attend_in_tiles, tile=1)])
def test_scores_of_112_and_96_before_scaling_give_weights_of_88_and_12_percent(road):
    q, k, v = torch.zeros(1, 1, 1, 64), torch.zeros(1, 1, 2, 64), torch.zeros(1, 1, 2, 64)
    q[..., 0], k[..., 0, 0], k[..., 1, 0] = 16, 7, 6
    v[..., 0, 0] = v[..., 1, 1] = 1  # so that the output's first two numbers are the weights
    assert (q @ k.mT).flatten().tolist() == [112, 96]
    out = road(q, KVView(k, v, torch.arange(2)[None, None], True), torch.tensor([[1]]), True).flatten()
    torch.testing.assert_close(out[:2], torch.tensor([math.exp(14), math.exp(12)]) / (math.exp(14) + math.exp(12)))
    assert [round(weight, 2) for weight in out[:2].tolist()] == [0.88, 0.12]
    assert not out[2:].any()


@pytest.mark.parametrize("road", [attend_plainly, attend, partial(attend_in_tiles, tile=3)])
@pytest.mark.parametrize("causal", [True, False])
def test_the_equation_is_that_of_the_lesson(road, causal, float64):
    q, k, v = torch.randn(3, 2, H, 7, K)
    view = KVView(k, v, torch.arange(7)[None, None], True)
    assert_equal(road(q, view, torch.arange(7)[None], causal), lesson.attention(q, k, v, causal)[0])


def test_scores_with_a_bias_are_those_of_the_lessons_on_attention_and_positions(float64):
    q, k, v, positions = torch.randn(2, 4, 7, K), torch.randn(2, 4, 7, K), torch.randn(2, 4, 7, K), torch.arange(7)
    view = KVView(k, v, positions[None, None], True)
    future = torch.full((7, 7), -torch.inf).triu(1)
    expected = (q @ k.mT / math.sqrt(K) + alibi(4, 7) + future).softmax(-1) @ v
    assert_equal(attend_with_bias(q, view, positions[None], True, bias=Alibi(4)), expected)


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


@pytest.mark.parametrize("causal", [True, False])
def test_self_attention_is_that_of_the_lesson_in_values_and_gradients(causal):
    mine, x = layer(H, causal=causal), torch.randn(3, 7, H * K, dtype=torch.float64)
    theirs = lesson.MultiHeadAttention(H * K, H).double()
    theirs.load_state_dict(mine.state_dict())
    assert_equal_with_gradients((mine(x), theirs(x, x, causal)), mine, theirs)


def test_cross_attention_is_that_of_the_lesson_in_values_and_gradients():
    mine = layer(H, causal=False)
    x, memory = torch.randn(3, 7, H * K, dtype=torch.float64), torch.randn(3, 11, H * K, dtype=torch.float64)
    theirs = lesson.MultiHeadAttention(H * K, H).double()
    theirs.load_state_dict(mine.state_dict())
    shown = mine.show(memory, Positions(torch.arange(11)[None], True))
    out = mine.look(x, Positions(torch.arange(7)[None], True), shown)
    assert_equal_with_gradients((out, theirs(x, memory, causal=False)), mine, theirs)


@pytest.mark.parametrize(
    "options",
    [{}, {"causal": False}, {"window": 3}, {"rotate": Rotary(6, 99)}, {"score_bias": Alibi(H)}, {"sinks": True}],
)
def test_one_line_of_attention_needs_neither_positions_nor_a_cache(options):
    attention, x = Attention(13, H, 2, 6, **options).double(), torch.randn(3, 7, 13, dtype=torch.float64)
    places, out = torch.arange(7)[None], attention(x)
    assert_equal(out, attention(x, Positions(places, dense=True), NO_CACHE))
    q, k, v = (to(x).unflatten(2, (-1, 6)).transpose(1, 2) for to in (attention.to_q, attention.to_k, attention.to_v))
    view = KVView(attention.rotate(k, places), v, places[:, None], dense=True)
    how = {"bias": attention.score_bias, "softmax": attention.softmax}
    q = attention.rotate(q, places)
    expected = attend_plainly(q, view, places, attention.causal, attention.window, **how)
    assert_equal(out, attention.to_out(expected.transpose(1, 2).flatten(2)))


def test_self_attention_is_torchs_multi_head_attention():
    mine, x = layer(H), torch.randn(3, 7, H * K, dtype=torch.float64)
    theirs, future = theirs_with_the_weights_of(mine), torch.ones(7, 7).triu(1).bool()
    out = mine(x, Positions(torch.arange(7)[None], True), NO_CACHE)
    assert_equal(out, theirs(x, x, x, attn_mask=future)[0])


@pytest.mark.parametrize("n_kv_heads", [1, 2, H])
def test_the_same_extra_value_for_every_token_is_a_bias_of_the_values(n_kv_heads):
    mine, x, extra = (
        layer(n_kv_heads),
        torch.randn(3, 7, H * K, dtype=torch.float64),
        torch.randn(n_kv_heads * K, dtype=torch.float64),
    )
    out = mine(x, Positions(torch.arange(7)[None], True), NO_CACHE, extra.expand(3, 7, -1))
    mine.to_v.bias.data += extra
    assert_equal(out, mine(x, Positions(torch.arange(7)[None], True), NO_CACHE))


def test_cross_attention_is_torchs_multi_head_attention_over_ragged_sources():
    mine = layer(H, causal=False)
    x, memory = torch.randn(3, 7, H * K, dtype=torch.float64), torch.randn(3, 11, H * K, dtype=torch.float64)
    positions = torch.arange(11).repeat(3, 1)
    positions[1, 4:] = EMPTY
    positions[2, :5] = EMPTY
    out = mine.look(x, Positions(torch.arange(7)[None], True), mine.show(memory, Positions(positions, False)))
    assert_equal(out, theirs_with_the_weights_of(mine)(x, memory, memory, key_padding_mask=positions == EMPTY)[0])
    everything = mine.look(
        x, Positions(torch.arange(7)[None], True), mine.show(memory, Positions(torch.arange(11)[None], True))
    )
    assert_equal(everything, theirs_with_the_weights_of(mine)(x, memory, memory)[0])


@pytest.mark.parametrize("n_kv_heads", [1, 2, 3])
def test_groups_of_heads_share_keys_and_values_in_the_order_of_torchs_grouped_kernel(n_kv_heads):
    mine = layer(n_kv_heads, d_model=13, causal=False)
    x, memory = torch.randn(2, 7, 13, dtype=torch.float64), torch.randn(2, 11, 13, dtype=torch.float64)
    q, k, v = (
        to(y).unflatten(-1, (-1, K)).transpose(1, 2)
        for to, y in ((mine.to_q, x), (mine.to_k, memory), (mine.to_v, memory))
    )
    expected = mine.to_out(F.scaled_dot_product_attention(q, k, v, enable_gqa=True).transpose(1, 2).flatten(2))
    assert_equal(
        mine.look(
            x, Positions(torch.arange(7)[None], True), mine.show(memory, Positions(torch.arange(11)[None], True))
        ),
        expected,
    )


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
    assert_equal(mine(x, Positions(positions, True), NO_CACHE), mine.to_out(expected))


def test_dropout_of_weights_keeps_the_mean():
    torch.manual_seed(0)
    q, view = (
        torch.randn(1, H, 3, K),
        KVView(torch.randn(1, 2, 4, K), torch.rand(1, 2, 4, K), torch.arange(4)[None, None], True),
    )
    exact = attend(q, view, torch.arange(3)[None], causal=False)
    many = torch.stack([attend(q, view, torch.arange(3)[None], causal=False, dropout=0.4) for _ in range(3000)])
    assert many.std(0).min() > 0.05
    torch.testing.assert_close(many.mean(0), exact, rtol=0, atol=0.05)


def test_heads_that_cannot_be_shared_evenly_are_refused():
    with pytest.raises(ValueError, match="n_kv_heads = 4: expected a divisor of n_heads = 6"):
        layer(4)
