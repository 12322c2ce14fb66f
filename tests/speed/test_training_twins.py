"""Twins of optimizers, gradients and the bfloat16 copy equal the plain ones, also for parameters without gradient."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from minillm.speed.grouped_muon import orthogonal_batch
from minillm.speed.signing import judge
from minillm.training.fast_step import TWINS
from minillm.training.gradients import Gradients, gradient_norm
from minillm.training.optim import AdamW, Muon, orthogonal
from minillm.training.precision import WorkingCopy
from tests.tiny import assert_equal
from tests.training.test_optim import parameters, pull


@pytest.mark.parametrize("plain", TWINS, ids=lambda plain: plain.__name__)
def test_every_twin_of_training_is_signed_for_the_source_as_it_is(plain):
    assert judge(plain, TWINS[plain]).why_not == ""


def stacked(seed: int = 0) -> list[nn.Parameter]:
    """Matrices of several shapes, and a stack of the first shape."""
    stack = nn.Parameter(torch.randn(3, 7, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)))
    return [*parameters(seed)[:4], stack]


OPTIMIZERS = {
    "adamw": (parameters, lambda params, decay: AdamW(params, 0.01, 0.9, 0.95, 1e-8, decay)),
    "adamw of another kind": (parameters, lambda params, decay: AdamW(params, 0.1, 0.0, 0.999, 1e-2, decay)),
    "muon": (stacked, lambda params, decay: Muon(params, 0.05, 0.9, decay)),
    "muon without momentum": (stacked, lambda params, decay: Muon(params, 0.05, 0.0, decay)),
}


@settings(max_examples=20)
@given(
    name=st.sampled_from(list(OPTIMIZERS)),
    missing=st.lists(st.sets(st.integers(0, 5)), min_size=1, max_size=9),
    decay=st.sampled_from([0.0, 0.3]),
)
def test_an_optimizer_steps_as_the_plain_one_and_leaves_its_state_there(name, missing, decay):
    make, build = OPTIMIZERS[name]
    plain, fast = (build(make(), decay) for _ in range(2))
    twin = TWINS[type(fast)].fast(fast)
    for i, without in enumerate(missing):
        for optimizer in (plain, fast):
            pull(optimizer.parameters, i)
            for j in without & set(range(len(optimizer.parameters))):
                optimizer.parameters[j].grad = None
        plain.step(1 / (1 + i))
        twin.step(1 / (1 + i))
    for mine, expected in zip(fast.parameters, plain.parameters, strict=True):
        assert_equal(mine.data, expected.data)
    for key, expected in plain.state_dict().items():
        for mine, other in zip(fast.state_dict()[key], expected, strict=True):
            assert mine.dtype == other.dtype
            assert_equal(mine, other)


def test_orthogonalized_as_a_batch_each_matrix_is_what_it_is_alone():
    for shape in ((3, 5, 7), (3, 7, 5)):
        x = torch.randn(shape, dtype=torch.float64)
        together = orthogonal_batch(x)
        for mine, alone in zip(together, x, strict=True):
            assert_equal(mine, orthogonal(alone))


@settings(max_examples=30)
@given(
    sums=st.lists(st.integers(0, 99), max_size=4),
    count=st.integers(0, 31),
    max_norm=st.sampled_from([0.0, 1e-3, 1.0, 1e6]),
)
def test_gradients_are_zeroed_added_up_divided_and_clipped_as_the_plain_ones(sums, count, max_norm):
    norms, results = [], []
    for flat in (False, True):
        params = parameters()
        plain = Gradients(params)
        gradients = TWINS[Gradients].fast(plain) if flat else plain
        for p in params:
            p.grad = torch.ones_like(p)
        gradients.zero()
        for seed in sums:
            g = torch.Generator().manual_seed(seed)
            loss = sum((p * torch.randn(p.shape, generator=g, dtype=p.dtype)).sum() for p in params[1:])
            loss.backward()
        gradients.divide(count)
        norms.append(gradients.clip(max_norm))
        results.append([p.grad for p in params])
        clipped = min(norms[-1], max_norm) if max_norm else norms[-1]
        assert gradient_norm(results[-1]) == pytest.approx(clipped, rel=1e-9, abs=1e-12)
        assert not results[-1][0].any(), "zeros, and not None, where nothing was added"
    assert norms[1] == pytest.approx(norms[0], rel=1e-12)
    for plain, flat in zip(*results, strict=True):
        assert_equal(flat, plain)


def test_the_norm_of_ten_million_numbers_in_float32_is_right():
    params = [nn.Parameter(torch.zeros(500_000)) for _ in range(20)]
    gradients = TWINS[Gradients].fast(Gradients(params))
    gradients.zero()
    pulls = torch.randn(20, 500_000, generator=torch.Generator().manual_seed(0))
    for p, g in zip(params, pulls, strict=True):
        p.grad += g
    assert gradients.clip(0.0) == pytest.approx(float(pulls.double().norm()), rel=1e-5)


def test_a_copy_reads_weights_and_gives_gradients_back_as_the_plain_one():
    results = []
    for grouped in (False, True):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(5, 7), nn.Linear(7, 3), nn.Linear(3, 11))
        model[1].requires_grad_(False)
        plain = WorkingCopy(model)
        copy = TWINS[WorkingCopy].fast(plain) if grouped else plain
        with torch.no_grad():
            model[0].weight += 0.37
        copy.read()
        Gradients(p for p in model.parameters() if p.requires_grad).zero()
        for _ in range(2):
            plain.model[1](plain.model[0](torch.ones(2, 5, dtype=torch.bfloat16))).square().sum().backward()
            copy.give()
            assert all(p.grad is None for p in plain.model.parameters())
        results.append([*plain.model.parameters(), *(p.grad for p in model.parameters())])
    for mine, expected in zip(*results, strict=True):
        assert (mine is None and expected is None) or torch.equal(mine, expected)
