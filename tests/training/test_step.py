"""One update: division, clipping, reported metrics, and untouched parameters."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from minillm.constants import IGNORE
from minillm.datasets.batch import Batch
from minillm.evaluation.validation import Validation
from minillm.lessons import training_loop as lesson
from minillm.objectives.loss import Loss
from minillm.objectives.next_token import next_token
from minillm.training.optim import OptimConfig, build_optimizer
from minillm.training.schedule import ScheduleConfig, rate
from minillm.training.step import Diverged, GradientStep
from tests.tiny import SHAPES, assert_equal, decoder, tokens

every_shape = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)


class Keep:
    """An optimizer that changes nothing and records the gradients and the fraction of the rate of each step."""

    def __init__(self, model):
        self.model, self.fractions = model, []

    def step(self, fraction: float) -> None:
        self.gradients = [p.grad.clone() for p in self.model.parameters()]
        self.fractions.append(fraction)


def batch_of(seed: int = 0, B: int = 5, T: int = 7, ignored: float = 0.4) -> Batch:
    mask = torch.rand(B, T, generator=torch.Generator().manual_seed(seed)) < ignored
    return Batch(tokens(B, T, seed), tokens(B, T, seed + 1).masked_fill(mask, IGNORE))


def gradient_step(model, objective=next_token, optimizer=None, **how) -> GradientStep:
    return GradientStep(model, objective, optimizer or Keep(model), lambda step: 1 / (1 + step), lr=0.5, **how)


def a_real_step(model, lr: float = 0.01, **how) -> GradientStep:
    return gradient_step(
        model, optimizer=build_optimizer(model, OptimConfig(kind="adamw", lr=lr, weight_decay=0.0)), **how
    )


def gradient_of_the_mean(model, batch: Batch) -> list[torch.Tensor]:
    loss = next_token(model, batch)
    return list(torch.autograd.grad(loss.total / loss.count.clamp(min=1), list(model.parameters())))


def norm_of(gradients: list[torch.Tensor]) -> float:
    return float(sum(g.square().sum() for g in gradients) ** 0.5)


@settings(max_examples=25)
@given(seed=st.integers(0, 2**31), n_micro_batches=st.integers(1, 8), ignored=st.sampled_from([0.0, 0.4, 0.95, 1.0]))
def test_gradient_loss_and_norm_are_those_of_the_mean_however_the_batch_is_cut(seed, n_micro_batches, ignored):
    model, batch = decoder(n_layers=1), batch_of(seed, ignored=ignored)
    step = gradient_step(model, n_micro_batches=n_micro_batches)
    metrics, expected = step(batch), gradient_of_the_mean(model, batch)
    for mine, theirs in zip(step.optimizer.gradients, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-12)
    loss = next_token(model, batch)
    assert metrics["tokens"] == loss.count
    assert metrics["loss"] == pytest.approx(loss.total.item() / max(int(loss.count), 1))
    assert metrics["grad_norm"] == pytest.approx(norm_of(expected), abs=1e-12)


@pytest.mark.parametrize("n_micro_batches", [1, 3])
def test_a_training_is_the_lessons_step_by_step(n_micro_batches):
    mine, theirs, n_steps = decoder(), decoder(), 11
    schedule = ScheduleConfig("linear", lesson.WARMUP, decay_fraction=1.0)
    fractions = [rate(schedule, step, n_steps, lesson.FLOOR) for step in range(n_steps)]
    assert fractions == pytest.approx([lesson.rate(step, n_steps) for step in range(n_steps)], abs=1e-15)
    optimizer = build_optimizer(mine, OptimConfig(kind="adamw", lr=lesson.LR, weight_decay=0.0))
    how = {"lr": lesson.LR, "grad_clip": lesson.CLIP, "n_micro_batches": n_micro_batches}
    step = GradientStep(mine, next_token, optimizer, fractions.__getitem__, **how)
    metrics = [step(batch_of(i, ignored=0.0)) for i in range(n_steps)]
    losses = lesson.train(
        lambda tokens: theirs(tokens)[0], list(theirs.parameters()), lambda i: batch_of(i, ignored=0.0), n_steps
    )
    assert max(m["grad_norm"] for m in metrics) > lesson.CLIP > min(m["grad_norm"] for m in metrics)
    assert [m["loss"] for m in metrics] == pytest.approx(losses, rel=1e-9)
    for a, b in zip(mine.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-8)


@every_shape
def test_every_step_begins_with_no_gradient_whatever_was_left_behind(shape):
    model = decoder(**shape)
    step = gradient_step(model)
    step(batch_of(1))
    first = step.optimizer.gradients
    leftovers = [
        lambda: step(batch_of(2)),
        lambda: next_token(model, batch_of(3)).total.backward(),
        lambda: model.zero_grad(set_to_none=True),
    ]
    for leave in leftovers:
        leave()
        step(batch_of(1))
        assert all(torch.equal(mine, theirs) for mine, theirs in zip(step.optimizer.gradients, first, strict=True))
    assert step.optimizer.fractions == [1 / (1 + i) for i in range(5)]


@pytest.mark.parametrize("grad_clip", [0.0, 0.01, 1e6])
def test_clipping_shortens_a_long_gradient_keeps_its_direction_and_reports_its_length(grad_clip):
    model, batch = decoder(), batch_of()
    step, expected = gradient_step(model, grad_clip=grad_clip, n_micro_batches=3), gradient_of_the_mean(model, batch)
    metrics, norm = step(batch), norm_of(expected)
    factor = grad_clip / norm if grad_clip == 0.01 else 1.0
    assert metrics["grad_norm"] == pytest.approx(norm)
    assert norm > 0.01
    for mine, theirs in zip(step.optimizer.gradients, expected, strict=True):
        assert_equal(mine, theirs * factor)


def test_the_norm_of_ten_million_numbers_in_float32_is_right():
    model = torch.nn.ParameterList(torch.zeros(500_000) for _ in range(20))
    pull = torch.randn(20, 500_000, generator=torch.Generator().manual_seed(0))

    def toward(model, batch):
        return Loss(sum((p * g).sum() for p, g in zip(model, pull, strict=True)), torch.tensor(1))

    assert gradient_step(model, toward)(batch_of())["grad_norm"] == pytest.approx(float(pull.double().norm()), rel=1e-5)


def test_an_objective_says_itself_what_it_counted():
    def pairs(model, batch: Batch) -> Loss:
        loss = next_token(model, batch)
        return Loss(loss.total, loss.count * 0 + 11)

    model, batch = decoder(), batch_of()
    metrics = gradient_step(model, pairs, n_micro_batches=2)(batch)
    assert metrics["tokens"] == 22
    assert metrics["loss"] == pytest.approx(next_token(model, batch).total.item() / 22)


def test_rate_and_weights_go_on_from_step_to_step():
    model = decoder()
    step, seen = a_real_step(model), []
    for i in range(6):
        before = [p.clone() for p in model.parameters()]
        metrics = step(batch_of(ignored=0))
        assert metrics["lr"] == 0.5 / (1 + i)
        assert all(not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
        seen.append(metrics["loss"])
    assert seen[-1] < seen[0]


def test_a_batch_with_nothing_to_count_has_loss_and_gradient_zero():
    model = decoder()
    step = gradient_step(model, grad_clip=1.0)
    metrics = step(batch_of(ignored=1.0))
    assert (metrics["loss"], metrics["grad_norm"], metrics["tokens"]) == (0, 0, 0)
    assert not any(g.any() for g in step.optimizer.gradients)


class Root(torch.autograd.Function):
    """A zero with a gradient that is not finite, like the square root of zero."""

    @staticmethod
    def forward(ctx, x):
        return x * 0

    @staticmethod
    def backward(ctx, upstream):
        return upstream * torch.nan


POISONS = {
    "nan": lambda total: total * torch.nan,
    "infinite loss alone": lambda total: total + torch.inf,
    "nan gradient alone": lambda total: total + Root.apply(total),
}


@pytest.mark.parametrize("poison", POISONS.values(), ids=POISONS)
def test_divergence_is_raised_before_any_weight_changes_and_leaves_nothing_behind(poison):
    results = []
    for poisoned in (True, False):
        model = decoder()
        step = a_real_step(model)
        step(batch_of(1))
        if poisoned:
            before = [p.clone() for p in model.parameters()]
            good, step.objective = (
                step.objective,
                lambda model, batch: Loss(poison(next_token(model, batch).total), torch.tensor(3)),
            )
            with pytest.raises(Diverged, match=r"step 2: loss .*lower optim\.lr"):
                step(batch_of(2))
            assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
            step.objective = good
        step(batch_of(3))
        results.append(list(model.parameters()))
    for a, b in zip(*results, strict=True):
        assert torch.equal(a, b)


def test_a_step_trains_with_dropout_also_after_an_evaluation():
    model = decoder(dropout=0.5)
    step = gradient_step(model)
    assert len({step(batch_of())["loss"] for _ in range(3)}) == 3
    model.eval()
    assert len({step(batch_of())["loss"] for _ in range(3)}) == 3


@every_shape
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_model_can_be_validated_before_its_first_step(shape, precision):
    model = decoder(**shape).float()
    Validation([batch_of()], next_token, n_bytes=9, source_nats=None)(model)
    before = [p.detach().clone() for p in model.parameters()]
    a_real_step(model, precision=precision)(batch_of())
    assert any(not torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("n_before", [0, 3])
def test_a_step_goes_on_from_its_state_as_if_it_had_never_stopped(n_before, precision, tmp_path):
    straight = a_real_step(decoder(dropout=0.3).float(), precision=precision)
    torch.manual_seed(5)
    for i in range(n_before):
        straight(batch_of(i))
    torch.save(straight.state_dict(), tmp_path / "state")
    expected = [straight(batch_of(i)) for i in range(n_before, 6)]
    resumed = a_real_step(decoder(seed=1, dropout=0.3).float(), precision=precision)
    resumed.load_state_dict(torch.load(tmp_path / "state"))
    assert [resumed(batch_of(i)) for i in range(n_before, 6)] == expected
    for a, b in zip(straight.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(a, b)


@every_shape
def test_bfloat16_computes_the_products_while_weights_and_the_loss_stay_in_float32(shape):
    model, dtypes = decoder(**shape, init_std=0.1).float(), []

    def watched(working, batch: Batch) -> Loss:
        loss = next_token(working, batch)
        dtypes.append((working(batch.tokens)[0].dtype, loss.total.dtype))
        return loss

    exact = gradient_step(model)(batch_of())
    rounded = gradient_step(model, watched, n_micro_batches=2, precision="bf16")
    metrics = rounded(batch_of())
    for name in ("loss", "grad_norm", "lr", "tokens"):
        assert metrics[name] == pytest.approx(exact[name], rel=0.03)
    assert dtypes == [(torch.bfloat16, torch.float32)] * 2
    assert {p.dtype for p in model.parameters()} == {g.dtype for g in rounded.optimizer.gradients} == {torch.float32}


def test_updates_too_small_for_bfloat16_add_up():
    model = decoder().float()
    step, before = a_real_step(model, precision="bf16"), decoder().float().embed.weight
    step.rate = lambda step: 1e-4
    for _ in range(10):
        step(batch_of(ignored=0))
    moved = (model.embed.weight - before).abs()
    assert 5e-6 < moved.max() < 2e-5
