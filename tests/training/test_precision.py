"""The trial that chooses a precision."""

import torch

from minillm.datasets.batch import Batch
from minillm.objectives.next_token import next_token
from minillm.training.precision import seconds_per_pass
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
