"""QLoRA: equal to LoRA on the rounded weights, gradients included, without ever keeping a whole matrix."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from minillm.adapters.build_adapter import add_adapter
from minillm.adapters.lora import LoRAConfig
from minillm.adapters.merge import adapted_layers, merge, unmerge
from minillm.adapters.qlora import Frozen4Bit, QLoRA, QLoRAConfig, requantizing_error
from minillm.cache.nibbles import unpack_nibbles
from minillm.datasets.batch import Batch
from minillm.lessons import qlora as lesson
from minillm.models.encoder import Encoder, EncoderConfig
from minillm.models.heads import Classifier
from minillm.objectives.next_token import next_token
from minillm.quantization import nf4
from minillm.quantization.packed import nbytes
from minillm.speed.accelerate import accelerate
from minillm.training.checkpoint import load_trained_state, trained_state
from minillm.training.optim import OptimConfig, build_optimizer
from minillm.training.precision import WorkingCopy
from minillm.training.step import GradientStep
from tests.adapters.models import adapted, logits, train_a_little
from tests.tiny import SHAPES, assert_equal, decoder, tokens

EVEN = {name: partial(decoder, **{**SHAPES[name], "d_ff": 18}) for name in ("gpt", "llama", "gemma")}
CONFIG = QLoRAConfig(rank=3, targets=("to_q", "to_out", "up"), group=2)
each_shape = pytest.mark.parametrize("build", EVEN.values(), ids=EVEN)


def test_the_packed_weight_is_that_of_the_lesson():
    torch.manual_seed(0)
    W = torch.randn(2 * 128, 128, dtype=torch.float64) / 8
    mine, (codes, of_absmax, mean, scale) = nf4.quantize(W), lesson.quantize(W)
    assert_equal(lesson.levels(), nf4.levels())
    assert torch.equal(unpack_nibbles(mine.values).view_as(codes).long(), codes)
    assert torch.equal(mine.absmax.double(), of_absmax)
    assert torch.equal(mine.means.double(), mean[:, 0]) and torch.equal(mine.scales.double(), scale[:, 0])
    whole = lesson.dequantize(codes, of_absmax, mean, scale, W.shape)
    torch.testing.assert_close(mine.dequantize().double(), whole, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("bias", [False, True])
def test_a_layer_and_its_gradients_are_those_of_lora_on_the_rounded_matrix(bias):
    torch.manual_seed(1)
    linear = nn.Linear(10, 7, bias=bias).double().requires_grad_(False)
    layer = train_a_little(QLoRA(linear, Frozen4Bit(linear, 2), 3, 7.0))
    rounded = nf4.quantize(linear.weight, 2).dequantize().double()
    assert not torch.allclose(rounded, linear.weight, atol=1e-3)
    x, other = (torch.randn(2, 5, 10, dtype=torch.float64).requires_grad_() for _ in "ab")
    other.data = x.data.clone()
    A, B = (factor.weight.detach().clone().requires_grad_() for factor in (layer.A, layer.B))
    y, expected = layer(x), F.linear(other, rounded, linear.bias) + 7 / 3 * other @ A.T @ B.T
    assert_equal(y, expected)
    for out in (y, expected):
        (out**3).sum().backward()
    for mine, theirs in ((x.grad, other.grad), (layer.A.weight.grad, A.grad), (layer.B.weight.grad, B.grad)):
        assert_equal(mine, theirs)


def test_no_whole_matrix_is_kept_for_the_backward():
    linear = nn.Linear(64, 58, bias=False)
    layer, kept = QLoRA(linear, Frozen4Bit(linear, 64), 3, 7.0), []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
        layer(torch.randn(1, 64, requires_grad=True))
    assert kept and max(x.numel() * x.element_size() for x in kept) <= 64 * 58 / 2


@each_shape
def test_a_fresh_adapter_is_the_model_with_rounded_matrices_in_its_blocks(build):
    model, plain = adapted(CONFIG, build, fresh=True), build()
    for path, layer in plain.named_modules():
        if isinstance(layer, nn.Linear) and path != "head":
            layer.weight.data = nf4.quantize(layer.weight, 2).dequantize().double()
    assert_equal(logits(model), logits(plain))
    assert not torch.allclose(logits(model), logits(build()), atol=1e-3)


@each_shape
def test_what_is_merged_is_what_was_trained_on_and_not_the_weight_before(build):
    model = adapted(CONFIG, build)
    expected, before = logits(model), trained_state(model)
    assert requantizing_error(model, partial(nf4.quantize, block=2)) > 0.01
    taken = merge(model)
    assert model.state_dict().keys() == build().state_dict().keys()
    assert not any(isinstance(module, Frozen4Bit) for module in model.modules())
    assert_equal(logits(model), expected)
    original = build().get_submodule("blocks.0.attention.to_q").weight
    layer = next(layer for layer in taken.values() if isinstance(layer, QLoRA))
    wrong = original + layer.scale * layer.B.weight @ layer.A.weight
    assert not torch.allclose(model.blocks[0].attention.to_q.weight, wrong, atol=1e-3)
    unmerge(model, taken)
    assert torch.equal(logits(model), expected)
    assert trained_state(model).keys() == before.keys()
    assert requantizing_error(adapted(LoRAConfig(rank=2))) == 0.0, "nothing was rounded"


@each_shape
def test_the_file_holds_the_factors_alone_and_the_base_is_rounded_again_to_the_same(build):
    model = adapted(CONFIG, build)
    saved = trained_state(model)
    assert {name.rsplit(".", 2)[1] for name in saved} == {"A", "B"} and len(saved) == 2 * 2 * 3
    other = adapted(CONFIG, build, fresh=True)
    load_trained_state(other, saved)
    assert torch.equal(logits(other), logits(model))


@each_shape
def test_fast_and_cached_roads_say_the_same(build):
    model, t = adapted(CONFIG, build), tokens(3, 11)
    expected = model(t)[0]
    assert_equal(accelerate(model)(t)[0], expected)
    state = model.start(3)
    assert_equal(torch.cat([model(part, state)[0] for part in t.split([3, 1, 7], 1)], 1), expected)


def test_training_moves_the_factors_alone_also_in_a_working_copy_of_bfloat16():
    model = adapted(CONFIG, EVEN["llama"], fresh=True).float()
    packed = {name: x.clone() for name, x in model.named_buffers()}
    for precision in ("fp32", "bf16"):
        how = {"lr": 0.02, "precision": precision}
        step = GradientStep(model, next_token, build_optimizer(model, OptimConfig()), lambda step: 1.0, **how)
        assert {id(p) for p in step.parameters} == {id(p) for p in model.parameters() if p.requires_grad}
        t = tokens(4, 9)
        losses = [step(Batch(t[:, :-1], t[:, 1:]))["loss"] for _ in range(8)]
        assert losses[-1] < losses[0] - 0.05
    assert all(torch.equal(x, packed[name]) for name, x in model.named_buffers())
    assert all(torch.equal(x, packed[name]) for name, x in WorkingCopy(model).model.named_buffers())


def test_the_weights_take_an_eighth_of_their_bytes():
    sizes = {"n_layers": 1, "d_model": 128, "n_heads": 2, "d_head": 64, "d_ff": 512}
    model = decoder(**sizes).float()
    rest = nbytes(model) - 4 * (4 * 128**2 + 2 * 128 * 512)
    packed = nbytes(add_adapter(model, QLoRAConfig(rank=1, targets=("to_q",)))) - 4 * 2 * 128 - rest
    bits = 8 * packed / (4 * 128**2 + 2 * 128 * 512)
    assert 4.12 < bits < 4.15


def test_the_new_head_of_a_classifier_stays_whole():
    sizes = {"n_layers": 1, "d_model": 14, "n_heads": 2, "d_ff": 18, "context_length": 32}
    model = add_adapter(Classifier(Encoder(EncoderConfig(**sizes), 22), 2), CONFIG)
    assert not any("answer" in path for path in adapted_layers(model)) and len(adapted_layers(model)) == 6


BAD = {
    "a width that the group does not divide": (CONFIG, decoder, r"adapter.group = 2: .*such as 17 of blocks.0"),
    "an odd group": (QLoRAConfig(rank=2, group=5), EVEN["llama"], "adapter.group = 5: expected an even number"),
    "no group": (QLoRAConfig(rank=2, group=0), EVEN["llama"], "adapter.group = 0: expected an even number"),
    "experts": (CONFIG, lambda: decoder(**SHAPES["experts"]), "expected a model without experts"),
    "too high a rank": (QLoRAConfig(rank=11, group=2), EVEN["llama"], "adapter.rank = 11: expected 1 ... 10"),
}


@pytest.mark.parametrize(("adapter", "build", "sentence"), BAD.values(), ids=BAD)
def test_what_cannot_be_packed_is_refused_and_the_model_is_as_it_was(adapter, build, sentence):
    model = build()
    before = list(model.named_modules())
    with pytest.raises(ValueError, match=sentence):
        add_adapter(model, adapter)
    assert list(model.named_modules()) == before and all(p.requires_grad for p in model.parameters())
    assert not adapted_layers(model)
