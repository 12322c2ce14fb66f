"""RMSNorm by hand: gradients equal finite differences, in every shape and precision."""

import pytest
import torch
from torch import nn

from minillm.layers.norm import RMSNorm
from minillm.speed.rms_norm import FastRMSNorm
from tests.tiny import assert_equal

D = 13


@pytest.mark.parametrize("shape", [(D,), (5, D), (0, D), (2, 3, 5, D)])
def test_its_gradient_is_that_of_finite_differences(shape):
    norm, x = FastRMSNorm(D, eps=0.1).double(), torch.randn(shape, dtype=torch.float64, requires_grad=True)
    nn.init.normal_(norm.weight)
    call = torch.func.functional_call
    assert torch.autograd.gradcheck(lambda x, weight: call(norm, {"weight": weight}, x), (x, norm.weight))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_it_is_the_same_where_no_gradient_is_wanted(dtype):
    norm, x = FastRMSNorm(D).to(dtype), torch.randn(5, D).to(dtype)
    wanted = norm(x)
    with torch.no_grad():
        unwanted = norm(x)
    assert wanted.requires_grad and not unwanted.requires_grad and torch.equal(wanted, unwanted)


@pytest.mark.parametrize("of_weight", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", [RMSNorm, FastRMSNorm])
def test_gradients_in_bfloat16_are_summed_in_float32_and_come_in_the_dtype_of_what_they_are_for(of_weight, kind):
    exact, norm = RMSNorm(257).double(), kind(257).to(of_weight)
    nn.init.normal_(norm.weight)
    exact.load_state_dict(norm.state_dict())
    x, direction = torch.randn(2, 1009, 257).bfloat16()
    results = []
    for layer in (norm, exact):
        part = x.to(torch.bfloat16 if layer is norm else torch.float64).requires_grad_()
        results.append(torch.autograd.grad((layer(part) * direction.to(part.dtype)).sum(), (part, layer.weight)))
    for mine, true, dtype in zip(*results, (torch.bfloat16, of_weight), strict=True):
        assert mine.dtype == dtype
        torch.testing.assert_close(mine.double(), true, rtol=2**-7, atol=1e-3)


def test_a_vector_of_zeros_stays_one():
    assert_equal(FastRMSNorm(D)(torch.zeros(2, D)), torch.zeros(2, D))


def test_a_derivative_of_its_gradient_is_refused_rather_than_wrong():
    x = torch.randn(3, D, requires_grad=True)
    (dx,) = torch.autograd.grad(FastRMSNorm(D)(x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        dx.sum().backward()
