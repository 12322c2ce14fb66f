"""Experts by gathering: equal to `MoE` for any number of tokens and any dropped choices."""

import pytest
import torch

from minillm.layers.feedforward import MLP, relu2
from minillm.layers.moe import ExpertMLPs, MoE, NoSharedExpert, Router
from minillm.speed.accelerate import accelerate
from minillm.speed.experts import FastMoE, FastStackedLinear
from tests.tiny import assert_equal

D, F, E = 7, 13, 5


@pytest.mark.parametrize("n", [0, 1, 11])
@pytest.mark.parametrize("k", [1, 2, E])
@pytest.mark.parametrize("capacity", [0.0, 0.4])
@pytest.mark.parametrize("shared", [False, True])
def test_values_and_gradients_are_those_of_the_plain_layer(n, k, capacity, shared):
    beside = MLP(D, 3 * F, relu2) if shared else NoSharedExpert()
    plain = MoE(Router(D, E, k, capacity_factor=capacity), ExpertMLPs(E, D, F, relu2), beside).double()
    fast = accelerate(plain, training=True)
    assert isinstance(fast, FastMoE) and isinstance(fast.experts.up, FastStackedLinear) and fast.router is plain.router
    x, direction, results = torch.randn(n, D, dtype=torch.float64, requires_grad=True), torch.randn(n, D), []
    for layer in (fast, plain):
        out = layer(x)
        results.append([out, *torch.autograd.grad((out * direction).sum(), [x, *plain.parameters()])])
    for a, b in zip(*results, strict=True):
        assert_equal(a, b)


def test_bfloat16_is_the_plain_layer_up_to_rounding():
    plain = MoE(Router(D, E, 2), ExpertMLPs(E, D, F, relu2), NoSharedExpert()).bfloat16()
    fast, x = accelerate(plain, training=True), torch.randn(11, D).bfloat16().requires_grad_()
    results = [[out := layer(x), *torch.autograd.grad(out.float().sum(), [x])] for layer in (fast, plain)]
    for a, b in zip(*results, strict=True):
        assert a.dtype == b.dtype == torch.bfloat16
        torch.testing.assert_close(a, b, rtol=2**-6, atol=2**-6)
