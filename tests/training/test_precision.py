"""The trial that chooses a precision."""

from types import SimpleNamespace

import pytest
import torch

from minillm.datasets.batch import Batch
from minillm.objectives.next_token import next_token
from minillm.tasks import gradients
from minillm.training import precision
from minillm.training.fast_step import accelerate_pass
from minillm.training.precision import DTYPES, seconds_per_pass
from tests.tiny import decoder, tokens


def test_both_precisions_are_timed_and_the_model_stays_as_it_was():
    model, seen = decoder().float(), []
    before = {name: weight.clone() for name, weight in model.state_dict().items()}

    def objective(model, batch):
        seen.append(next(model.parameters()).dtype)
        return next_token(model, batch)

    seconds = seconds_per_pass(model, objective, Batch(tokens(3, 7), tokens(3, 7)), repeats=2)
    assert set(seconds) == {"fp32", "bf16"} and all(s > 0 for s in seconds.values())
    assert seen == [torch.float32, torch.bfloat16] * 3
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize(("slow", "fast"), [("fp32", "bf16"), ("bf16", "fp32")])
def test_the_probe_tells_each_precision_its_own_median_and_auto_takes_the_faster(slow, fast, monkeypatch):
    costs = {DTYPES[slow]: [9.0, 3.0, 5.0, 4.0], DTYPES[fast]: [99.0, 2.0, 60.0, 1.0]}  # the first is a warm-up
    now = [0.0]

    def objective(model, batch):
        now[0] += costs[next(model.parameters()).dtype].pop(0)
        return next_token(model, batch)

    monkeypatch.setattr(precision, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    batch = Batch(tokens(3, 7), tokens(3, 7))
    assert seconds_per_pass(decoder().float(), objective, batch) == {slow: 4.0, fast: 2.0}
    monkeypatch.setattr(gradients, "seconds_per_pass", lambda *_, **how: asked.append(how) or {slow: 4.0, fast: 2.0})
    said, asked = [], []
    for twins in (False, True):
        assert gradients.faster_precision(decoder(), next_token, batch, said.append, twins) == fast
    assert asked == [{}, {"prepare": accelerate_pass}], "the trial times what will run"
    assert said[0].endswith(f"taking {fast}") and "fp32 " in said[0] and "bf16 " in said[0]


def test_the_probe_draws_nothing_from_the_generator_that_training_goes_on_with():
    model, batch = decoder(dropout=0.5).float().train(), Batch(tokens(3, 7), tokens(3, 7))
    before = torch.get_rng_state()
    gradients.faster_precision(model, next_token, batch, lambda line: None, fast=True)
    assert torch.equal(before, torch.get_rng_state())
