"""On-policy steps: rollouts are functions of (seed, step, row), only written tokens count, and resuming is exact."""

from functools import partial

import pytest
import torch

from minillm.constants import EMPTY, IGNORE
from minillm.models.rnn import RNN, RNNConfig
from minillm.objectives.distill import Matching, distill
from minillm.training.on_policy import OnPolicyStep, PromptBatch, Writing
from minillm.training.optim import OptimConfig, build_optimizer
from tests.tiny import VOCAB, decoder, tokens

B, T, END, N_PROMPT = 5, 11, 7, 3


def a_batch(seed: int = 0, rows: int = B) -> PromptBatch:
    text = tokens(rows, T + 1, seed)
    return PromptBatch(text[:, :-1], text[:, 1:], torch.full((rows,), END))


def writing(share: float = 1.0, seed: int = 3, fast: bool = False) -> Writing:
    return Writing(N_PROMPT, share, seed, fast)


def a_step(model, **how) -> OnPolicyStep:
    objective = partial(distill, teacher=decoder(9), matching=Matching("reverse"))
    how = {"rollout": writing(0.7), "lr": 0.01} | how
    optimizer = build_optimizer(model, OptimConfig(kind="adamw", lr=0.01, weight_decay=0.0))
    return OnPolicyStep(model, objective, optimizer, lambda step: 1.0, **how)


def same(a, b) -> bool:
    return all(x.shape == y.shape and torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_a_rollout_is_a_prompt_and_what_was_drawn_and_only_that_is_counted():
    batch = a_batch()
    found = writing()(decoder(), batch, 0)
    assert found.tokens.shape[1] <= T
    ended = 0
    for row in range(B):
        ids, targets = found.tokens[row].tolist(), found.targets[row].tolist()
        n = sum(i != EMPTY for i in ids)
        assert ids[:N_PROMPT] == batch.tokens[row, :N_PROMPT].tolist()
        assert ids[n:] == [EMPTY] * (len(ids) - n) and targets[n:] == [IGNORE] * (len(ids) - n)
        assert targets[: N_PROMPT - 1] == [IGNORE] * (N_PROMPT - 1)
        assert targets[N_PROMPT - 1 : n - 1] == ids[N_PROMPT:n], "each target is the next token"
        assert END not in ids[N_PROMPT:n]
        assert targets[n - 1] == END or n == T - 1, "a text ends with END or with the row"
        ended += targets[n - 1] == END
    assert 0 < ended < B, "both happen here"


def test_rollouts_depend_on_seed_step_and_row_and_on_no_neighbor():
    model, batch = decoder(), a_batch()
    first = writing()(model, batch, 4)
    assert same(first, writing()(model, batch, 4)) and same(first, writing(fast=True)(model, batch, 4))
    for other in (writing()(model, batch, 5), writing(seed=4)(model, batch, 4)):
        assert not same(first, other)
    alike = PromptBatch(*(part[:1].expand(B, *part.shape[1:]) for part in batch))
    rows = [tuple(row.tolist()) for row in writing()(model, alike, 4).tokens]
    assert len(set(rows)) == B, "equal prompts are continued differently"
    fewer = writing()(model, PromptBatch(*(part[:2] for part in batch)), 4)
    width = fewer.tokens.shape[1]
    assert torch.equal(fewer.tokens, first.tokens[:2, :width]) and (first.tokens[:2, width:] == EMPTY).all()


def test_the_share_of_written_rows():
    model, batch = decoder(), a_batch(rows=40)
    assert same(writing(0.0)(model, batch, 0), batch[:2]), "the corpus as it is"
    found = writing(0.3)(model, batch, 0)
    kept = sum(torch.equal(ours, theirs) for ours, theirs in zip(found.targets, batch.targets, strict=True))
    assert 0.5 * 40 < kept < 0.9 * 40


@pytest.mark.parametrize("n_micro_batches", [2, 5])
def test_an_update_does_not_depend_on_micro_batches(n_micro_batches):
    weights = []
    for n in (1, n_micro_batches):
        step = a_step(decoder(), n_micro_batches=n)
        logs = [step(a_batch(i)) for i in range(2)]
        weights.append([*step.model.parameters(), torch.tensor([log["loss"] for log in logs])])
    for whole, parts in zip(*weights, strict=True):
        torch.testing.assert_close(whole, parts, rtol=1e-7, atol=1e-9)


def test_a_step_that_is_restored_writes_and_learns_the_same_bits():
    straight, stopped = a_step(decoder(dropout=0.2)), a_step(decoder(dropout=0.2))
    torch.manual_seed(5)
    for i in range(4):
        straight(a_batch(i))
    torch.manual_seed(5)
    for i in range(2):
        stopped(a_batch(i))
    saved = stopped.state_dict()
    resumed = a_step(decoder(4, dropout=0.2))
    resumed.load_state_dict(saved)
    for i in (2, 3):
        resumed(a_batch(i))
    assert same(straight.model.parameters(), resumed.model.parameters())


def test_a_step_learns_from_texts_of_the_newest_weights():
    step, seen = a_step(decoder()), []
    step.rollout = lambda model, batch, i: seen.append((model, i)) or writing()(model, batch, i)
    for i in range(2):
        step(a_batch(i))
    assert [i for _, i in seen] == [0, 1] and all(model is step.model for model, _ in seen)


def test_a_recurrent_student_writes_too():
    model = RNN(RNNConfig(n_layers=1, d_hidden=13), VOCAB).double()
    step = a_step(model)
    before = [p.clone() for p in model.parameters()]
    assert step(a_batch())["tokens"] > 0 and not same(before, model.parameters())
