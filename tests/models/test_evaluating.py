"""Inference mode: the same numbers in fewer products, and no trace of it afterwards."""

import copy
import gc
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from minillm.adapters.lora import AdapterConfig, add_lora
from minillm.decoding.generate import stream
from minillm.decoding.sampler import Sampler, seeded
from minillm.models.decoder import Decoder, DecoderConfig
from minillm.models.evaluating import evaluating

V = 29
SHAPES = {
    "grouped": {"n_heads": 6, "n_kv_heads": 2, "d_model": 30, "d_head": 4, "bias": True},
    "plain": {"n_heads": 3, "d_model": 18, "qk_norm": True, "value_embeddings": True},
}


def decoder(**shape) -> Decoder:
    torch.manual_seed(0)
    return Decoder(DecoderConfig(n_layers=2, context_length=16, init_std=0.3, **shape), V).double()


def read(model: Decoder) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.arange(11)[None] % V)[0]


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_one_product_gives_the_queries_keys_and_values_of_three(shape, monkeypatch):
    model, n = decoder(**shape).eval(), []
    apart = read(model)
    real = nn.functional.linear
    monkeypatch.setattr(nn.functional, "linear", lambda *parts: n.append(len(parts[1])) or real(*parts))
    read(model)
    n_apart = len(n)
    with evaluating(model):
        torch.testing.assert_close(read(model), apart, rtol=0, atol=1e-12)
    assert len(n) - n_apart == n_apart - 2 * 2, "two products fewer in each of two layers"


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_training_has_the_gradients_of_three_products_from_one(shape, monkeypatch):
    model, n, real = decoder(**shape), [], nn.functional.linear
    monkeypatch.setattr(nn.functional, "linear", lambda *parts: n.append(len(parts[1])) or real(*parts))
    counts, gradients = [], []
    for training in (False, True):
        n.clear()
        model.train(training)(torch.arange(11)[None] % V)[0].square().mean().backward()
        counts.append(len(n))
        gradients.append([p.grad.clone() for p in model.parameters()])
        model.zero_grad()
    assert counts[1] == counts[0] - 2 * 2
    torch.testing.assert_close(gradients[1], gradients[0], rtol=0, atol=1e-12)


def test_weights_that_lie_together_are_trained_saved_and_joined_again():
    model, other = decoder(**SHAPES["grouped"]), decoder(**SHAPES["grouped"])
    before = {name: p.clone() for name, p in model.state_dict().items()}
    with torch.inference_mode(), evaluating(model):
        pass
    assert all(torch.equal(p, before[name]) for name, p in model.state_dict().items())
    for one in (model, other):
        optimizer = torch.optim.AdamW(one.parameters(), lr=0.1)
        one(torch.arange(7)[None])[0].square().mean().backward()
        optimizer.step()
    where = model.blocks[0].attention.to_q.weight.data_ptr()
    with evaluating(model):
        torch.testing.assert_close(read(model), read(other), rtol=0, atol=1e-12)
    assert model.blocks[0].attention.to_q.weight.data_ptr() == where, "nothing is moved a second time"
    torch.testing.assert_close(read(copy.deepcopy(model).float()).double(), read(other), rtol=1e-3, atol=1e-3)
    other.load_state_dict(before)
    model.load_state_dict(before, assign=True)
    with evaluating(model):
        torch.testing.assert_close(read(model), read(other), rtol=0, atol=1e-12)


def test_weights_of_which_only_some_lie_together_are_not_taken_for_neighbours():
    model = decoder(**SHAPES["plain"])
    attention, expected = model.blocks[0].attention, None
    storage = torch.randn(4 * 18, 18, dtype=torch.float64)
    layers = attention.to_q, attention.to_k, attention.to_v
    for i, layer in zip((0, 1, 3), layers, strict=True):  # a gap before the values
        layer.weight.data = storage[18 * i : 18 * (i + 1)]
    expected = read(model)
    with evaluating(model):
        torch.testing.assert_close(read(model), expected, rtol=0, atol=1e-12)


def test_an_adapted_layer_is_asked_itself():
    model = decoder(**SHAPES["plain"])
    add_lora(model, AdapterConfig(rank=2))
    for block in model.blocks:
        nn.init.normal_(block.attention.to_v.B.weight)
    expected = read(model)
    with evaluating(model):
        assert torch.equal(read(model), expected)


def test_nothing_is_left_behind_even_after_an_error():
    model = decoder(**SHAPES["plain"]).train()
    held = {path: set(vars(module)) for path, module in model.named_modules()}
    with pytest.raises(RuntimeError, match="on purpose"), evaluating(model):
        assert not model.training
        raise RuntimeError("on purpose")
    assert model.training and all(block.attention.joined is None for block in model.blocks)
    assert {path: set(vars(module)) for path, module in model.named_modules()} == held
    model.head.weight = nn.Parameter(torch.zeros(V, 18, dtype=torch.float64))
    assert not read(model).any(), "a part that is exchanged later is the one that is used"


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=24), st.lists(st.booleans(), min_size=3, max_size=3))
def test_a_model_is_evaluated_until_the_last_of_many_that_overlap_leaves(order, modes):
    """Contexts are entered and left in any order; some share modules. Dropout returns with the end of the last."""
    model = nn.ModuleList([decoder(**SHAPES["plain"]), nn.Dropout(0.5), nn.Linear(3, 3)])
    for module, mode in zip(model, modes, strict=True):
        module.train(mode)
    before = {name: (module.training, set(vars(module))) for name, module in model.named_modules()}
    wholes, alive = [model, model, model[0], model[0].blocks[1]], {}
    for i in order:
        if i in alive:
            alive.pop(i).__exit__(None, None, None)
        else:
            alive[i] = evaluating(wholes[i])
            alive[i].__enter__()
        used = {module for j in alive for module in wholes[j].modules()}
        for name, module in model.named_modules():
            assert module.training == (module not in used and before[name][0])
            assert module in used or set(vars(module)) == before[name][1]
    for context in alive.values():
        context.__exit__(None, None, None)
    assert {name: (module.training, set(vars(module))) for name, module in model.named_modules()} == before


def written(news: Iterator) -> list[int]:
    return [event.token for events in news for event in events]


def begin(model: Decoder, prompt: list[int]) -> Iterator:
    return stream(model, [prompt], Sampler(), max_new_tokens=7, generators=seeded([3]))


@pytest.mark.parametrize("ending", ["exhausted", "closed", "thrown", "forgotten"])
def test_a_stream_writes_the_same_after_another_of_its_model_has_ended(ending):
    """However the first stream ended; a model in training mode returns to it after the last stream."""
    model = decoder(**SHAPES["plain"], dropout=0.5)
    expected = written(begin(model.eval(), [4, 5]))
    model.train()
    held = {path: set(vars(module)) for path, module in model.named_modules()}
    first, second = begin(model, [1]), begin(model, [4, 5])
    next(first)
    news = next(second)
    if ending == "exhausted":
        written(first)
    elif ending == "closed":
        first.close()
    elif ending == "thrown":
        with pytest.raises(KeyError):
            first.throw(KeyError("on purpose"))
    else:
        del first
        gc.collect()
    assert not any(module.training for module in model.modules())
    assert [event.token for event in news] + written(second) == expected
    assert all(module.training for module in model.modules())
    assert {path: set(vars(module)) for path, module in model.named_modules()} == held


def test_a_copy_that_was_made_meanwhile_is_a_model_of_its_own():
    model = decoder(**SHAPES["plain"]).train()
    with evaluating(model):
        twin = copy.deepcopy(model).train()
        with evaluating(twin):
            assert not twin.training
        assert twin.training and all(module.training for module in twin.modules()) and not model.training
    assert model.training
