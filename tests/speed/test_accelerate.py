"""The accelerated tree: it is separate from the model, and it is never out of date."""

import copy
import gc
import logging
import weakref

import pytest
import torch
from torch import Tensor, nn

from minillm.adapters.build_adapter import add_adapter
from minillm.adapters.lora import LoRAConfig
from minillm.adapters.merge import merge, unmerge
from minillm.decoding.generate import stream
from minillm.decoding.sampler import Sampler, seeded
from minillm.layers.moe import Router
from minillm.quantization.kernels import arrange_for_kernels
from minillm.quantization.pack import pack
from minillm.speed import signing
from minillm.speed.accelerate import Tree, accelerate
from minillm.speed.joined_projections import JoinedAttention
from minillm.training.checkpoint import fingerprint
from minillm.training.optim import OptimConfig, build_optimizer
from tests.quantization.models import small
from tests.speed.zoo import MODELS, answers, texts
from tests.tiny import SHAPES, assert_equal, decoder, tokens

LLAMA = SHAPES["llama"]


@pytest.fixture(autouse=True)
def nothing_said_yet(monkeypatch):
    monkeypatch.setattr(signing, "_said", set())


def read(model: nn.Module) -> Tensor:
    with torch.inference_mode():
        return model(tokens(2, 9))[0]


def assert_fresh(model: nn.Module) -> None:
    """Assert that a tree requested now gives the same output as the model."""
    assert_equal(read(accelerate(model)), read(model))


@pytest.mark.parametrize("training", [False, True])
def test_the_tree_is_kept_while_the_model_is_what_it_was(training):
    model = decoder(**LLAMA)
    tree = accelerate(model, training=training)
    read(tree)
    model.train()
    model.eval()
    with torch.no_grad():
        model.head.weight.mul_(2)
    assert accelerate(model, training=training) is tree


@pytest.mark.parametrize("name", MODELS)
def test_the_model_itself_does_not_notice(name):
    model = MODELS[name]()
    held = {path: dict(vars(module)) for path, module in model.named_modules()}
    state, before = list(model.state_dict()), fingerprint(model.state_dict())
    for training in (False, True):
        with torch.inference_mode():
            answers(accelerate(model, training=training), texts()[0])
    assert {path: dict(vars(module)) for path, module in model.named_modules()} == held
    assert list(model.state_dict()) == state and fingerprint(model.state_dict()) == before
    tree = accelerate(model)
    assert [(n, id(p)) for n, p in tree.named_parameters()] == [(n, id(p)) for n, p in model.named_parameters()]
    assert [(n, id(b)) for n, b in tree.named_buffers()] == [(n, id(b)) for n, b in model.named_buffers()]


def replace_a_parameter(model: nn.Module) -> None:
    model.blocks[0].norm_1.weight = nn.Parameter(2 * model.blocks[0].norm_1.weight.data)


def replace_the_data_of_a_parameter(model: nn.Module) -> None:
    model.blocks[0].attention.to_k.weight.data = 2 * model.blocks[0].attention.to_k.weight.data


def change_a_parameter_in_place(model: nn.Module) -> None:
    model.blocks[1].attention.to_v.weight.data.mul_(2)


def replace_a_part(model: nn.Module) -> None:
    model.blocks[0].attention.to_q = nn.Linear(10, 24, bias=False).double()


def replace_a_block(model: nn.Module) -> None:
    model.blocks[1] = copy.deepcopy(model.blocks[0])


def reorder_the_blocks(model: nn.Module) -> None:
    model.blocks = nn.ModuleList(reversed(model.blocks))


def set_an_attribute(model: nn.Module) -> None:
    model.blocks[0].norm_1.eps = 3.0


def turn_otherwise(model: nn.Module) -> None:
    model.blocks[0].attention.rotate.frequencies = -model.blocks[0].attention.rotate.frequencies
    model.blocks[0].attention.rotate.at = {}


def replace_a_method(model: nn.Module) -> None:
    model.blocks[0].attention.forward = lambda x, *rest: 2 * x


def replace_a_hidden_method(model: nn.Module) -> None:
    model.blocks[0].attention._project = type(model.blocks[0].attention)._project.__get__(model.blocks[1].attention)


def load_a_state(model: nn.Module) -> None:
    model.load_state_dict(decoder(seed=5, **LLAMA).state_dict())


def load_a_state_by_assignment(model: nn.Module) -> None:
    model.load_state_dict(decoder(seed=5, **LLAMA).state_dict(), assign=True)


def adapt(model: nn.Module) -> None:
    add_adapter(model, LoRAConfig(rank=2, targets=("to_q", "up")))
    nn.init.normal_(model.blocks[0].attention.to_q.B.weight)


def activate_otherwise(model: nn.Module) -> None:
    model.blocks[0].attention.attend = lambda q, *rest: 0 * q


CHANGES = [
    *(
        replace_a_parameter,
        replace_the_data_of_a_parameter,
        change_a_parameter_in_place,
        replace_a_part,
        replace_a_block,
    ),
    *(reorder_the_blocks, set_an_attribute, turn_otherwise, replace_a_method, replace_a_hidden_method, load_a_state),
    *(load_a_state_by_assignment, adapt, activate_otherwise),
]


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("training", [False, True])
def test_a_change_of_the_model_is_one_of_the_tree(change, training):
    model = decoder(**LLAMA)
    before = read(accelerate(model, training=training))
    change(model)
    after = read(accelerate(model, training=training))
    assert (after - before).abs().max() > 1e-6
    assert_equal(after, read(model))


def test_a_merged_adapter_is_merged_and_taken_out_again():
    model = decoder(**LLAMA)
    adapt(model)
    assert_fresh(model)
    taken = merge(model)
    assert_fresh(model)
    assert any(isinstance(module, JoinedAttention) for module in accelerate(model).modules())
    unmerge(model, taken)
    assert_fresh(model)
    assert not any(isinstance(module, JoinedAttention) for module in accelerate(model).modules())


def test_packed_layers_are_left_alone():
    model = small()
    read(accelerate(model))
    pack(model, "int8")
    tree, packed = accelerate(model), {path: m for path, m in model.named_modules() if "Packed" in type(m).__name__}
    assert packed and all(tree.get_submodule(path) is module for path, module in packed.items())
    torch.testing.assert_close(read(tree), read(model), rtol=1e-4, atol=1e-5)
    arrange_for_kernels(model.bfloat16())
    torch.testing.assert_close(read(accelerate(model)).float(), read(model).float(), rtol=0.1, atol=0.1)


HOOKS = {
    "forward": lambda module, seen: module.register_forward_hook(lambda m, *_: seen.append(m)),
    "before": lambda module, seen: module.register_forward_pre_hook(lambda m, *_: seen.append(m)),
    "backward": lambda module, seen: module.register_full_backward_hook(lambda m, *_: seen.append(m)),
}


@pytest.mark.filterwarnings("ignore:.*ackward hook")
@pytest.mark.parametrize("kind", HOOKS)
@pytest.mark.parametrize("name", ["llama", "experts", "encoder", "lstm"])
@pytest.mark.parametrize("training", [False, True])
def test_a_hook_on_any_part_fires_as_often_as_in_the_model_and_with_the_part_itself(name, kind, training):
    model = MODELS[name]().train(training)
    accelerate(model, training=training)
    for module in model.modules():
        counts, seen = [], []
        hook = HOOKS[kind](module, seen)
        for road in (accelerate(model, training=training), model):
            seen.clear()
            answers(road, texts()[0]).sum().backward()
            counts.append(list(seen))
            assert all(m is module for m in seen)
        hook.remove()
        assert counts[0] == counts[1]


def test_a_hook_on_a_part_leaves_the_others_their_twins(caplog):
    model = decoder(**LLAMA)
    model.blocks[0].attention.to_v.register_forward_hook(lambda *_: None)
    model.blocks[0].norm_1.register_forward_hook(lambda *_: None)
    tree = accelerate(model)
    assert tree.blocks[0].norm_1 is model.blocks[0].norm_1 and tree.blocks[0].norm_2 is not model.blocks[0].norm_2
    assert isinstance(tree.blocks[1].attention, JoinedAttention)
    assert not isinstance(tree.blocks[0].attention, JoinedAttention)
    accelerate(model)
    read(tree)
    said = [record.getMessage() for record in caplog.records if record.name == "minillm.speed"]
    assert len(said) == len(set(said)) == 2 and all("with a hook runs without fast twins" in line for line in said)


def test_hooks_on_all_modules_of_the_process_see_the_model_itself():
    model, seen = decoder(**LLAMA), []
    tree = accelerate(model)
    handle = nn.modules.module.register_module_forward_hook(lambda m, *_: seen.append(m))
    assert accelerate(model) is model
    handle.remove()
    assert accelerate(model) is not model and type(accelerate(model)) is type(tree)


@pytest.mark.parametrize("change", [lambda m: m.double(), lambda m: m.float(), lambda m: m.to("cpu", torch.float64)])
def test_a_model_that_is_moved_in_the_middle_of_a_stream_goes_on_as_it_would_have(change):
    """The same stream by the model and by its tree; both are moved and changed during generation."""
    written = []
    for fast in (False, True):
        model, found = decoder(**LLAMA).float(), []
        road = accelerate(model) if fast else model
        ask = {"max_new_tokens": 12, "generators": seeded([4]), "use_cache": False}
        for i, [event] in enumerate(stream(road, [[3, 1, 4]], Sampler(), **ask)):
            found.append((event.token, round(event.logprob, 4)))
            if i == 5:
                change(model)
                with torch.no_grad():
                    model.blocks[0].attention.to_q.weight.mul_(-1)
        written.append(found)
    assert written[0] == written[1]


def test_a_deep_copy_is_a_model_of_its_own():
    model = decoder(**LLAMA)
    accelerate(model)
    twin = copy.deepcopy(model)
    expected = read(model)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.mul_(1.5)
    assert_equal(read(accelerate(model)), expected)
    assert_equal(read(accelerate(twin)), read(twin))
    tree = copy.deepcopy(accelerate(model))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert_equal(read(tree), expected)


def test_training_goes_on_after_sampling_with_the_same_weights():
    model, other = decoder(**LLAMA).train(), decoder(**LLAMA).train()
    for one in (model, other):
        optimizer = build_optimizer(one, OptimConfig())
        for i in range(3):
            one(tokens(3, 9, seed=i))[0].square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
            if one is model:
                list(stream(accelerate(one), [[1]], Sampler(), max_new_tokens=3, generators=seeded([i])))
    for (name, mine), theirs in zip(model.named_parameters(), other.parameters(), strict=True):
        assert_equal(mine, theirs), name
    assert all(module.training for module in model.modules())


def test_routers_stay_the_models_own():
    model = decoder(**SHAPES["experts"])
    for training in (False, True):
        tree = accelerate(model, training=training)
        mine, theirs = ([m for m in each.modules() if isinstance(m, Router)] for each in (tree, model))
        assert len(mine) == 2 and all(a is b for a, b in zip(mine, theirs, strict=True))


def test_a_tree_for_training_is_in_the_mode_of_its_model_and_the_other_is_not():
    model = decoder(**LLAMA, dropout=0.3)
    for mode in (True, False, True):
        model.train(mode)
        assert {module.training for module in accelerate(model, training=True).modules()} == {mode}
        assert {module.training for module in accelerate(model).modules()} == {False}


def test_what_has_no_twin_is_the_model_itself():
    class Mine(nn.Module):
        def forward(self, x):
            return x

    model = Mine()
    assert accelerate(model) is model
    toy = object()
    assert accelerate(toy) is toy


def test_a_subclass_is_left_alone_with_its_parts():
    class Louder(type(decoder().norm)):
        def forward(self, x):
            return 3 * super().forward(x)

    model = decoder(**LLAMA)
    model.blocks[0].norm_1 = Louder(10).double()
    assert accelerate(model).blocks[0].norm_1 is model.blocks[0].norm_1
    assert_fresh(model)


def test_a_model_is_freed_with_its_trees():
    model = decoder(**LLAMA)
    accelerate(model), accelerate(model, training=True)
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None


def test_the_look_of_a_model_is_cheap():
    """No value of a tensor is read: a model on the meta device, which has no values, has a tree too."""
    model = decoder(**LLAMA).to("meta")
    tree = Tree(model, training=False)
    assert tree.fits(model)


def test_nothing_is_said_of_a_model_that_is_what_it_should_be(caplog):
    with caplog.at_level(logging.DEBUG):
        for make in MODELS.values():
            accelerate(make())
    assert [record for record in caplog.records if record.name == "minillm.speed"] == []
