"""Recurrent cells differentiated by hand equal the plain ones, gradients included."""

import pytest
import torch
from torch import nn

from minillm.speed.recurrent import FastElman, FastGRU, FastLSTM
from tests.layers.test_recurrent import D, H, inputs, pair
from tests.tiny import assert_equal

FAST = {"rnn": FastElman, "lstm": FastLSTM, "gru": FastGRU}
every_cell = pytest.mark.parametrize("cell", FAST)


def fast_and_plain(cell: str) -> tuple[nn.Module, nn.Module]:
    """Two layers of the same random weights."""
    plain, _ = pair(cell)
    fast = FAST[cell](D, H).double()
    fast.load_state_dict(plain.state_dict())
    return fast, plain


@every_cell
@pytest.mark.parametrize("T", [0, 1, 2, 11])
@pytest.mark.parametrize("last_only", [False, True], ids=["every state", "the last state"])
def test_a_twin_is_the_plain_layer_forward_and_backward(cell, T, last_only):
    results = []
    for layer in fast_and_plain(cell):
        x, state = inputs(cell, T)
        passed = layer(x, state)
        used = [part[-1:] for part in passed] if last_only else passed
        g = torch.Generator().manual_seed(1)
        loss = sum((part * torch.randn(part.shape, generator=g, dtype=part.dtype)).sum() for part in used)
        gradients = torch.autograd.grad(loss, [x, *state, *layer.parameters()], materialize_grads=True)
        results.append((*passed, *gradients))
    for mine, expected in zip(*results, strict=True):
        assert mine.shape == expected.shape
        assert_equal(mine, expected)


@every_cell
def test_a_part_of_the_state_that_nobody_uses_gives_no_gradient(cell):
    ends = []
    for layer in fast_and_plain(cell):
        x, state = inputs(cell, 5)
        ends.append(torch.autograd.grad(layer(x, state)[-1].square().sum(), [x, *state]))
    for mine, expected in zip(*ends, strict=True):
        assert_equal(mine, expected)


@every_cell
def test_a_graph_can_be_walked_twice_and_no_derivative_of_a_derivative_is_made_up(cell):
    fast, _ = fast_and_plain(cell)
    x, state = inputs(cell, 6)
    loss = fast(x, state)[0].square().sum()
    first = torch.autograd.grad(loss, [x, *fast.parameters()], retain_graph=True)
    for a, b in zip(first, torch.autograd.grad(loss, [x, *fast.parameters()], retain_graph=True), strict=True):
        assert torch.equal(a, b)
    dx, *_ = torch.autograd.grad(loss, [x, *state], create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        dx.sum().backward()


@every_cell
def test_reading_changes_neither_the_text_nor_the_state_before_it(cell):
    fast, _ = fast_and_plain(cell)
    x, state = inputs(cell, 6)
    kept = [part.detach().clone() for part in (x, *state, *fast.parameters())]
    sum(part.sum() for part in fast(x, state)).backward()
    assert all(torch.equal(part.detach(), was) for part, was in zip((x, *state, *fast.parameters()), kept, strict=True))
