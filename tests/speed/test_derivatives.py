"""The contract of all hand-written derivatives of twins: each equals that of `backprop/`."""

import ast
import importlib
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from minillm.backprop.attention import rotate, rotate_backward
from minillm.backprop.cross_entropy import cross_entropy, cross_entropy_backward
from minillm.backprop.feedforward import ACTIVATIONS
from minillm.backprop.linear import linear, linear_backward
from minillm.backprop.moe import moe, moe_backward
from minillm.backprop.norm import rms_norm, rms_norm_backward
from minillm.backprop.recurrent import CELLS, unroll, unroll_backward
from minillm.constants import IGNORE
from minillm.layers.moe import ExpertSwiGLUs, NoSharedExpert, Router
from minillm.layers.positions import Rotary
from minillm.layers.recurrent import Recurrent
from minillm.speed.chunked_cross_entropy import _CrossEntropy, sum_of_nats
from minillm.speed.experts import FastMoE, FastStackedLinear, _Ask, _Combine, _StackedProduct
from minillm.speed.linear_cross_entropy import _LinearCrossEntropy, linear_cross_entropy
from minillm.speed.recurrent import _GRU, _LSTM, FastElman, FastGRU, FastLSTM, _Elman
from minillm.speed.rms_norm import _RMSNorm
from minillm.speed.rotary_turns import FastRotary, _Turn
from minillm.speed.squared_relu import _SquaredReLU
from tests.tiny import assert_equal

SPEED = Path(importlib.import_module("minillm.speed").__file__).parent
Results = tuple[list[Tensor], list[Tensor]]  # a value and its derivatives, by the twin and by backprop
N, D, F, E = 11, 7, 13, 5


def randn(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, requires_grad=True)


def derived(out: Tensor, dy: Tensor, *inputs: Tensor) -> list[Tensor]:
    return [out, *torch.autograd.grad(out, inputs, dy)]


def of_rms_norm() -> Results:
    x, weight, dy = randn(N, D), randn(D), randn(N, D)
    y, kept = rms_norm(x, weight, 0.1)
    return derived(_RMSNorm.apply(x, weight, 0.1), dy, x, weight), [y, *rms_norm_backward(dy, kept)]


def of_squared_relu() -> Results:
    x, dy, (value, slope) = randn(N, D), randn(N, D), ACTIVATIONS["relu2"]
    return derived(_SquaredReLU.apply(x), dy, x), [value(x), dy * slope(x)]


def of_turns() -> Results:
    x, dy, positions = randn(2, 3, 5, 6), randn(2, 3, 5, 6), torch.randint(20, (2, 5))
    plain = Rotary(6, 20)
    cos, sin = (table[positions][:, None] for table in plain.tables(torch.device("cpu"), torch.float64))
    cos, sin = cos[..., :3], sin[..., 3:]
    return derived(FastRotary(plain)(x, positions), dy, x), [rotate(x, cos, sin), rotate_backward(dy, cos, sin)]


def of_stacked_products() -> Results:
    layer, x, dy, sizes = FastStackedLinear(3, D, F).double(), randn(N, D), randn(N, F), [4, 0, 5]
    fast, slow = derived(layer(x, sizes), dy, x, layer.weight), []
    for rows, above, matrix in zip(x.split([*sizes, 2]), dy.split([*sizes, 2]), layer.weight, strict=False):
        y, kept = linear(rows, matrix)
        slow.append([y, *linear_backward(above, kept)[:2]])
    ys, dxs, dweights = zip(*slow, strict=True)
    nothing = torch.zeros(2, D)  # of the rows that belong to no expert
    return fast, [torch.cat([*ys, torch.zeros(2, F)]), torch.cat([*dxs, nothing]), torch.stack(dweights)]


def of_experts() -> Results:
    layer = FastMoE(Router(D, E, 2), ExpertSwiGLUs(E, D, F), NoSharedExpert()).double()
    x, dy, experts = randn(N, D), randn(N, D), layer.experts
    weights = experts.gate.weight, experts.up.weight, experts.down.weight
    each = [(gate, None, up, None, down, None) for gate, up, down in zip(*weights, strict=True)]
    y, kept = moe(x, layer.router.weight, each, 2)
    dx, drouter, dexperts = moe_backward(dy, kept)
    stacked = [torch.stack([of_one[i] for of_one in dexperts]) for i in (0, 2, 4)]
    return derived(layer(x), dy, x, layer.router.weight, *weights), [y, dx, drouter, *stacked]


def of_cross_entropy() -> Results:
    logits, targets = randn(N, F), torch.randint(F, (N,))
    targets[3] = IGNORE
    loss, kept = cross_entropy(logits, targets)
    fast = derived(sum_of_nats(logits, targets, chunk=5), torch.tensor(0.75), logits)
    return fast, [loss, cross_entropy_backward(0.75, kept)]


def of_linear_cross_entropy() -> Results:
    hidden, weight, targets = randn(N, D), randn(F, D), torch.randint(F, (N,))
    targets[3] = IGNORE
    logits, kept = linear(hidden, weight)
    loss, kept_loss = cross_entropy(logits, targets)
    dhidden, dweight, _ = linear_backward(cross_entropy_backward(0.75, kept_loss), kept)
    fast = linear_cross_entropy(hidden, weight, targets, slab=3 * F)[0]
    return derived(fast, torch.tensor(0.75), hidden, weight), [loss, dhidden, dweight]


def of_cell(kind: type[Recurrent], name: str) -> Results:
    layer, x, T, B = kind(D, F).double(), randn(5, 3, D), 5, 3
    nn.init.normal_(layer.bias)
    state = tuple(randn(B, F) for _ in range(kind.n_states))
    bias_h = torch.cat([torch.zeros(2 * F), nn.init.normal_(layer.bias_h).detach()]) if name == "gru" else None
    (y, last), kept = unroll(CELLS[name], x.transpose(0, 1), state, layer.weight_x, layer.weight_h, layer.bias, bias_h)
    dy, passed = randn(T, B, F), layer(x, state)
    nothing = tuple(map(torch.zeros_like, last))
    dx, dstate, *dweights, dbias_h = unroll_backward(dy.transpose(0, 1), nothing, kept)
    slow = [y.transpose(0, 1), dx.transpose(0, 1), *dstate, *dweights]
    fast = derived(passed[0], dy, x, *state, *layer.parameters())
    return fast, slow if bias_h is None else [*slow, dbias_h[2 * F :]]


CONTRACT: dict[Callable[[], Results], tuple[type, ...]] = {
    of_rms_norm: (_RMSNorm,),
    of_squared_relu: (_SquaredReLU,),
    of_turns: (_Turn,),
    of_stacked_products: (_StackedProduct,),
    of_experts: (_Ask, _Combine),
    of_cross_entropy: (_CrossEntropy,),
    of_linear_cross_entropy: (_LinearCrossEntropy,),
    partial(of_cell, FastElman, "rnn"): (_Elman,),
    partial(of_cell, FastLSTM, "lstm"): (_LSTM,),
    partial(of_cell, FastGRU, "gru"): (_GRU,),
}


@pytest.mark.parametrize("results", CONTRACT, ids=[functions[0].__name__ for functions in CONTRACT.values()])
def test_a_derivative_by_hand_is_that_of_backprop(results):
    for fast, slow in zip(*results(), strict=True):
        assert_equal(fast, slow)


def test_no_derivative_by_hand_is_left_out():
    names = {
        node.name
        for path in SPEED.glob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef) and any("Function" in ast.unparse(base) for base in node.bases)
    }
    assert names == {function.__name__ for functions in CONTRACT.values() for function in functions}
