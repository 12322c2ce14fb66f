"""AdamW equals torch's and the lesson's, Muon the lesson's; every parameter has the right optimizer."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from minillm.lessons import optimizers as lesson
from minillm.training.optim import AdamW, Muon, OptimConfig, Together, build_optimizer, orthogonal
from tests.tiny import SHAPES, assert_equal, decoder, tokens

every_shape = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)


def parameters(seed: int = 0) -> list[nn.Parameter]:
    """Matrices of several shapes, a norm's weight and a bias."""
    g = torch.Generator().manual_seed(seed)
    shapes = [(7, 5), (5, 7), (7, 5), (11, 3), (5,), (13,)]
    return [nn.Parameter(torch.randn(shape, generator=g, dtype=torch.float64)) for shape in shapes]


def pull(params: list[nn.Parameter], step: int) -> None:
    """Gradients that differ in size from step to step."""
    g = torch.Generator().manual_seed(1000 + step)
    for p in params:
        p.grad = 10 ** (step % 5 - 2) * torch.randn(p.shape, generator=g, dtype=p.dtype)


@settings(max_examples=20)
@given(
    lr=st.floats(1e-4, 0.1),
    beta1=st.sampled_from([0.0, 0.8, 0.95]),
    beta2=st.sampled_from([0.0, 0.9, 0.999]),
    eps=st.sampled_from([1e-8, 1e-2]),
    decay=st.sampled_from([0.0, 0.1, 1.0]),
)
def test_adamw_is_the_lessons_and_torchs_over_many_steps_of_a_changing_rate(lr, beta1, beta2, eps, decay):
    mine, theirs, slow = parameters(), parameters(), parameters()
    means = [(torch.zeros_like(p), torch.zeros_like(p)) for p in slow]
    groups = [{"params": theirs[:4], "weight_decay": decay}, {"params": theirs[4:], "weight_decay": 0.0}]
    one, other = AdamW(mine, lr, beta1, beta2, eps, decay), torch.optim.AdamW(groups, betas=(beta1, beta2), eps=eps)
    for step in range(25):
        fraction = 1 / (1 + step)
        for group in other.param_groups:
            group["lr"] = lr * fraction
        for some in (mine, theirs, slow):
            pull(some, step)
        one.step(fraction)
        other.step()
        for i, p in enumerate(slow):
            how = (step + 1, lr * fraction, beta1, beta2, eps, decay if p.ndim >= 2 else 0.0)
            p.data, *means[i] = lesson.adamw(p.data, p.grad, *means[i], *how)
    for a, b, c in zip(mine, theirs, slow, strict=True):
        assert_equal(a, b)
        assert_equal(a, c)


def torchs(params: list[nn.Parameter]) -> torch.optim.AdamW:
    """torch's AdamW with the same two groups of parameters."""
    groups = [
        {"params": [p for p in params if p.ndim >= 2], "weight_decay": 0.3},
        {"params": [p for p in params if p.ndim < 2]},
    ]
    return torch.optim.AdamW(groups, lr=0.01, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.0)


@settings(max_examples=20)
@given(missing=st.lists(st.sets(st.integers(0, 5)), min_size=1, max_size=9))
def test_adamw_leaves_alone_what_has_no_gradient_and_counts_its_steps_as_torch_does(missing):
    mine, theirs = parameters(), parameters()
    one, other = AdamW(mine, 0.01, 0.9, 0.95, 1e-8, 0.3), torchs(theirs)
    for step, without in enumerate(missing):
        for some in (mine, theirs):
            pull(some, step)
            for i in without:
                some[i].grad = None
        one.step()
        other.step()
    for a, b in zip(mine, theirs, strict=True):
        assert_equal(a, b)


@settings(max_examples=20)
@given(missing=st.lists(st.sets(st.integers(0, 3)), min_size=1, max_size=9))
def test_muon_leaves_alone_what_has_no_gradient(missing):
    together, alone = parameters()[:4], parameters()[:4]
    one, each = Muon(together, 0.05, 0.9, 0.2), [Muon([p], 0.05, 0.9, 0.2) for p in alone]
    for step, without in enumerate(missing):
        for some in (together, alone):
            pull(some, step)
        for i in without:
            together[i].grad = None
        one.step(0.5)
        for i in set(range(4)) - without:
            each[i].step(0.5)
    for a, b in zip(together, alone, strict=True):
        assert_equal(a, b)


CONSTRUCTORS = {
    "adamw": (slice(None), lambda params: AdamW(params, 0.01, 0.9, 0.95, 1e-8, 0.3)),
    "muon": (slice(4), lambda params: Muon(params, 0.05, 0.9, 0.2)),
    "together": (slice(None), lambda params: Together([AdamW((p for p in params), 0.01, 0.9, 0.95, 1e-8, 0.3)])),
}


ITERABLES = [list, tuple, iter, dict.fromkeys, lambda params: nn.ParameterList(params).parameters()]


@pytest.mark.parametrize(("part", "build"), CONSTRUCTORS.values(), ids=CONSTRUCTORS)
def test_an_optimizer_steps_the_same_over_any_iterable_of_parameters_and_forgets_their_gradients(part, build):
    results = []
    for iterable in ITERABLES:
        params = parameters()[part]
        optimizer = build(iterable(params))
        for step in range(3):
            optimizer.zero_grad()
            assert all(p.grad is None for p in params)
            optimizer.step()  # with no gradient nothing moves
            pull(params, step)
            optimizer.step(0.5)
        assert all(not torch.equal(p, before) for p, before in zip(params, parameters(), strict=False))
        results.append(params)
    for others in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], others, strict=True))


def test_muon_refuses_what_is_no_matrix():
    with pytest.raises(
        ValueError, match=r"a parameter of shape \(5,\): expected at least two dimensions for Muon; give it to AdamW"
    ):
        Muon(iter(parameters()), 0.05, 0.9, 0.2)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_muon_is_the_lessons_one_matrix_at_a_time(momentum):
    mine, theirs = parameters()[:4], parameters()[:4]
    muon, means = Muon(mine, 0.05, momentum, 0.2), [torch.zeros_like(p) for p in theirs]
    for step in range(9):
        pull(mine, step)
        pull(theirs, step)
        muon.step(1 / (1 + step))
        for i, p in enumerate(theirs):
            p.data, means[i] = lesson.muon(p.data, p.grad, means[i], 0.05 / (1 + step), momentum, 0.2)
    for a, b in zip(mine, theirs, strict=True):
        assert_equal(a, b)


def test_muon_takes_a_stack_of_matrices_one_by_one_beside_single_ones_of_the_same_shape():
    single = parameters()[:4]
    stack = [nn.Parameter(torch.stack([single[0], single[2]]).detach()), nn.Parameter(single[1].detach().clone())]
    one, other = Muon(single[:3], 0.05, 0.9, 0.2), Muon(stack, 0.05, 0.9, 0.2)
    for step in range(3):
        pull(single, step)
        stack[0].grad, stack[1].grad = torch.stack([single[0].grad, single[2].grad]), single[1].grad.clone()
        one.step(1.0)
        other.step(1.0)
    assert_equal(stack[0].data, torch.stack([single[0], single[2]]).data)
    assert_equal(stack[1].data, single[1].data)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [(3, 17, 5), (2, 5, 17), (1, 7, 7), (4, 1, 9)])
def test_orthogonal_brings_singular_values_near_one_and_keeps_the_directions(size, dtype):
    g = torch.Generator().manual_seed(0)
    u, _, v = torch.linalg.svd(torch.randn(size, generator=g, dtype=torch.float64), full_matrices=False)
    s = torch.logspace(0, -2, min(size[1:]), dtype=torch.float64)
    for scale in (1e-3, 1.0, 1e3):
        out = orthogonal((scale * (u * s) @ v).to(dtype))
        assert out.dtype == dtype and out.shape == size
        values = torch.linalg.svdvals(out.double())
        loose = 0.0 if dtype == torch.float64 else 0.03
        assert values.min() > 0.68 - loose and values.max() < 1.21 + loose
        directions = u.mT @ out.double() @ v.mT
        assert (directions - torch.diag_embed(directions.diagonal(dim1=1, dim2=2))).abs().max() < (
            1e-6 if dtype == torch.float64 else 0.15
        )


def test_orthogonal_treats_each_matrix_of_a_batch_as_if_it_were_alone_and_zeros_stay():
    x = torch.randn(3, 5, 7, dtype=torch.float64)
    x[1] = 0
    together = orthogonal(x)
    for i in range(3):
        assert_equal(together[i], orthogonal(x[i : i + 1])[0])
    assert not together[1].any()


def members(optimizer) -> list[AdamW | Muon]:
    return optimizer.members if isinstance(optimizer, Together) else [optimizer]


@every_shape
@pytest.mark.parametrize("kind", ["muon", "adamw"])
def test_every_parameter_belongs_to_one_optimizer_once_a_tied_one_too(shape, kind):
    model = decoder(**shape)
    owned = [id(p) for member in members(build_optimizer(model, OptimConfig(kind=kind))) for p in member.parameters]
    assert sorted(owned) == sorted({id(p) for p in model.parameters()})


@pytest.mark.parametrize("kind", ["muon", "adamw"])
def test_what_is_frozen_belongs_to_no_optimizer(kind):
    model = decoder()
    model.embed.requires_grad_(False)
    model.blocks[0].feedforward.requires_grad_(False)
    owned = {id(p) for member in members(build_optimizer(model, OptimConfig(kind=kind))) for p in member.parameters}
    assert owned == {id(p) for p in model.parameters() if p.requires_grad}


@every_shape
@pytest.mark.parametrize("kind", ["muon", "adamw"])
def test_what_decays_is_what_has_two_dimensions(shape, kind):
    model = decoder(**shape)
    before = {name: p.clone() for name, p in model.named_parameters()}
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    build_optimizer(model, OptimConfig(kind=kind, lr=0.01, muon_lr=0.01, weight_decay=0.5)).step(1.0)
    for name, p in model.named_parameters():
        assert_equal(p.data, before[name] * (1 - 0.01 * 0.5 if p.ndim >= 2 else 1))


@every_shape
def test_muon_steps_the_matrices_inside_the_stack_and_nothing_else(shape):
    model = decoder(**shape)
    muon, adamw = members(build_optimizer(model, OptimConfig(kind="muon")))
    of_muon = {id(p) for p in muon.parameters}
    inside = {
        id(p)
        for name, p in model.named_parameters()
        if name.startswith("blocks.") and p.ndim >= 2 and "router" not in name
    }
    assert isinstance(muon, Muon) and isinstance(adamw, AdamW)
    assert of_muon == inside


@pytest.mark.parametrize("kind", ["muon", "adamw"])
def test_an_optimizer_goes_on_from_its_state_as_if_it_had_never_stopped(kind, tmp_path):
    model = decoder()
    straight, config = build_optimizer(model, OptimConfig(kind=kind)), OptimConfig(kind=kind)

    def steps(model: nn.Module, optimizer, first: int, last: int) -> None:
        for step in range(first, last):
            model.zero_grad()
            model(tokens(2, 7, seed=step))[0].square().mean().backward()
            optimizer.step(1 / (1 + step))

    steps(model, straight, 0, 3)
    torch.save(straight.state_dict(), tmp_path / "state")
    other = copy.deepcopy(model)
    resumed = build_optimizer(other, config)
    resumed.load_state_dict(torch.load(tmp_path / "state"))
    steps(model, straight, 3, 6)
    steps(other, resumed, 3, 6)
    for a, b in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_floor_above_the_peak_is_refused():
    with pytest.raises(ValueError, match=r"optim\.min_lr = 0\.1: expected at most optim\.lr = 0\.01"):
        OptimConfig(lr=0.01, min_lr=0.1)
