"""Truncated backpropagation: the state passes between two steps, the gradient does not; resuming keeps both."""

import math

import pytest
import torch

from minillm.config.flags import override
from minillm.datasets.batch import Batch
from minillm.datasets.lanes import ContiguousBatch, Lanes
from minillm.models.rnn import CELLS, RNN, RNNConfig
from minillm.objectives.cross_entropy import cross_entropy
from minillm.objectives.next_token import next_token
from minillm.runs import wiring
from minillm.runs.config import RunConfig
from minillm.training.carried import CarriedStep
from minillm.training.optim import OptimConfig, build_optimizer
from minillm.training.step import GradientStep
from tests.datasets.test_windows import stream_of
from tests.models.test_rnn import rnn
from tests.tiny import VOCAB, assert_equal, tokens
from tests.training.test_step import Keep, gradient_step

every_cell = pytest.mark.parametrize("cell", CELLS)
B, T = 5, 7


def carried(model: RNN, optimizer=None, **how) -> CarriedStep:
    return CarriedStep(model, next_token, optimizer or Keep(model), lambda step: 1 / (1 + step), lr=0.5, **how)


def a_real_carried_step(model: RNN, **how) -> CarriedStep:
    return carried(model, build_optimizer(model, OptimConfig(kind="adamw", lr=0.01, weight_decay=0.0)), **how)


def text_in_steps(n: int, continues: torch.Tensor | None = None) -> list[ContiguousBatch]:
    """B rows of n T tokens, cut into n batches."""
    text = tokens(B, n * T + 1)
    go_on = torch.ones(B, dtype=torch.bool) if continues is None else continues
    return [
        ContiguousBatch(text[:, i * T : (i + 1) * T], text[:, i * T + 1 : (i + 1) * T + 1], go_on & (i > 0))
        for i in range(n)
    ]


@every_cell
@pytest.mark.parametrize("n_micro_batches", [1, 2, 4, 8])
def test_steps_over_a_text_in_pieces_report_the_loss_of_reading_it_as_one(cell, n_micro_batches):
    model, batches = rnn(cell=cell), text_in_steps(4)
    step = carried(model, n_micro_batches=n_micro_batches)
    losses = [step(batch)["loss"] for batch in batches]
    whole = Batch(*(torch.cat([part[i] for part in batches], dim=1) for i in range(2)))
    with torch.no_grad():
        pieces = zip(model(whole.tokens)[0].split(T, 1), whole.targets.split(T, 1), strict=True)
        expected = [float(cross_entropy(*piece)[0]) / (B * T) for piece in pieces]
    assert losses == pytest.approx(expected, abs=1e-12)
    alone = gradient_step(model)
    assert abs(alone(Batch(*batches[-1][:2]))["loss"] - losses[-1]) > 1e-4, "or nothing was carried"


@every_cell
def test_the_gradient_of_a_step_ends_at_the_border_to_the_one_before(cell):
    model, (first, second) = rnn(cell=cell), text_in_steps(2)
    step = carried(model)
    step(first)
    step(second)
    with torch.no_grad():
        state = model.start(B)
        model(first.tokens, state)
    assert not any(part.requires_grad for layer in step.states[0].layers for part in layer)
    logits, _ = model(second.tokens, state)
    loss, count = cross_entropy(logits, second.targets)
    for mine, expected in zip(
        step.optimizer.gradients, torch.autograd.grad(loss / count, list(model.parameters())), strict=True
    ):
        assert_equal(mine, expected)
    state = model.start(B)
    through = model(torch.cat([first.tokens, second.tokens], 1), state)[0][:, T:]
    untruncated = torch.autograd.grad(cross_entropy(through, second.targets)[0] / count, list(model.parameters()))
    assert any(
        (mine - other).abs().max() > 1e-6 for mine, other in zip(step.optimizer.gradients, untruncated, strict=True)
    )


@every_cell
def test_rows_that_do_not_continue_begin_with_nothing_and_the_others_do_not_notice(cell):
    model, go_on = rnn(cell=cell), torch.tensor([True, False, True, True, False])
    batches = text_in_steps(2, go_on)
    step = carried(model, n_micro_batches=2)
    _, second = (step(batch) for batch in batches)
    state, total = model.start(B), 0.0
    with torch.no_grad():
        model(batches[0].tokens, state)
        for logits, rows in ((model(batches[1].tokens, state)[0], go_on), (model(batches[1].tokens)[0], ~go_on)):
            total += float(cross_entropy(logits[rows], batches[1].targets[rows])[0])
    assert second["loss"] == pytest.approx(total / (B * T), abs=1e-12)
    lengths = torch.cat([state.lengths for state in step.states])
    assert lengths.tolist() == [2 * T if on else T for on in go_on]


@every_cell
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("n_before", [0, 3, 5])
def test_a_step_goes_on_from_its_state_to_the_same_bits_also_at_an_epochs_border(cell, precision, n_before, tmp_path):
    lanes = Lanes(stream_of([VOCAB] * 6), T, B, 0, whole_documents=False)
    batches = [lanes.batch(i) for i in range(2 * lanes.steps_per_epoch + 2)]
    batches = [ContiguousBatch(b.tokens % VOCAB, b.targets % VOCAB, b.continues) for b in batches]
    straight = a_real_carried_step(rnn(cell=cell, dropout=0.3).float(), precision=precision, n_micro_batches=2)
    torch.manual_seed(5)
    for batch in batches[:n_before]:
        straight(batch)
    torch.save(straight.state_dict(), tmp_path / "state")
    expected = [straight(batch) for batch in batches[n_before:]]
    resumed = a_real_carried_step(rnn(seed=1, cell=cell, dropout=0.3).float(), precision=precision, n_micro_batches=2)
    resumed.load_state_dict(torch.load(tmp_path / "state", weights_only=True))
    assert [resumed(batch) for batch in batches[n_before:]] == expected
    for a, b in zip(straight.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(a, b)


@every_cell
def test_what_must_be_remembered_across_the_border_is_learned_only_where_it_is_carried(cell):
    """The text 0 1 0 2 in rows of two: the token after 0 follows from the row before; without it, it is a coin toss."""
    text, losses = torch.tensor([0, 1, 0, 2]).repeat(100), {}
    for name, kind in {"carried": CarriedStep, "forgotten": GradientStep}.items():
        torch.manual_seed(1)
        model = RNN(RNNConfig(cell=cell, n_layers=1, d_hidden=11, init_embed=0.5), 3)
        step = kind(
            model, next_token, build_optimizer(model, OptimConfig(kind="adamw", lr=0.03)), lambda step: 1.0, lr=0.03
        )
        for i in range(60):
            rows = torch.stack([text[2 * i + lane : 2 * i + lane + 3] for lane in (0, 2)])
            losses[name] = step(ContiguousBatch(rows[:, :-1], rows[:, 1:], torch.full((2,), i > 0)))["loss"]
    assert losses["carried"] < 0.1
    assert losses["forgotten"] == pytest.approx(math.log(2) / 2, abs=0.05)


def test_a_run_carries_the_state_where_rows_go_on_and_only_a_model_that_has_one_may_ask_for_it(tmp_path):
    (tmp_path / "text.txt").write_text("the quick brown fox jumps over the lazy dog, and the dog sleeps on.\n" * 60)
    small = {
        "data.corpus": str(tmp_path / "text.txt"),
        "task.order": "contiguous",
        "tokenizer.kind": "char",
        "model.kind": "rnn",
    }
    small |= {"optim.kind": "adamw"}
    config = override(
        RunConfig(), small | {"model.d_hidden": "5", "model.context_length": "16", "train.batch_size": "3"}
    )
    data = wiring.build_data(config, say=lambda line: None)
    model, batch = wiring.build_model(config, data.tokenizer.vocab_size), wiring.build_batches(config, data)
    step = wiring.build_step(config, model)
    for i in range(3):
        step(batch(i))
    assert [state.lengths.tolist() for state in step.states] == [[48] * 3]
    assert type(wiring.build_step(override(config, {"task.order": "epochs"}), model)) is GradientStep
    assert math.isfinite(wiring.build_validation(config, data)(model)["val_loss"])
    with pytest.raises(
        ValueError, match=r"task\.order = contiguous: expected epochs, .* only model\.kind = rnn carries a state"
    ):
        override(config, {"model.kind": "decoder"})
