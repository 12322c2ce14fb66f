"""Feed-forward layers equal written-out sums and products."""

import math

import pytest
import torch

from minillm.layers.feedforward import ACTIVATIONS, MLP, SwiGLU
from tests.tiny import assert_equal

FORMULAS = {
    "relu": lambda x: max(0.0, x),
    "relu2": lambda x: max(0.0, x) ** 2,
    "gelu": lambda x: 0.5 * x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "gelu-erf": lambda x: 0.5 * x * math.erfc(-x / math.sqrt(2)),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_are_their_formulas(name):
    x = torch.linspace(-6, 6, 101, dtype=torch.float64)
    assert_equal(
        ACTIVATIONS[name](x), torch.tensor([FORMULAS[name](value) for value in x.tolist()], dtype=torch.float64)
    )


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_derivatives_of_activations_are_what_finite_differences_say(name):
    x = torch.linspace(-6, 6, 100, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(ACTIVATIONS[name], x)


def test_gelu_is_near_the_normal_distributions_mass_times_x():
    x = torch.linspace(-6, 6, 101, dtype=torch.float64)
    exact = x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))
    assert (ACTIVATIONS["gelu"](x) - exact).abs().max() < 1e-3


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_an_mlp_goes_up_bends_and_comes_down(name, bias):
    mlp, x = MLP(7, 19, ACTIVATIONS[name], bias).double(), torch.randn(3, 5, 7, dtype=torch.float64)
    up_bias, down_bias = (mlp.up.bias, mlp.down.bias) if bias else (0, 0)
    hidden = ACTIVATIONS[name](torch.einsum("btd,fd->btf", x, mlp.up.weight) + up_bias)
    assert_equal(mlp(x), torch.einsum("btf,df->btd", hidden, mlp.down.weight) + down_bias)
    assert (mlp.up.bias is not None) == bias


@pytest.mark.parametrize("bias", [True, False])
def test_swiglu_lets_a_gate_decide_how_much_passes(bias):
    glu, x = SwiGLU(7, 19, bias).double(), torch.randn(3, 5, 7, dtype=torch.float64)
    bias_of = dict(glu.named_parameters()).get
    gate = torch.einsum("btd,fd->btf", x, glu.gate.weight) + (bias_of("gate.bias") if bias else 0)
    up = torch.einsum("btd,fd->btf", x, glu.up.weight) + (bias_of("up.bias") if bias else 0)
    hidden = gate / (1 + torch.exp(-gate)) * up
    assert_equal(glu(x), torch.einsum("btf,df->btd", hidden, glu.down.weight) + (bias_of("down.bias") if bias else 0))


def test_every_token_thinks_for_itself():
    for layer in (MLP(7, 19, ACTIVATIONS["gelu"]), SwiGLU(7, 19)):
        layer, x = layer.double(), torch.randn(3, 5, 7, dtype=torch.float64)
        assert_equal(layer(x)[1, 2], layer(x[1, 2]))
