"""LoRA equals the published equation; laws of merging, freezing and saving hold for every choice of targets."""

import copy
import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from minillm.adapters.build_adapter import add_adapter
from minillm.adapters.inject import replace
from minillm.adapters.lora import LoRA, LoRAConfig
from minillm.adapters.merge import adapted_layers, merge, unmerge
from minillm.datasets.batch import Batch
from minillm.lessons import lora as lesson
from minillm.objectives.next_token import next_token
from minillm.training.checkpoint import load_trained_state, trained_state
from minillm.training.optim import AdamW, Muon, OptimConfig, Together, build_optimizer
from minillm.training.step import GradientStep
from tests.tiny import N_HEADS, SHAPES, assert_equal, decoder, tokens

TARGETS = ("to_q", "to_k", "to_v", "to_out", "up", "down")
SUBSETS = [subset for n in range(1, 7) for subset in itertools.combinations(TARGETS, n)]

every_shape = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)


def shuffle(model: nn.Module) -> nn.Module:
    """Set random factors, as after training: B is no longer zero."""
    for layer in adapted_layers(model).values():
        nn.init.normal_(layer.A.weight, std=0.5)
        nn.init.normal_(layer.B.weight, std=0.5)
    return model


def adapted(targets=("to_q", "to_v"), rank=3, alpha=7.0, dropout=0.0, fresh=False, **changes) -> nn.Module:
    """A tiny decoder with an adapter, in float64."""
    model = decoder(**changes)
    add_adapter(model, LoRAConfig(rank=rank, alpha=alpha, targets=tuple(targets), dropout=dropout))
    return model if fresh else shuffle(model)


def targets_of(shape: dict) -> tuple[str, ...]:
    """All linear layers of a decoder of this shape, those of experts among them, but not its head."""
    return (*TARGETS, "gate") if shape.get("feedforward", "").endswith("glu") else tuple(TARGETS)


def state_of(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def assert_same_bits(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("bias", [False, True])
def test_the_layer_is_the_published_equation_number_by_number(bias):
    inside, outside, rank, alpha = 5, 7, 3, 11.0
    layer = LoRA(nn.Linear(inside, outside, bias=bias).double(), rank, alpha)
    nn.init.normal_(layer.B.weight)
    x = torch.randn(2, inside, dtype=torch.float64)
    W, A, B = layer.base.weight, layer.A.weight, layer.B.weight
    y = layer(x)
    for b, o in itertools.product(range(2), range(outside)):
        expected = sum(W[o, i] * x[b, i] for i in range(inside)) + (layer.base.bias[o] if bias else 0)
        expected = expected + alpha / rank * sum(
            B[o, r] * A[r, i] * x[b, i] for r in range(rank) for i in range(inside)
        )
        assert_equal(y[b, o], expected)


def test_the_layer_its_gradients_and_its_merged_weight_are_those_of_the_lesson():
    layer = LoRA(nn.Linear(5, 7, bias=False).double().requires_grad_(False), 3, 11.0)
    slow = lesson.LoRA(layer.base.weight.detach().clone(), 3, 11.0).double()
    x = torch.randn(2, 13, 5, dtype=torch.float64)
    assert torch.equal(layer(x), layer.base(x)) and torch.equal(slow(x), layer.base(x)), "fresh ones change nothing"
    nn.init.normal_(layer.B.weight)
    slow.A.data, slow.B.data = layer.A.weight.detach().clone(), layer.B.weight.detach().clone()
    outputs = layer(x), slow(x)
    assert_equal(*outputs)
    assert_equal(layer.merged().weight, slow.merged())
    assert_equal(x @ slow.merged().T, outputs[1])
    for out in outputs:
        out.square().sum().backward()
    assert_equal(layer.A.weight.grad, slow.A.grad)
    assert_equal(layer.B.weight.grad, slow.B.grad)
    assert slow.W.grad is None


@every_shape
def test_an_adapted_model_is_the_model_whose_weights_are_the_published_sum(shape):
    model = adapted(targets_of(shape), **shape)
    plain = decoder(**shape)
    for path, layer in adapted_layers(model).items():
        plain.get_submodule(path).weight.data += 7 / 3 * layer.B.weight @ layer.A.weight
    assert_equal(model(tokens(2, 9))[0], plain(tokens(2, 9))[0])


@every_shape
def test_a_fresh_adapter_changes_nothing(shape):
    model = adapted(["*"], rank=2, dropout=0.5, fresh=True, **shape)
    assert torch.equal(model.train()(tokens(2, 9))[0], decoder(**shape)(tokens(2, 9))[0])


def test_a_fresh_adapter_can_learn_at_once_since_only_one_factor_is_zero():
    model = adapted(["*"], fresh=True)
    next_token(model, Batch(tokens(2, 9), tokens(2, 9, seed=1))).total.backward()
    assert all(layer.B.weight.grad.any() and layer.A.weight.any() for layer in adapted_layers(model).values())


@pytest.mark.parametrize("n_kv_heads", [1, 2, N_HEADS])
def test_merging_any_subset_changes_no_logit_and_unmerging_restores_every_bit(n_kv_heads):
    model, t = decoder(n_kv_heads=n_kv_heads, n_layers=1), tokens(2, 7)
    names = model.state_dict().keys()
    assert model.config.d_head * N_HEADS != model.config.d_model
    for training, subset in zip(itertools.cycle([True, False]), SUBSETS, strict=False):
        model.train(training)
        add_adapter(model, LoRAConfig(rank=3, targets=subset))
        shuffle(model)
        before, logits = state_of(model), model(t)[0]
        taken = merge(model)
        assert merge(model) == {} and not adapted_layers(model), "merging twice is merging once"
        assert model.state_dict().keys() == names
        assert_equal(model(t)[0], logits)
        for _ in range(2):
            unmerge(model, taken)
            assert_same_bits(state_of(model), before)
        assert torch.equal(model(t)[0], logits)
        replace(model, {layer: layer.base for layer in adapted_layers(model).values()})


@every_shape
def test_every_shape_is_merged_and_unmerged(shape):
    model, t = adapted(targets_of(shape), **shape), tokens(2, 9)
    before, logits = state_of(model), model(t)[0]
    taken = merge(model)
    assert_equal(model(t)[0], logits)
    unmerge(model, taken)
    assert_same_bits(state_of(model), before)


def test_neither_eval_nor_train_merges_or_changes_a_weight():
    model, t = adapted(TARGETS), tokens(2, 7)
    before, logits = state_of(model), model(t)[0]
    for mode in (True, False, False, True, True, False):
        model.train(mode)
        assert_same_bits(state_of(model), before)
        assert len(adapted_layers(model)) == 2 * len(TARGETS) and torch.equal(model(t)[0], logits)


def test_dropout_is_of_the_correction_alone_in_training_alone_and_is_not_merged():
    model, t = adapted(TARGETS, dropout=0.5), tokens(2, 7)
    logits = model(t)[0]
    model.train()
    assert not torch.equal(model(t)[0], model(t)[0])
    taken = merge(model)
    assert_equal(model(t)[0], logits)
    model.eval()
    unmerge(model, taken)
    assert torch.equal(model(t)[0], logits), "the mode was changed while the adapter was away"


@pytest.mark.parametrize("mode", ["train", "eval", "merged", "merged and unmerged"])
def test_what_is_saved_in_any_mode_loads_to_the_same_logits(mode, tmp_path):
    model, t = adapted(TARGETS), tokens(2, 7)
    logits = model(t)[0]
    model.train(mode == "train")
    taken = merge(model) if mode.startswith("merged") else {}
    if mode == "merged and unmerged":
        unmerge(model, taken)
    torch.save(model.state_dict() if mode == "merged" else trained_state(model), tmp_path / "saved")
    saved = torch.load(tmp_path / "saved")
    if mode == "merged":
        other = decoder()
        other.load_state_dict(saved)
    else:
        assert saved.keys() == {f"{path}.{factor}.weight" for path in adapted_layers(model) for factor in "AB"}
        other = adapted(TARGETS, fresh=True)
        load_trained_state(other, saved)
    assert_equal(other(t)[0], logits)


def test_factors_of_another_adapter_are_refused():
    factors = trained_state(adapted(["to_q"]))
    for other in (adapted(["to_q", "to_k"]), adapted(["to_k"]), adapted(["to_q"], rank=2), decoder()):
        before = state_of(other)
        with pytest.raises(ValueError, match=r"of shape .*: expected .*, as in the model"):
            load_trained_state(other, factors)
        assert_same_bits(state_of(other), before)


def test_merging_into_a_tied_head_is_refused_and_nothing_has_changed():
    model, t = adapted(["to_q", "head"], tied=True), tokens(2, 7)
    before, logits = state_of(model), model(t)[0]
    with pytest.raises(
        ValueError, match=r"head: its weight is also embed\.weight: expected one of its own; adapt other targets"
    ):
        merge(model)
    assert_same_bits(state_of(model), before)
    assert torch.equal(model(t)[0], logits) and len(adapted_layers(model)) == 3


def test_an_adapter_on_a_tied_head_leaves_the_embedding_alone_and_survives_saving():
    model, plain = adapted(["head"], tied=True), decoder(tied=True)
    assert torch.equal(model.embed.weight, plain.embed.weight) and model.head.base.weight is model.embed.weight
    other = adapted(["head"], tied=True, fresh=True)
    load_trained_state(other, trained_state(model))
    assert torch.equal(other(tokens(2, 7))[0], model(tokens(2, 7))[0])
    x = plain.hidden(tokens(2, 7))[0]
    assert_equal(model(tokens(2, 7))[0], plain.head(x) + 7 / 3 * x @ model.head.A.weight.T @ model.head.B.weight.T)


def test_a_head_of_its_own_is_merged():
    model, t = adapted(["head"], tied=False), tokens(2, 7)
    logits = model(t)[0]
    merge(model)
    assert_equal(model(t)[0], logits)


def test_a_layer_that_is_used_twice_is_merged_in_both_places():
    model = nn.Sequential(nn.Linear(5, 5), nn.Tanh())
    model.append(model[0])
    model = model.double()
    add_adapter(model, LoRAConfig(rank=2, targets=("0",)))
    shuffle(model)
    y = model(torch.ones(5, dtype=torch.float64))
    taken = merge(model)
    assert_equal(model(torch.ones(5, dtype=torch.float64)), y)
    assert model[0] is model[2]
    unmerge(model, taken)
    assert model[0] is model[2] and isinstance(model[0], LoRA)


@pytest.mark.parametrize("size", [1.0, 1e-3])
def test_a_merge_in_bfloat16_is_rounded_once(size):
    """The float32 sum errs by half a unit in the last of 8 bits; any merge rounds smaller corrections away."""
    layer = LoRA(nn.Linear(31, 29, bias=False).double(), 3, 1.0)
    nn.init.normal_(layer.B.weight, std=size)
    layer = layer.bfloat16()
    w, a, b = (part.weight.double() for part in (layer.base, layer.A, layer.B))
    exact, merged = w + b @ a / 3, layer.merged().weight
    assert merged.dtype == torch.bfloat16
    assert ((merged.double() - exact).abs() <= 1.001 * 2**-9 * 2 ** torch.ceil(torch.log2(exact.abs()))).all()


def test_bfloat16_logits_are_as_good_after_merging_as_before():
    t, model = tokens(3, 11), adapted(TARGETS, init_std=0.1)
    exact = model(t)[0]
    rounded = copy.deepcopy(model).bfloat16()
    apart = (rounded(t)[0].double() - exact).abs().max()
    merge(rounded)
    together = (rounded(t)[0].double() - exact).abs().max()
    assert together < 2 * apart < 0.2 * exact.abs().max()


def a_step(model: nn.Module, kind: str = "adamw", **how) -> GradientStep:
    optimizer = build_optimizer(model, OptimConfig(kind=kind, lr=0.01, weight_decay=0.1))
    return GradientStep(model, next_token, optimizer, lambda step: 1.0, lr=0.01, **how)


def members_of(optimizer) -> list[AdamW | Muon]:
    return optimizer.members if isinstance(optimizer, Together) else [optimizer]


@every_shape
@pytest.mark.parametrize("kind", ["adamw", "muon"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_only_the_factors_have_gradients_state_and_updates(shape, kind, precision):
    model = adapted(["*"], rank=2, fresh=True, **shape).float()
    step = a_step(model, kind, precision=precision)
    factors = {id(p) for layer in adapted_layers(model).values() for p in (layer.A.weight, layer.B.weight)}
    before = state_of(model)
    assert (
        {id(p) for p in step.parameters}
        == {id(p) for member in members_of(step.optimizer) for p in member.parameters}
        == factors
    )
    states = [
        x for member in members_of(step.optimizer) for x in (member.m + (member.v if isinstance(member, AdamW) else []))
    ]
    assert {tuple(x.shape) for x in states} <= {tuple(p.shape) for p in step.parameters}
    assert sum(x.numel() for x in states) <= 2 * sum(p.numel() for p in step.parameters)
    for i in range(3):
        step(Batch(tokens(2, 9, i), tokens(2, 9, i + 1)))
    assert all(p.grad.shape == p.shape for p in step.parameters)
    for name, parameter in itertools.chain(model.named_parameters(), step.working.named_parameters()):
        if name.endswith(("A.weight", "B.weight")):
            assert not torch.equal(model.state_dict()[name], before[name])
        else:
            assert parameter.grad is None and torch.equal(model.state_dict()[name], before[name])


def test_factors_of_matrices_are_trained_by_muon_and_those_of_the_head_by_adamw():
    assert isinstance(build_optimizer(adapted(TARGETS), OptimConfig(kind="muon")), Muon)
    model = adapted(["to_q", "head"])
    muon, adamw = build_optimizer(model, OptimConfig(kind="muon")).members
    assert {id(p) for p in adamw.parameters} == {id(model.head.A.weight), id(model.head.B.weight)} and len(
        muon.parameters
    ) == 4


def test_no_gradient_is_computed_for_a_frozen_weight():
    model, computed = adapted(TARGETS, rank=2), []
    loss = next_token(model, Batch(tokens(2, 9), tokens(2, 9, seed=1))).total
    pending, seen = [loss.grad_fn], set()
    while pending:
        node = pending.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            computed.append(node.variable)
        pending += [below for below, _ in node.next_functions]
    assert {id(p) for p in computed} == {id(p) for p in model.parameters() if p.requires_grad}


def test_training_an_adapter_lowers_the_loss_and_goes_on_from_its_state_bit_by_bit(tmp_path):
    batch = Batch(tokens(4, 9), tokens(4, 9, seed=1))
    straight = a_step(adapted(TARGETS, dropout=0.3, fresh=True).float())
    losses = [straight(batch)["loss"] for _ in range(4)]
    torch.save(straight.state_dict(), tmp_path / "state")
    expected = [straight(batch)["loss"] for _ in range(30)]
    resumed = a_step(adapted(TARGETS, dropout=0.3).float())
    resumed.load_state_dict(torch.load(tmp_path / "state"))
    assert [resumed(batch)["loss"] for _ in range(30)] == expected
    assert_same_bits(state_of(resumed.model), state_of(straight.model))
    assert expected[-1] < losses[0] - 0.1


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"rank": 0}, "rank = 0: expected int >= 1"),
        ({"rank": 4, "alpha": 0.0}, "alpha = 0.0: expected float > 0"),
        ({"rank": 4, "dropout": 1.0}, "dropout = 1.0: expected float 0 ... 0.99"),
        ({"rank": 4, "targets": ()}, r"adapter.targets = \[\]: expected names of layers"),
        ({"rank": 11}, "adapter.rank = 11: expected 1 ... 10, the rank of a target of 24 x 10"),
        ({"rank": 4, "targets": ("too_q",)}, "did you mean .*to_q"),
    ],
)
def test_a_wrong_adapter_is_refused_with_a_sentence_and_the_model_is_as_it_was(changes, sentence):
    model = decoder()
    before = list(model.named_modules())
    with pytest.raises(ValueError, match=sentence):
        add_adapter(model, LoRAConfig(**changes))
    assert list(model.named_modules()) == before and all(p.requires_grad for p in model.parameters())


def test_a_second_adapter_is_refused_until_the_first_is_merged():
    model = adapted()
    with pytest.raises(ValueError, match="carries an adapter already"):
        add_adapter(model, LoRAConfig(rank=2))
    logits = model(tokens(2, 5))[0]
    merge(model)
    add_adapter(model, LoRAConfig(rank=2))
    assert_equal(model(tokens(2, 5))[0], logits)


@settings(max_examples=30)
@given(inside=st.integers(1, 9), outside=st.integers(1, 9), data=st.data())
def test_a_layer_of_any_size_merges_to_the_same_function_and_its_correction_has_the_rank(inside, outside, data):
    rank = data.draw(st.integers(1, min(inside, outside)))
    layer = LoRA(nn.Linear(inside, outside).double(), rank, data.draw(st.floats(0.1, 50)))
    nn.init.normal_(layer.B.weight)
    x = torch.randn(3, inside, dtype=torch.float64)
    assert_equal(layer.merged()(x), layer(x))
    assert torch.linalg.matrix_rank(layer.merged().weight - layer.base.weight) == rank
    assert layer.A.weight.numel() + layer.B.weight.numel() == rank * (inside + outside)
