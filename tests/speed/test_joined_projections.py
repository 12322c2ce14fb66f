"""Queries, keys and values by one product: the same numbers, and parameters that remain separate and unchanged."""

import copy

import pytest
import torch
from torch import nn

from minillm.adapters.build_adapter import add_adapter
from minillm.adapters.lora import LoRAConfig
from minillm.speed.accelerate import accelerate
from minillm.speed.joined_projections import JoinedAttention
from minillm.training.optim import OptimConfig, build_optimizer
from tests.tiny import assert_equal, decoder, tokens

SHAPES = {
    "grouped": {"n_heads": 6, "n_kv_heads": 2, "d_model": 30, "d_head": 4, "bias": True},
    "plain": {"n_heads": 3, "d_model": 18, "qk_norm": True, "value_embeddings": True},
}
every_shape = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)


def read(model: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(tokens(1, 11))[0]


@pytest.fixture
def products(monkeypatch) -> list[int]:
    """The number of rows of every weight in a linear product."""
    heights, real = [], nn.functional.linear
    monkeypatch.setattr(nn.functional, "linear", lambda *parts: heights.append(len(parts[1])) or real(*parts))
    return heights


@every_shape
def test_one_product_gives_the_queries_keys_and_values_of_three(shape, products):
    model = decoder(**shape)
    apart, n_apart = read(model), len(products)
    products.clear()
    assert_equal(read(accelerate(model)), apart)
    assert len(products) == n_apart - 2 * 2, "two products fewer in each of two layers"


@every_shape
def test_training_has_the_gradients_of_three_products_from_one(shape, products):
    model, counts, gradients = decoder(**shape).train(), [], []
    for road in (model, accelerate(model, training=True)):
        products.clear()
        road(tokens(1, 11))[0].square().mean().backward()
        counts.append(len(products))
        gradients.append([p.grad.clone() for p in model.parameters()])
        model.zero_grad()
    assert counts[1] == counts[0] - 2 * 2
    for mine, theirs in zip(*gradients, strict=True):
        assert_equal(mine, theirs)


def test_weights_that_lie_together_are_trained_saved_and_joined_again():
    model, other = decoder(**SHAPES["grouped"]), decoder(**SHAPES["grouped"])
    before = {name: p.clone() for name, p in model.state_dict().items()}
    parameters = list(model.parameters())
    with torch.inference_mode():
        accelerate(model)(tokens(1, 3))
    assert all(torch.equal(p, before[name]) for name, p in model.state_dict().items())
    assert all(a is b for a, b in zip(model.parameters(), parameters, strict=True))
    for one in (model, other):
        optimizer = build_optimizer(one, OptimConfig(muon_lr=0.1, lr=0.1))
        one(tokens(1, 7))[0].square().mean().backward()
        optimizer.step()
    where = model.blocks[0].attention.to_q.weight.data_ptr()
    assert_equal(read(accelerate(model)), read(other))
    assert model.blocks[0].attention.to_q.weight.data_ptr() == where, "nothing is moved a second time"
    assert (read(model) - read(decoder(**SHAPES["grouped"]))).abs().max() > 0.01, "the optimizer did move them"
    torch.testing.assert_close(read(copy.deepcopy(model).float()).double(), read(other), rtol=1e-3, atol=1e-3)
    other.load_state_dict(before)
    model.load_state_dict(before, assign=True)
    assert_equal(read(accelerate(model)), read(other))


def test_weights_of_which_only_some_lie_together_are_not_taken_for_neighbours():
    model = decoder(**SHAPES["plain"])
    attention = model.blocks[0].attention
    layers, storage = (attention.to_q, attention.to_k, attention.to_v), torch.randn(4 * 12, 18, dtype=torch.float64)
    for i, layer in zip((0, 1, 3), layers, strict=True):  # a gap before the values
        layer.weight.data = storage[12 * i : 12 * (i + 1)]
    expected = read(model)
    assert_equal(read(accelerate(model)), expected)
    storage *= 2
    assert_equal(read(accelerate(model)), read(model)), "and they are still parts of the larger tensor"
    assert (read(model) - expected).abs().max() > 0.01


def test_one_weight_for_queries_and_keys_stays_one():
    model = decoder(**SHAPES["plain"])
    for block in model.blocks:
        block.attention.to_k.weight = block.attention.to_q.weight
    assert_equal(read(accelerate(model)), read(model))
    model.blocks[0].attention.to_q.weight.data *= 3
    assert_equal(read(accelerate(model)), read(model))


@pytest.mark.parametrize("changed", ["to_q", "to_k", "to_v"])
def test_an_adapted_layer_is_asked_itself(changed):
    model = decoder(**SHAPES["plain"])
    add_adapter(model, LoRAConfig(rank=2, targets=(changed,)))
    for block in model.blocks:
        nn.init.normal_(getattr(block.attention, changed).B.weight)
    tree = accelerate(model)
    assert not any(isinstance(module, JoinedAttention) for module in tree.modules())
    assert_equal(read(tree), read(model))


def test_projections_of_which_only_some_have_a_bias_are_asked_each():
    model = decoder(**SHAPES["plain"])
    model.blocks[1].attention.to_k.bias = nn.Parameter(torch.randn(12, dtype=torch.float64))
    assert_equal(read(accelerate(model)), read(model))


def test_an_optimizer_of_matrices_sees_three_of_them():
    model = decoder(**SHAPES["grouped"])
    names = [name for name, _ in model.named_parameters()]
    read(accelerate(model))
    [muon, _] = build_optimizer(model, OptimConfig()).members
    assert names == [name for name, _ in model.named_parameters()] and len(names) == len(model.state_dict()) - 1
    shapes = [tuple(p.shape) for p in muon.parameters if p.shape[1] == 30 and p.shape[0] != 17]
    assert shapes == [(24, 30), (8, 30), (8, 30)] * 2
