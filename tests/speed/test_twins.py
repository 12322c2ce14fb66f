"""The contract of all twins: in float64 they equal the plain code, forward and backward; code they bypass is signed."""

from collections.abc import Iterator
from functools import partial
from types import FunctionType
from typing import Any

import pytest
import torch
from torch import nn

from minillm.decoding.generate import generate
from minillm.decoding.sampler import Sampler, SamplingConfig, build_pipeline, seeded
from minillm.layers.attention import attend
from minillm.layers.feedforward import relu2
from minillm.layers.positions import Rotary
from minillm.speed.accelerate import Tree, accelerate
from minillm.speed.signing import judge, name_of
from minillm.speed.twins import TWINS
from tests.speed.zoo import MODELS, answers, texts
from tests.tiny import SHAPES, assert_equal, decoder

each_model = pytest.mark.parametrize("name", MODELS)
each_twin = pytest.mark.parametrize("plain", TWINS, ids=name_of)


@each_twin
def test_every_twin_is_signed_for_the_source_as_it_is(plain):
    assert judge(plain, TWINS[plain]).why_not == ""


@each_model
@pytest.mark.parametrize("training", [False, True])
def test_the_tree_answers_as_the_model_and_has_its_gradients(name, training):
    model = MODELS[name]().train(training)
    tree = accelerate(model, training=training)
    assert tree is not model and type(tree).__mro__[-3:] == type(model).__mro__[-3:]
    for text in texts():
        gradients = []
        for road in (tree, model):
            out = answers(road, text)
            gradients.append(
                [out, *torch.autograd.grad(out.square().mean(), list(model.parameters()), allow_unused=True)]
            )
        for fast, slow in zip(*gradients, strict=True):
            assert (fast is None) == (slow is None)
            if fast is not None:
                assert_equal(fast, slow)
        with torch.inference_mode():
            assert_equal(answers(tree, text), answers(model, text))


def test_the_models_of_the_test_above_meet_every_twin_of_a_part_of_a_model():
    met: set[Any] = {nn.Dropout}
    for make in MODELS.values():
        tree = Tree(make(), training=False)
        met |= tree.used.keys()
        assert all(tree.used.values())
    modules = {plain for plain in TWINS if isinstance(plain, type) and issubclass(plain, nn.Module)}
    assert met == modules | {Rotary, attend, relu2}


@pytest.mark.parametrize("name", ["llama", "experts", "n-gram embeddings", "value embeddings", "lstm"])
def test_accelerated_and_plain_models_write_the_same(name):
    model = MODELS[name]().train()
    pipeline = build_pipeline(SamplingConfig(top_p=0.9))
    ask = partial(generate, prompts=[[1, 2, 3, 4, 5], [6], [7, 8, 9]], sampler=Sampler(pipeline), max_new_tokens=12)
    fast, slow = (ask(road, generators=seeded(range(3)), end_id=0) for road in (accelerate(model), model))
    assert [(c.tokens, c.reason) for c in fast] == [(c.tokens, c.reason) for c in slow]
    assert model.training and all(module.training for module in model.modules())


@pytest.mark.parametrize("shape", [SHAPES["llama"], {"qk_norm": True, "positions": "learned"}])
def test_dropout_draws_the_same_numbers_in_training_and_is_gone_where_a_model_writes(shape):
    model = decoder(**shape, dropout=0.4).train()
    tree, outs = accelerate(model, training=True), []
    for road in (tree, model):
        torch.manual_seed(7)
        outs.append(answers(road, texts()[0]))
    assert_equal(*outs)
    writing = accelerate(model)
    assert not any(isinstance(module, nn.Dropout) for module in writing.modules())
    assert_equal(answers(writing, texts()[0]), answers(model.eval(), texts()[0]))


@each_twin
def test_what_the_plain_code_calls_is_signed_or_called_by_the_twin_too(plain):
    twin = TWINS[plain]
    signed = {
        part for thing in twin.signed for part in ([thing] if isinstance(thing, FunctionType) else functions(thing))
    }
    start = [*signed, plain] if isinstance(plain, FunctionType) else signed
    missing = reached(start) - reached(functions(twin.fast)) - signed
    assert twin.fast is plain or {name_of(part) for part in missing} == set()


def functions(thing: Any) -> list[FunctionType]:
    """The functions of a class without the constructor, those inherited from minillm included; or a function itself."""
    if isinstance(thing, FunctionType):
        return [thing]
    kinds = [kind for kind in thing.__mro__ if kind.__module__.startswith("minillm.")]
    held = {name: value for kind in reversed(kinds) for name, value in vars(kind).items() if name != "__init__"}
    held = {name: getattr(value, "__func__", value) for name, value in held.items()}
    return [value for value in held.values() if isinstance(value, FunctionType)]


def reached(start: list[FunctionType]) -> set[FunctionType]:
    """All functions of minillm that these call, directly or indirectly, by a name in their module."""
    found, waiting = set(), list(start)
    while waiting:
        for function in called(waiting.pop()):
            if function not in found:
                found.add(function)
                waiting.append(function)
    return found


def called(function: FunctionType) -> Iterator[FunctionType]:
    """The functions of minillm, and of autograd function classes, that a function refers to."""
    codes = [function.__code__]
    while codes:
        code = codes.pop()
        codes += [constant for constant in code.co_consts if hasattr(constant, "co_names")]
        for value in (function.__globals__.get(name) for name in code.co_names):
            if isinstance(value, FunctionType) and value.__module__.startswith("minillm."):
                yield value
            elif isinstance(value, type) and issubclass(value, torch.autograd.Function):
                yield from functions(value)
