"""Whole models with packed weights: packing, sharing, saving, and refused models."""

import pytest
import torch
from torch import nn

from minillm.adapters.build_adapter import add_adapter
from minillm.adapters.lora import LoRAConfig
from minillm.adapters.merge import merge
from minillm.models.rnn import RNN, RNNConfig
from minillm.quantization.awq import calibrate
from minillm.quantization.pack import WEIGHTS, pack, packed_weights
from minillm.quantization.packed import PackedEmbedding, PackedLinear, as_floats, nbytes
from tests.quantization.models import small

PACKED = [name for name in WEIGHTS if name != "bf16"]
TOKENS = torch.randint(23, (3, 11), generator=torch.Generator().manual_seed(0))
LLAMA = {"positions": "rotary", "norm": "rmsnorm", "feedforward": "swiglu", "bias": False, "n_kv_heads": 1, "d_ff": 128}


@pytest.mark.parametrize("weights", PACKED)
@pytest.mark.parametrize(
    "shape", [{}, {"tied": False}, LLAMA, {"norm_place": "post"}, {"value_embeddings": True}], ids=str
)
def test_a_packed_model_is_the_model_with_the_weights_that_it_stands_for(weights, shape):
    model, plain = small(**shape), small(**shape).double()
    pack(model, weights, dtype=torch.float64)
    for path, layer in packed_weights(model).items():
        plain.get_submodule(path).weight.data = layer.packed.dequantize().double()
    if model.config.tied:
        assert isinstance(model.embed, PackedEmbedding)
        plain.head.weight = plain.embed.weight
    assert not any(isinstance(module, nn.Linear) for module in model.modules())
    torch.testing.assert_close(model(TOKENS)[0], plain(TOKENS)[0], rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("weights", PACKED)
def test_a_tied_head_and_its_embedding_are_held_once_and_stay_one(weights, tmp_path):
    model = small(vocab_size=4001)
    whole = nbytes(model)
    pack(model, weights)
    at_most = {"int8": 0.27, "int4": 0.16, "nf4": 0.15}[weights]
    assert nbytes(model) < at_most * whole
    assert model.embed.values.data_ptr() == model.head.values.data_ptr()
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    assert (tmp_path / "weights.pt").stat().st_size < at_most * whole + 20_000
    other = small(vocab_size=4001)
    other.embed.weight.data.normal_()
    pack(other, weights)
    other.load_state_dict(torch.load(tmp_path / "weights.pt"))
    assert torch.equal(other(TOKENS)[0], model(TOKENS)[0])
    assert other.embed.values.data_ptr() == other.head.values.data_ptr()


@pytest.mark.parametrize("weights", WEIGHTS)
def test_reading_on_from_a_cache_is_reading_from_the_start(weights):
    model = small()
    pack(model, weights, dtype=torch.float64)
    state = model.start(3)
    parts = [model(part, state)[0] for part in TOKENS.split([4, 1, 6], dim=1)]
    torch.testing.assert_close(
        torch.cat(parts, 1), model(TOKENS)[0], rtol=0.05, atol=0.05 if weights == "bf16" else 1e-9
    )


@torch.no_grad()
def test_finer_formats_are_nearer():
    errors = {}
    exact = small()(TOKENS)[0]
    for weights in PACKED:
        model = small()
        pack(model, weights, dtype=torch.float32)
        errors[weights] = float((model(TOKENS)[0] - exact).square().mean() / exact.var())
    assert errors["int8"] < 1e-3 < errors["int4"] < 0.1 and errors["int8"] < errors["nf4"] < 0.1


def refused(model: nn.Module, weights: str, sentence: str, **how) -> None:
    before = {name: x.clone() for name, x in model.state_dict().items()}
    with pytest.raises(ValueError, match=sentence):
        pack(model, weights, **how)
    after = model.state_dict()
    assert after.keys() == before.keys() and all(torch.equal(after[name], before[name]) for name in before)


def test_what_cannot_be_packed_is_refused_and_left_as_it_was():
    refused(small(), "int3", "weights = 'int3': expected .*int4")
    refused(small(), "int4", "group = 48: expected an even number that divides", group=48)
    refused(RNN(RNNConfig(d_hidden=64), 23), "int8", "expected model.kind = decoder, not a RNN")
    refused(small(n_experts=2, bias=False), "int8", "expected a model without experts")
    adapted, packed = small(), small()
    add_adapter(adapted, LoRAConfig(rank=3))
    refused(adapted, "int8", "expected no adapter")
    merge(adapted)
    pack(adapted, "int8")
    pack(packed, "nf4")
    refused(packed, "nf4", "expected weights that are not packed yet")


def outliers(model):
    """Make some channels of each norm far larger than others, as in trained models."""
    for name, parameter in model.named_parameters():
        if "norm_" in name:
            parameter.data[::16] *= 30
    return model


@pytest.mark.parametrize("shape", [{}, LLAMA], ids=["gpt", "llama"])
def test_calibration_changes_no_output_and_never_adds_to_the_error_of_a_layer(shape):
    model = outliers(small(**shape)).double()
    before = model(TOKENS)[0]
    left = calibrate(model, [TOKENS[:2], TOKENS[2:]], "int4", group=32)
    torch.testing.assert_close(model(TOKENS)[0], before, rtol=1e-9, atol=1e-9)
    assert len(left) == 4 and all(error <= 1 for error in left.values()) and min(left.values()) < 0.9


@torch.no_grad()
def test_the_error_that_calibration_tells_is_that_of_the_packed_layers():
    model, plain = outliers(small()).double(), outliers(small()).double()
    told = calibrate(model, [TOKENS], "int4")["blocks.1.norm_2"]
    x = {}
    for name, m in (("scaled", model), ("plain", plain)):
        m.blocks[1].norm_2.register_forward_hook(lambda _, __, out, name=name: x.update({name: out}))
        m(TOKENS)
    exact = x["plain"] @ plain.blocks[1].feedforward.up.weight.T
    errors = {}
    for name, m in (("scaled", model), ("plain", plain)):
        pack(m, "int4", dtype=torch.float64)
        errors[name] = (x[name] @ m.blocks[1].feedforward.up.packed.dequantize().double().T - exact).square().sum()
    assert float(errors["scaled"] / errors["plain"]) == pytest.approx(told, rel=1e-6)


def test_a_calibration_that_would_do_nothing_is_refused():
    with pytest.raises(ValueError, match="post: expected pre"):
        calibrate(small(norm_place="post"), [TOKENS], "int4")
    with pytest.raises(ValueError, match="weights = bf16: expected"):
        calibrate(small(), [TOKENS], "bf16")


def test_scales_of_float32_survive_casts_and_saved_weights(tmp_path):
    model, other = small(), small()
    pack(model, "int4", group=32)
    coarse = model.head.packed
    fine = coarse._replace(scales=coarse.scales.float() * 1.001, offsets=coarse.offsets.float() + 1e-4)
    model.head = PackedLinear(fine)
    model.embed = PackedEmbedding(model.head, torch.bfloat16)
    exact = fine.dequantize()
    for dtype in (torch.bfloat16, torch.float16, torch.float64):
        assert torch.equal(model.to(dtype).head.packed.dequantize(), exact)
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    pack(other, "int4", group=32)
    other.load_state_dict(torch.load(tmp_path / "weights.pt"))
    assert torch.equal(other.head.packed.dequantize(), exact)
    assert torch.equal(other.embed.packed.dequantize(), exact)
    assert other.embed.scales.data_ptr() == other.head.scales.data_ptr(), "held once"
    assert other.get_submodule("blocks.0.attention.to_q").packed.scales.dtype == torch.bfloat16


def test_saved_scales_that_are_numbers_are_taken_as_numbers():
    model, other = small(), small()
    pack(model, "int4")
    other.embed.weight.data.normal_()
    pack(other, "int4")
    saved = {name: as_floats(part) for name, part in model.state_dict().items()}
    assert saved["head.scales"].is_floating_point()
    other.load_state_dict(saved)
    assert torch.equal(other(TOKENS)[0], model(TOKENS)[0])
