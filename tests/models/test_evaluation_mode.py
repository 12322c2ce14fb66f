"""Evaluation mode is counted: overlapping contexts may end in any order, and the former mode returns."""

import copy
import gc
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from minillm.decoding.generate import stream
from minillm.decoding.sampler import Sampler, seeded
from minillm.models.decoder import Decoder, DecoderConfig
from minillm.models.language_model import evaluating

V = 29
SHAPES = {
    "grouped": {"n_heads": 6, "n_kv_heads": 2, "d_model": 30, "d_head": 4, "bias": True},
    "plain": {"n_heads": 3, "d_model": 18, "qk_norm": True, "value_embeddings": True},
}


def decoder(**shape) -> Decoder:
    torch.manual_seed(0)
    return Decoder(DecoderConfig(n_layers=2, context_length=16, init_std=0.3, **shape), V).double()


def test_nothing_is_left_behind_even_after_an_error():
    model = decoder(**SHAPES["plain"]).train()
    held = {path: set(vars(module)) for path, module in model.named_modules()}
    with pytest.raises(RuntimeError, match="on purpose"), evaluating(model):
        assert not model.training
        raise RuntimeError("on purpose")
    assert model.training
    assert {path: set(vars(module)) for path, module in model.named_modules()} == held


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=24), st.lists(st.booleans(), min_size=3, max_size=3))
def test_a_model_is_evaluated_until_the_last_of_many_that_overlap_leaves(order, modes):
    """Contexts begin and end in any order, and some share modules; dropout returns after the last one."""
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
    """For every way to end the first stream, a model in training mode returns to it after the last stream."""
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
