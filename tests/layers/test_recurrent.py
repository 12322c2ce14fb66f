"""The recurrent layers equal torch's and the lessons'; derivatives equal differences; initialization."""

import pytest
import torch
from torch import nn

from minillm.layers.recurrent import GRU, LSTM, Elman
from minillm.lessons.gru import gru
from minillm.lessons.lstm import lstm
from minillm.lessons.rnn import rnn
from tests.tiny import assert_equal

B, D, H = 3, 5, 7
PAIRS = {"rnn": (Elman, nn.RNN), "lstm": (LSTM, nn.LSTM), "gru": (GRU, nn.GRU)}
every_cell = pytest.mark.parametrize("cell", PAIRS)


def pair(cell: str) -> tuple[nn.Module, nn.Module]:
    """Ours with random biases, and torch's with the same weights; its second bias is 0 except under the GRU's r."""
    torch.manual_seed(0)
    ours, theirs = (kind(D, H).double() for kind in PAIRS[cell])
    for parameter in ours.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    theirs.weight_ih_l0.data, theirs.weight_hh_l0.data = ours.weight_x.data.clone(), ours.weight_h.data.clone()
    theirs.bias_ih_l0.data, theirs.bias_hh_l0.data = ours.bias.data.clone(), torch.zeros_like(ours.bias.data)
    if cell == "gru":
        theirs.bias_hh_l0.data[2 * H :] = ours.bias_h.data
    return ours, theirs


def inputs(cell: str, T: int) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
    g = torch.Generator().manual_seed(T)
    x, *state = (
        torch.randn(size, generator=g, dtype=torch.float64) for size in [(T, B, D)] + [(B, H)] * PAIRS[cell][0].n_states
    )
    return x.requires_grad_(), tuple(part.requires_grad_() for part in state)


def read_by_torch(
    layer: nn.Module, x: torch.Tensor, state: tuple[torch.Tensor, ...]
) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
    first = tuple(part[None] for part in state)
    said, last = layer(x, first if len(first) > 1 else first[0])
    return said, tuple(part[0] for part in (last if isinstance(last, tuple) else (last,)))


@every_cell
@pytest.mark.parametrize("T", [1, 2, 11])
def test_a_layer_is_torchs_forward_and_backward(cell, T):
    ours, theirs = pair(cell)
    x, state = inputs(cell, T)
    passed = ours(x, state)
    said, last = read_by_torch(theirs, x, state)
    assert_equal(passed[0], said)
    for mine, other in zip(passed, last, strict=True):
        assert mine.shape == (T, B, H)
        assert_equal(mine[-1], other)
    g = torch.Generator().manual_seed(1)
    pull, *pulls = (torch.randn(part.shape, generator=g, dtype=torch.float64) for part in (said, *last))
    gradients = []
    for layer, out, ends in ((ours, passed[0], [part[-1] for part in passed]), (theirs, said, last)):
        loss = (out * pull).sum() + sum((end * p).sum() for end, p in zip(ends, pulls, strict=True))
        gradients.append(
            dict(zip(["x", "h", "c"], torch.autograd.grad(loss, [x, *state], retain_graph=True), strict=False))
        )
        loss.backward(inputs=list(layer.parameters()))
    for name, gradient in gradients[0].items():
        assert_equal(gradient, gradients[1][name])
    assert_equal(ours.weight_x.grad, theirs.weight_ih_l0.grad)
    assert_equal(ours.weight_h.grad, theirs.weight_hh_l0.grad)
    assert_equal(ours.bias.grad, theirs.bias_ih_l0.grad)
    if cell == "gru":
        assert_equal(ours.bias_h.grad, theirs.bias_hh_l0.grad[2 * H :])


def read_by_the_lesson(
    cell: str, layer: nn.Module, xs: torch.Tensor, state: tuple[torch.Tensor, ...]
) -> tuple[torch.Tensor, ...]:
    """One sequence (T, D) read after a state of (H,) by the equations of the lesson -> its states, each (T, H)."""
    if cell == "rnn":
        return (rnn(xs, *state, layer.weight_x, layer.weight_h, layer.bias),)
    names = {"lstm": "ifgo", "gru": "rzn"}[cell]
    weights = [dict(zip(names, w.split(H), strict=True)) for w in (layer.weight_x, layer.weight_h, layer.bias)]
    return lstm(xs, *state, *weights) if cell == "lstm" else (gru(xs, *state, *weights, layer.bias_h),)


@every_cell
def test_a_layer_is_the_lessons_forward_and_backward(cell):
    ours, _ = pair(cell)
    x, state = inputs(cell, 5)
    passed, inside = ours(x, state), [x, *state, *ours.parameters()]
    rows = [read_by_the_lesson(cell, ours, x[:, b], tuple(part[b] for part in state)) for b in range(B)]
    expected = [torch.stack(parts, dim=1) for parts in zip(*rows, strict=True)]
    losses = [sum((part * (i + 2)).square().sum() for i, part in enumerate(parts)) for parts in (passed, expected)]
    for mine, other in zip(passed, expected, strict=True):
        assert_equal(mine, other)
    for mine, other in zip(*(torch.autograd.grad(loss, inside) for loss in losses), strict=True):
        assert_equal(mine, other)


@every_cell
def test_derivatives_are_those_of_differences_for_every_input_and_every_step(cell):
    ours, _ = pair(cell)
    names, weights = zip(*ours.named_parameters(), strict=True)
    x, state = inputs(cell, 4)

    def read(x, *rest):
        weights, state = rest[: len(names)], rest[len(names) :]
        return torch.func.functional_call(ours, dict(zip(names, weights, strict=True)), (x, state))

    assert torch.autograd.gradcheck(read, (x, *weights, *state))


@every_cell
def test_a_part_of_the_state_that_nobody_uses_gives_no_gradient(cell):
    ours, theirs = pair(cell)
    x, state = inputs(cell, 6)
    last = [read[-1] for read in (ours(x, state), read_by_torch(theirs, x, state)[1])]
    end = last[0][-1], last[1]
    for mine, other in zip(*(torch.autograd.grad(out.square().sum(), [x, *state]) for out in end), strict=True):
        assert_equal(mine, other)


@every_cell
def test_reading_changes_neither_the_text_nor_the_state_before_it(cell):
    ours, _ = pair(cell)
    x, state = inputs(cell, 6)
    kept = [part.detach().clone() for part in (x, *state, *ours.parameters())]
    sum(part.sum() for part in ours(x, state)).backward()
    assert all(torch.equal(part.detach(), was) for part, was in zip((x, *state, *ours.parameters()), kept, strict=True))


@every_cell
def test_a_text_of_no_tokens_leaves_no_states_and_no_gradient(cell):
    ours, _ = pair(cell)
    x, state = inputs(cell, 0)
    passed = ours(x, state)
    assert all(part.shape == (0, B, H) for part in passed)
    sum(part.sum() for part in passed).backward()
    assert all(p.grad is None or not p.grad.any() for p in ours.parameters())


@every_cell
def test_weights_begin_as_turns_without_bias_but_for_the_lstms_will_to_remember(cell):
    torch.manual_seed(0)
    layer = PAIRS[cell][0](64, 48)
    for gate in layer.weight_h.split(48):
        torch.testing.assert_close(gate @ gate.T, torch.eye(48), rtol=0, atol=1e-5)
    assert layer.weight_x.std().item() == pytest.approx(64**-0.5, rel=0.05)
    gates = layer.bias.view(-1, 48)
    assert torch.equal(
        gates, torch.tensor({"lstm": [0.0, 1, 0, 0], "gru": [0.0] * 3, "rnn": [0.0]}[cell])[:, None].expand_as(gates)
    )
    assert cell != "gru" or not layer.bias_h.any()
