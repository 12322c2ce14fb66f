"""Norms: the lesson, torch's own layers, and what they leave unchanged."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from minillm.layers.norm import LayerNorm, RMSNorm
from minillm.lessons import normalization as lesson
from tests.tiny import assert_equal

D = 13
PAIRS = {
    "rms": (RMSNorm(D, eps=1e-3), nn.RMSNorm(D, eps=1e-3)),
    "layer": (LayerNorm(D, bias=True, eps=1e-3), nn.LayerNorm(D, eps=1e-3)),
    "layer without bias": (LayerNorm(D, bias=False, eps=1e-3), nn.LayerNorm(D, bias=False, eps=1e-3)),
}


@pytest.fixture(params=PAIRS.values(), ids=PAIRS)
def pair(request):
    torch.manual_seed(0)
    mine, theirs = (norm.double() for norm in request.param)
    for parameter in mine.parameters():
        nn.init.normal_(parameter)
    theirs.load_state_dict(mine.state_dict())
    return mine, theirs


def test_norms_are_torchs_in_values_and_gradients(pair):
    x, direction = torch.randn(2, 2, 3, 7, D, dtype=torch.float64)
    results = []
    for norm in pair:
        x = x.detach().requires_grad_()
        out = norm(x)
        results.append([out, *torch.autograd.grad((out * direction).sum(), [x, *norm.parameters()])])
    for a, b in zip(*results, strict=True):
        assert_equal(a, b)


@pytest.mark.parametrize(("mine", "theirs"), [(RMSNorm, lesson.RMSNorm), (LayerNorm, lesson.LayerNorm)])
@pytest.mark.parametrize("size", [1.0, 1e-3])
def test_norms_are_those_of_the_lesson_in_values_and_gradients(mine, theirs, size):
    """Also for vectors so short that their variance is less than eps."""
    norms = mine(D, eps=lesson.EPS).double(), theirs(D).double()
    for parameter in norms[0].parameters():
        nn.init.normal_(parameter)
    norms[1].load_state_dict(norms[0].state_dict())
    x, direction, results = size * torch.randn(7, D, dtype=torch.float64), torch.randn(7, D, dtype=torch.float64), []
    for norm in norms:
        x = x.detach().requires_grad_()
        out = norm(x)
        results.append([out, *torch.autograd.grad((out * direction).sum(), [x, *norm.parameters()])])
    for a, b in zip(*results, strict=True):
        assert_equal(a, b)


@given(st.integers(0, 2**32 - 1), st.floats(0.01, 100), st.floats(-100, 100))
def test_the_size_of_a_vector_does_not_matter_and_for_layer_norm_nor_does_its_mean(seed, scale, shift):
    x = torch.randn(3, D, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    rms, layer = RMSNorm(D, eps=1e-30).double(), LayerNorm(D, eps=1e-30).double()
    assert_equal(rms(scale * x), rms(x))
    torch.testing.assert_close(layer(scale * x + shift), layer(x), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("build", [RMSNorm, LayerNorm])
def test_means_are_taken_in_float32_and_given_back_in_the_dtype_that_came(dtype, build):
    # squares overflow float16, and sums exceed the precision of bfloat16
    norm, x = build(257), (500 * torch.randn(5, 257)).to(dtype)
    out = norm.to(dtype)(x)
    assert out.dtype == dtype
    torch.testing.assert_close(
        out.double(), build(257).double()(x.double()), rtol=2 * torch.finfo(dtype).eps, atol=1e-6
    )


def test_a_vector_of_zeros_stays_one():
    x = torch.zeros(2, D)
    assert not RMSNorm(D)(x).any() and not LayerNorm(D)(x).any()


@pytest.mark.parametrize("shape", [(D,), (5, D), (0, D), (2, 3, 5, D)])
def test_the_gradient_of_rms_norm_is_that_of_finite_differences(shape):
    norm, x = RMSNorm(D, eps=0.1).double(), torch.randn(shape, dtype=torch.float64, requires_grad=True)
    nn.init.normal_(norm.weight)
    assert torch.autograd.gradcheck(
        lambda x, weight: torch.func.functional_call(norm, {"weight": weight}, x), (x, norm.weight)
    )
