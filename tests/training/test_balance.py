"""Experts in training: the balancing gradient, ignored tokens, biases, and no remaining hooks."""

import copy

import pytest
import torch

from minillm.constants import IGNORE
from minillm.datasets.batch import Batch
from minillm.layers.moe import Router, balance_loss, z_loss
from minillm.objectives.next_token import next_token
from minillm.training.balance import load_metrics, routers_of, watching
from minillm.training.optim import OptimConfig, build_optimizer
from minillm.training.step import GradientStep
from tests.tiny import assert_equal, decoder, tokens
from tests.training.test_step import batch_of, gradient_step

EXPERTS = {"n_experts": 5, "n_experts_per_token": 2}


def routed(**changes):
    return decoder(**(EXPERTS | {"balance_loss": 0.0, "router_z_loss": 0.0} | changes))


def gradients(model, batch: Batch, **how) -> list[torch.Tensor]:
    step = gradient_step(model, **how)
    step(batch)
    return step.optimizer.gradients


def auxiliary(model, batch: Batch, balance: float, z: float) -> torch.Tensor:
    """The weighted losses of every layer for the whole batch at once, by the definition."""
    with watching(routers_of(model)) as seen:
        model(batch.tokens)
    return sum(balance * balance_loss(r.probs, r.counts) + z * z_loss(r.logits) for [r] in seen)


def repeated(batch: Batch, n: int) -> Batch:
    return Batch(*(part.repeat(n, 1) for part in batch))


@pytest.mark.parametrize(("balance", "z"), [(0.7, 0.0), (0.0, 0.7), (0.3, 0.2)])
@pytest.mark.parametrize("ignored", [0.0, 0.6])
def test_the_gradient_is_that_of_the_mean_loss_plus_the_weighed_losses_however_few_targets_count(balance, z, ignored):
    model, batch = routed(balance_loss=balance, router_z_loss=z).train(), batch_of(ignored=ignored)
    mine, loss = gradients(model, batch), next_token(model, batch)
    expected = torch.autograd.grad(
        loss.total / loss.count + auxiliary(model, batch, balance, z), list(model.parameters())
    )
    for one, other in zip(mine, expected, strict=True):
        assert_equal(one, other)


def test_each_loss_reaches_the_router():
    for weight in ("balance_loss", "router_z_loss"):
        with_it, without = (gradients(routed(**{weight: x}), batch_of())[5:] for x in (1.0, 0.0))
        names = [name for name, _ in routed().named_parameters()][5:]
        changed = {name for name, a, b in zip(names, with_it, without, strict=True) if (a - b).abs().max() > 1e-4}
        assert {name for name in names if "router" in name} <= changed


def test_the_logged_loss_is_that_of_the_text_alone_and_the_balance_loss_stands_beside_it():
    model, batch = routed(balance_loss=3.0), batch_of()
    metrics, loss = gradient_step(model, n_micro_batches=2)(batch), next_token(model, batch)
    assert metrics["loss"] == pytest.approx((loss.total / loss.count).item())
    parts = [Batch(*(part[rows] for part in batch)) for rows in (slice(0, 3), slice(3, 5))]
    expected = sum(auxiliary(model, part, 1.0, 0.0).item() for part in parts) / 2 / model.config.n_layers
    assert metrics["balance_loss"] == pytest.approx(expected)


@pytest.mark.parametrize("n_micro_batches", [2, 3, 6])
def test_the_z_loss_does_not_depend_on_how_the_batch_is_cut(n_micro_batches):
    model, batch = routed(router_z_loss=0.7), batch_of(B=6, ignored=0.0)
    for one, other in zip(
        gradients(model, batch), gradients(model, batch, n_micro_batches=n_micro_batches), strict=True
    ):
        assert_equal(one, other)


def test_the_balance_loss_does_not_depend_on_how_many_equal_parts_are_accumulated():
    model, batch = routed(balance_loss=0.7), batch_of()
    for one, other in zip(
        gradients(model, batch), gradients(model, repeated(batch, 3), n_micro_batches=3), strict=True
    ):
        assert_equal(one, other)


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_no_gradient_no_count_and_no_bias(side):
    results = []
    for padded in (False, True):
        model, batch = (
            routed(balance_loss=0.3, router_z_loss=0.2, balance_rate=0.1, capacity_factor=0.8),
            batch_of(ignored=0.0),
        )
        if padded:
            empty = torch.full((5, 4), -1), torch.full((5, 4), IGNORE)
            both = zip(batch, empty, strict=True)
            batch = Batch(*(torch.cat([e, part] if side == "left" else [part, e], dim=1) for part, e in both))
        step = gradient_step(model)
        results.append((step(batch), step.optimizer.gradients, [r.bias for r in routers_of(model)]))
    (metrics, ours, biases), (others_metrics, others, others_biases) = results
    assert others_metrics == pytest.approx(metrics)
    for one, other in zip([*ours, *biases], [*others, *others_biases], strict=True):
        assert_equal(one, other)


def test_a_batch_with_nothing_to_count_adds_nothing():
    step = gradient_step(routed(balance_loss=1.0, router_z_loss=1.0))
    assert step(batch_of(ignored=1.0))["grad_norm"] == 0


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("n_micro_batches", [1, 3])
def test_a_step_nudges_the_bias_of_the_saved_model_against_the_load_of_the_whole_batch(precision, n_micro_batches):
    model, batch = routed(balance_rate=0.003).float(), batch_of()
    step = gradient_step(model, precision=precision, n_micro_batches=n_micro_batches)
    expected = [torch.zeros(5) for _ in range(2)]
    for _ in range(3):
        step.copy.read()  # the weights, for what `working` computes with the biases of the model
        step.working.train()
        with watching(routers_of(step.working)) as seen:
            step.working(batch.tokens)
        for total, [routing] in zip(expected, seen, strict=True):
            total += 0.003 * (routing.counts.float().mean() - routing.counts).sign()
        step(batch)
        for router, total in zip(routers_of(model), expected, strict=True):
            torch.testing.assert_close(router.bias, total, rtol=0, atol=1e-7)
    assert {router.bias.dtype for router in routers_of(step.working)} == {torch.float32}
    assert all(total.any() for total in expected)


def test_biases_without_any_loss_even_out_the_load():
    model = routed(balance_rate=0.02, n_experts_per_token=1)
    for router in routers_of(model):
        router.weight.data[0] *= 5  # some tokens' favorite
    step, batch = gradient_step(model), batch_of(B=20)
    first = step(batch)
    for _ in range(40):
        last = step(batch)
    assert last["load_entropy"] > first["load_entropy"] + 0.03
    assert last["load_max"] < first["load_max"] - 0.3


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_run_with_experts_goes_on_bit_by_bit_where_it_stopped(precision, tmp_path):
    def step_of(seed: int) -> GradientStep:
        model = routed(seed=seed, balance_rate=0.01, balance_loss=0.1, capacity_factor=1.0).float()
        return gradient_step(
            model, optimizer=build_optimizer(model, OptimConfig(lr=0.01)), precision=precision, n_micro_batches=2
        )

    straight = step_of(0)
    for i in range(3):
        straight(batch_of(i))
    torch.save(straight.state_dict(), tmp_path / "state")
    expected = [straight(batch_of(i)) for i in range(3, 6)]
    resumed = step_of(1)
    resumed.load_state_dict(torch.load(tmp_path / "state"))
    assert [resumed(batch_of(i)) for i in range(3, 6)] == expected
    for (name, a), b in zip(straight.model.state_dict().items(), resumed.model.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


@pytest.mark.parametrize("training", [True, False])
def test_reading_leaves_nothing_on_the_model(training):
    model = routed(capacity_factor=0.7).train(training)
    before = [(set(vars(m)), copy.deepcopy(m._buffers)) for m in model.modules()]
    with watching(routers_of(model)):
        model(tokens(3, 7))
    assert not any(m._forward_hooks for m in model.modules())
    for (names, buffers), m in zip(before, model.modules(), strict=True):
        assert set(vars(m)) == names
        assert all(torch.equal(buffers[name], m._buffers[name]) for name in buffers)
        assert not any(isinstance(value, torch.Tensor) for value in vars(m).values())


def test_dropped_choices_are_reported():
    metrics = gradient_step(routed(capacity_factor=0.5), n_micro_batches=2)(batch_of())
    assert 0.45 < metrics["dropped"] < 0.75
    assert gradient_step(routed())(batch_of())["dropped"] == 0


def test_a_dense_model_reports_nothing_about_experts():
    assert gradient_step(decoder())(batch_of()).keys() == {"loss", "grad_norm", "lr", "tokens"}


def test_load_metrics_tell_even_from_uneven():
    even = {"load_max": 1.0, "load_min": 1.0, "load_entropy": 1.0}
    assert load_metrics(torch.full((3, 4), 7)) == pytest.approx(even)
    assert load_metrics(torch.tensor([[9, 0, 0, 0]])) == pytest.approx(
        {"load_max": 4.0, "load_min": 0.0, "load_entropy": 0.0}
    )
    both = load_metrics(torch.tensor([[9, 0, 0, 0], [5, 5, 5, 5]]))
    assert both == pytest.approx({"load_max": 2.5, "load_min": 0.5, "load_entropy": 0.5})


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"n_experts": 3, "n_experts_per_token": 4}, r"n_experts_per_token = 4: expected at most n_experts = 3"),
        ({"n_shared_experts": 1}, r"model\.n_shared_experts = 1: expected only beside n_experts"),
        ({"n_experts_per_token": 1}, r"model\.n_experts_per_token = 1: expected only beside n_experts"),
    ],
)
def test_experts_that_make_no_sense_are_refused_with_a_sentence(changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        decoder(**changes)


def test_a_router_that_starts_evenly_asks_everybody():
    torch.manual_seed(0)
    counts = Router(16, 8, 2)(torch.randn(4000, 16)).counts
    assert counts.min() > 0.4 * counts.float().mean()
