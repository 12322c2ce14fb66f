"""The forwards equal torch's own layers, and the library's where torch has none."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from minillm.backprop.attention import attend, rotate
from minillm.backprop.cross_entropy import cross_entropy, cross_entropy_backward
from minillm.backprop.feedforward import ACTIVATIONS, swiglu
from minillm.backprop.lora import lora
from minillm.backprop.moe import moe, moe_backward
from minillm.backprop.norm import layer_norm, rms_norm
from minillm.backprop.recurrent import CELLS, unroll
from minillm.backprop.recurrent_model import recurrent_model, recurrent_model_backward
from minillm.layers.feedforward import ACTIVATIONS as LAYERS
from minillm.layers.positions import Rotary
from tests.tiny import assert_equal

TORCH = {"rnn": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}
every_cell = pytest.mark.parametrize("name", CELLS)


def random(*shape):
    return torch.randn(shape, dtype=torch.float64)


def test_norms_are_torchs():
    x, weight, bias = random(3, 5, 7), random(7), random(7)
    assert_equal(layer_norm(x, weight, bias, eps=0.03)[0], F.layer_norm(x, (7,), weight, bias, 0.03))
    assert_equal(rms_norm(x, weight, eps=0.03)[0], F.rms_norm(x, (7,), weight, 0.03))


def test_every_activation_of_a_decoder_has_a_derivative_by_hand():
    assert ACTIVATIONS.keys() == LAYERS.keys()
    for name, activation in ACTIVATIONS.items():
        assert_equal(activation.value(x := random(101)), LAYERS[name](x))


@pytest.mark.parametrize("G", [1, 2, 6])
def test_attention_is_torchs_fused_kernel(G):
    q, k, v = random(2, 6, 7, 3), random(2, G, 7, 3), random(2, G, 7, 3)
    mask = torch.ones(1, 1, 7, 7).tril().bool()
    assert_equal(attend(q, k, v, mask)[0], F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True))


def test_rotations_are_those_of_the_decoder():
    x, turn = random(2, 3, 5, 6), Rotary(6, context_length=101)
    angles = torch.arange(90, 95, dtype=torch.float64)[:, None] * 10000.0 ** (-torch.arange(3, dtype=torch.float64) / 3)
    assert_equal(rotate(x, angles.cos(), angles.sin()), turn(x, torch.arange(90, 95)[None]))


def test_cross_entropy_of_logits_far_from_zero_and_of_banned_tokens_is_torchs():
    logits = 1000 * random(5, 7)
    logits[:, 2] = -torch.inf
    targets = torch.tensor([0, 1, -100, 3, 6])
    total, kept = cross_entropy(logits, targets)
    assert_equal(total, F.cross_entropy(logits, targets, reduction="sum"))
    assert cross_entropy_backward(1.0, kept).isfinite().all()


@every_cell
def test_a_cell_over_time_is_torchs_layer(name):
    theirs = TORCH[name](5, 3, batch_first=True).double()
    x, state = random(2, 7, 5), tuple(random(2, 3) for _ in range(2 if name == "lstm" else 1))
    given = tuple(part[None] for part in state)
    out, last = theirs(x, given if name == "lstm" else given[0])
    (y, mine), _ = unroll(CELLS[name], x, state, *theirs.parameters())
    assert_equal(y, out)
    for a, b in zip(mine, last if name == "lstm" else (last,), strict=True):
        assert_equal(a, b[0])


@every_cell
@pytest.mark.parametrize("tied", [True, False])
def test_a_stacked_language_model_is_torchs_with_every_gradient(name, tied):
    V, D, H, L = 11, 3 if tied else 5, 3, 2
    embed, layers, head = (
        nn.Embedding(V, D).double(),
        TORCH[name](D, H, L, batch_first=True).double(),
        nn.Linear(H, V).double(),
    )
    if tied:
        head.weight = embed.weight
    tokens, targets = torch.randint(V, (2, 7)), torch.randint(V, (2, 7)).masked_fill(torch.rand(2, 7) < 0.3, -100)
    theirs, _ = layers(embed(tokens))
    loss = F.cross_entropy(head(theirs).flatten(0, 1), targets.flatten(), reduction="sum")
    loss.backward()

    with torch.no_grad():
        weights = list(layers.parameters())
        stack = [tuple(weights[i : i + 4]) for i in range(0, 4 * L, 4)]
        start = tuple(torch.zeros(2, H).double() for _ in range(2 if name == "lstm" else 1))
        (logits, _), kept = recurrent_model(
            CELLS[name], tokens, [start] * L, embed.weight, stack, head.weight, head.bias
        )
        total, kept_loss = cross_entropy(logits, targets)
        dtable, dlayers, dhead, dhead_bias = recurrent_model_backward(cross_entropy_backward(1.0, kept_loss), kept)
    assert_equal(total, loss)
    assert_equal(dtable + dhead if tied else dtable, embed.weight.grad)
    assert_equal(dhead_bias, head.bias.grad)
    if not tied:
        assert_equal(dhead, head.weight.grad)
    for mine, theirs in zip([d for dlayer in dlayers for d in dlayer], weights, strict=True):
        assert_equal(mine, theirs.grad)


@every_cell
def test_two_pieces_of_a_text_are_read_as_one_when_the_state_is_carried(name):
    n, state = {"rnn": 1, "lstm": 4, "gru": 3}[name], tuple(random(2, 3) for _ in range(2 if name == "lstm" else 1))
    x, weights = random(2, 7, 5), (random(3 * n, 5), random(3 * n, 3))
    (whole, _), _ = unroll(CELLS[name], x, state, *weights)
    (first, between), _ = unroll(CELLS[name], x[:, :4], state, *weights)
    (second, _), _ = unroll(CELLS[name], x[:, 4:], between, *weights)
    assert_equal(torch.cat([first, second], dim=1), whole)


def test_a_mixture_asks_only_the_likeliest_experts_and_shares_out_all_of_the_weight():
    x, router, experts = (
        random(13, 3),
        random(5, 3),
        [(random(2, 3), None, random(2, 3), None, random(3, 2), None) for _ in range(5)],
    )
    y, kept = moe(x, router, experts, 2)
    probabilities = torch.softmax(x @ router.T, dim=-1)
    for row, p, out in zip(x, probabilities, y, strict=True):
        e, f = p.argsort(descending=True)[:2].tolist()
        share = p[e] / (p[e] + p[f])
        assert_equal(out, share * swiglu(row, *experts[e])[0] + (1 - share) * swiglu(row, *experts[f])[0])
    experts_of_nobody = {e for e in range(5) if not (probabilities.topk(2).indices == e).any()}
    _, _, dexperts = moe_backward(torch.ones_like(y), kept)
    assert {e for e, dexpert in enumerate(dexperts) if not dexpert[0].any()} == experts_of_nobody


def test_an_expert_that_nobody_asks_has_derivative_zero():
    experts = [(random(2, 3), None, random(2, 3), None, random(3, 2), None) for _ in range(2)]
    x = random(7, 3).abs()
    _, kept = moe(x, torch.tensor([[1.0] * 3, [-1.0] * 3], dtype=torch.float64), experts, 1)
    _, drouter, (asked, unasked) = moe_backward(random(7, 3), kept)
    assert asked[0].any() and not unasked[0].any() and not unasked[4].any()
    assert not drouter.any()  # one expert gets all the weight, however sure the router is


def test_lora_is_a_linear_layer_whose_weight_has_moved():
    x, weight, bias, a, b = random(2, 3, 5), random(7, 5), random(7), random(2, 5), random(7, 2)
    assert_equal(lora(x, weight, bias, a, b, 1.7)[0], F.linear(x, weight + 1.7 * b @ a, bias))
