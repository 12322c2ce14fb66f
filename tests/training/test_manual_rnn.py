"""A recurrent model trained without autograd: equal gradients and losses, a clear error for a missing derivative."""

import pytest
import torch

import train as script
from minillm.training.manual import ManualStep
from minillm.training.step import GradientStep
from tests.models.test_rnn import SHAPES, rnn
from tests.test_cli import SMALL
from tests.training.test_manual import padded_batch, real_step, step_of
from tests.training.test_step import batch_of

every_shape = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)


@every_shape
@pytest.mark.parametrize("make", [batch_of, padded_batch], ids=["ragged targets", "padding"])
@pytest.mark.parametrize("n_micro_batches", [1, 2])
def test_loss_and_every_gradient_are_those_of_autograd(shape, make, n_micro_batches):
    by_hand = step_of(ManualStep, rnn(**shape), n_micro_batches=n_micro_batches)
    by_torch = step_of(GradientStep, rnn(**shape))
    assert by_hand(make()) == pytest.approx(by_torch(make()), rel=1e-10)
    for mine, theirs in zip(by_hand.optimizer.gradients, by_torch.optimizer.gradients, strict=True):
        assert theirs.any()
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
def test_fifty_steps_by_hand_follow_fifty_steps_of_autograd(cell):
    by_hand, by_torch = (real_step(kind, rnn(cell=cell).float(), grad_clip=1.0) for kind in (ManualStep, GradientStep))
    losses = [[step(batch_of(i % 3))["loss"] for i in range(50)] for step in (by_hand, by_torch)]
    assert losses[1][-1] < losses[1][0] - 0.2
    assert losses[0] == pytest.approx(losses[1], rel=0, abs=1e-4)


def test_a_state_that_is_carried_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    settings = {name: value for name, value in SMALL.items() if not name.startswith("model.")}
    settings |= {"task.order": "contiguous", "task.backward": "manual", "tokenizer.kind": "byte", "data.n_stories": 60}
    words = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
    assert script.main(["--config", "lstm-tiny", *words]) == 2
    assert "task.order = contiguous: expected epochs or random beside task.backward = manual" in capsys.readouterr().err
