"""Torch's kernels equal the plain packed layers up to the rounding of bfloat16."""

import pytest
import torch
from torch import nn

from minillm.quantization import int4, int8, kernels, nf4
from minillm.quantization.kernels import WRITTEN_OUT, Bf16Linear, Int4Linear, Int8Linear, arrange_for_kernels, lighten
from minillm.quantization.pack import WEIGHTS, pack
from minillm.quantization.packed import PackedLinear, nbytes
from tests.quantization.models import small

ROWS = [(1,), (2, 1), (3, 5), (16,)]


def assert_same_but_for_bf16(fast: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> None:
    """Assert equality up to the rounding of the sum, its terms, and the weights, which some kernels round too."""
    product = x.double() @ weight.double().T
    exact, sizes = product + bias.double(), x.double().norm(dim=-1, keepdim=True) * weight.double().norm(dim=1)
    assert fast.dtype == torch.bfloat16 and fast.shape == exact.shape
    bound = 2**-8 * (product.abs() + exact.abs()) + 2**-11 * sizes
    assert ((fast.double() - exact).abs() <= bound).all()


@pytest.mark.parametrize("emulated", [False, True])
def test_attention_computes_in_float32_where_the_processor_emulates_bfloat16(emulated, monkeypatch):
    monkeypatch.setattr(kernels, "has_bfloat16", lambda device: not emulated)
    seen, model = [], small().bfloat16().eval()
    for block in model.blocks:
        inner = block.attention.attend
        block.attention.attend = lambda q, *how, inner=inner: seen.append(q.dtype) or inner(q, *how)
    arrange_for_kernels(model)
    with torch.inference_mode():
        logits = model(torch.randint(model.vocab_size, (2, 7)))[0]
    assert logits.dtype == torch.bfloat16
    assert seen == [torch.float32 if emulated else torch.bfloat16] * len(model.blocks)


@pytest.mark.parametrize("rows", ROWS, ids=str)
@pytest.mark.parametrize("group", [32, 64, 128])
def test_int4(rows, group):
    torch.manual_seed(0)
    packed, bias = int4.quantize(torch.randn(193, 384) + 0.1, group), nn.Parameter(torch.randn(193).bfloat16())
    x = torch.randn(*rows, 384).bfloat16()
    with torch.inference_mode():
        assert_same_but_for_bf16(Int4Linear(packed, bias)(x), x, packed.dequantize(), bias)


def test_int4_with_scales_of_float32_is_the_same_with_rounded_ones():
    torch.manual_seed(0)
    coarse = int4.quantize(torch.randn(193, 384), 32)
    fine = coarse._replace(scales=coarse.scales.float() * 1.001, offsets=coarse.offsets.float() * 0.999)
    rounded = fine._replace(scales=fine.scales.bfloat16(), offsets=fine.offsets.bfloat16())
    x = torch.randn(3, 384).bfloat16()
    with torch.inference_mode():
        assert torch.equal(Int4Linear(fine, None)(x), Int4Linear(rounded, None)(x))


@pytest.mark.parametrize("rows", ROWS, ids=str)
def test_int8(rows):
    packed, bias = int8.quantize(torch.randn(193, 384)), nn.Parameter(torch.randn(193).bfloat16())
    x = torch.randn(*rows, 384).bfloat16()
    with torch.inference_mode():
        assert_same_but_for_bf16(Int8Linear(packed, bias)(x), x, packed.dequantize(), bias)


@pytest.mark.parametrize("rows", [*ROWS, (1, 1)], ids=str)
def test_bf16(rows):
    layer = nn.Linear(384, 193).bfloat16()
    x = torch.randn(*rows, 384).bfloat16()
    with torch.inference_mode():
        assert_same_but_for_bf16(Bf16Linear(layer)(x), x, layer.weight, layer.bias)


@pytest.mark.parametrize("quantize", [int8.quantize, int4.quantize, nf4.quantize])
def test_the_written_out_layer_is_linear_on_the_unpacked_weight(quantize):
    packed, bias = quantize(torch.randn(7, 128)), nn.Parameter(torch.randn(7).double())
    x = torch.randn(2, 3, 128).double()
    torch.testing.assert_close(
        PackedLinear(packed, bias)(x), x @ packed.dequantize().double().T + bias, rtol=1e-12, atol=1e-12
    )


@pytest.mark.parametrize("weights", WEIGHTS)
def test_a_model_with_kernels_says_what_it_said_without(weights):
    model, tokens = small(), torch.randint(23, (2, 9))
    pack(model, weights)
    with torch.inference_mode():
        before = model(tokens)[0]
        ran = arrange_for_kernels(model)
        after = model(tokens)[0]
    assert sum(ran.values()) == 13 and (WRITTEN_OUT in ran) == (weights == "nf4")
    assert (after - before).abs().max() < 0.03 * before.abs().max()


def test_groups_that_the_kernel_does_not_know_are_written_out():
    model = small()
    pack(model, "int4", group=16)
    assert arrange_for_kernels(model) == {WRITTEN_OUT: 13}


def test_weights_that_a_kernel_rearranged_are_not_saved():
    model = small()
    pack(model, "int4")
    arrange_for_kernels(model)
    with pytest.raises(ValueError, match="save before"):
        model.state_dict()


def test_what_was_done_is_told_in_bytes_that_are_held():
    model = small()
    before = nbytes(model)
    said = lighten(model, "int8")
    assert (
        said.startswith(f"weights {before / 1e6:.3f} MB -> {nbytes(model) / 1e6:.3f} MB")
        and "_weight_int8pack_mm in 13 layers" in said
    )
    assert lighten(small(), None) == ""
