"""Every key of [train], [optim], [schedule] and [task] reaches the step; validation is never smoothed."""

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from minillm.config.flags import override
from minillm.datasets.batch import Batch
from minillm.objectives.next_token import next_token
from minillm.runs import wiring
from minillm.runs.config import RunConfig
from minillm.training.optim import build_optimizer
from minillm.training.schedule import rate

VOCAB, ROWS, STEPS = 23, 7, 5
SMALL = {
    "model.n_layers": "1",
    "model.d_model": "12",
    "model.n_heads": "2",
    "model.context_length": "11",
    "train.batch_size": str(ROWS),
}
SMALL |= {
    "train.max_steps": "5",
    "schedule.warmup_steps": "2",
    "train.precision": "fp32",
    "optim.kind": "adamw",
    "model.dropout": "0",
}
SHOWS = {  # for each key, a value that changes the result of five steps
    "train.seed": "5",
    "train.max_steps": "6",
    "train.n_micro_batches": "3",
    "train.grad_clip": "0.01",
    "train.precision": "bf16",
    "task.label_smoothing": "0.3",
    "task.backward": "manual",
    "optim.kind": "muon",
    "optim.lr": "0.02",
    "optim.min_lr": "0.002",
    "optim.muon_lr": "0.3",
    "optim.weight_decay": "5.0",
    "optim.beta1": "0.5",
    "optim.beta2": "0.5",
    "optim.momentum": "0.3",
    "optim.eps": "0.5",
    "schedule.kind": "cosine",
    "schedule.warmup_steps": "0",
    "schedule.decay_fraction": "1.0",
}
OF_MUON = ("optim.muon_lr", "optim.momentum")
OUTSIDE = {  # keys that do not concern the step
    *(
        "run",
        "batch_size",
        "compile",
        "keep_memory",
        "fast",
        "log_every",
        "eval_every",
        "eval_tokens",
        "save_every",
        "patience",
    ),
}


def config_of(**changes: str) -> RunConfig:
    return override(RunConfig(), SMALL | changes)


def batches() -> list[Batch]:
    generator = torch.Generator().manual_seed(3)
    return [Batch(*torch.randint(VOCAB, (2, ROWS, 11), generator=generator)) for _ in range(STEPS)]


def trained(
    config: RunConfig, dtype: torch.dtype = torch.float32
) -> tuple[list[dict], list[torch.Tensor], list[int], tuple]:
    """Logs of five steps, final weights, number of rows in each part, and the kind of step."""
    step, rows = wiring.build_step(config, wiring.build_model(config, VOCAB).to(dtype)), []
    inner = step.objective
    step.objective = lambda model, batch: rows.append(len(batch.tokens)) or inner(model, batch)
    logs = [step(batch) for batch in batches()]
    return (
        logs,
        [p.detach().clone() for p in step.model.parameters()],
        rows,
        (type(step), next(step.working.parameters()).dtype),
    )


@pytest.mark.parametrize("name", SHOWS)
def test_every_key_reaches_the_step(name):
    base = {"optim.kind": "muon"} if name in OF_MUON else {}
    without, with_it = trained(config_of(**base)), trained(config_of(**base, **{name: SHOWS[name]}))
    if name == "train.n_micro_batches":
        assert set(without[2]) == {7} and set(with_it[2]) == {3, 1}, "7 rows in 3 parts"
    elif name == "task.backward":
        assert without[3] != with_it[3]
    else:
        assert any(not torch.equal(a, b) for a, b in zip(without[1], with_it[1], strict=True))


def test_no_key_is_forgotten_here():
    sections = {"train": RunConfig().train, "optim": RunConfig().optim, "schedule": RunConfig().schedule}
    sections["task"] = RunConfig().task
    known = {f"{name}.{field.name}" for name, section in sections.items() for field in dataclasses.fields(section)}
    assert known == set(SHOWS) | {f"train.{name}" for name in OUTSIDE} | {"task.kind", "task.order", "task.short_first"}


@settings(max_examples=6)
@given(
    clip=st.sampled_from([0.0, 0.01, 1e6]),
    parts=st.integers(1, ROWS),
    smoothing=st.sampled_from([0.0, 0.2]),
    kind=st.sampled_from(["muon", "adamw"]),
    shape=st.sampled_from(["linear", "cosine", "inverse_sqrt"]),
    warmup=st.integers(0, 5),
    lr=st.sampled_from([1e-3, 0.02]),
)
def test_the_step_is_the_one_that_these_numbers_describe(clip, parts, smoothing, kind, shape, warmup, lr):
    changes = {
        "train.grad_clip": clip,
        "train.n_micro_batches": parts,
        "task.label_smoothing": smoothing,
        "optim.kind": kind,
    }
    changes |= {"schedule.kind": shape, "schedule.warmup_steps": warmup, "optim.lr": lr, "optim.min_lr": 1e-4}
    config = config_of(**{name: str(value) for name, value in changes.items()})
    logs, weights, _, _ = trained(config, torch.float64)
    model = wiring.build_model(config, VOCAB).double()
    optimizer = build_optimizer(model, config.optim)
    for i, batch in enumerate(batches()):
        loss = next_token(model, batch, smoothing=smoothing)
        mean = loss.total / loss.count
        mean.backward()
        norm = float(torch.cat([p.grad.flatten() for p in model.parameters()]).norm())
        for p in model.parameters():
            p.grad *= min(1.0, clip / norm) if clip else 1.0
        fraction = rate(config.schedule, i, 5, 1e-4 / lr)
        optimizer.step(fraction)
        optimizer.zero_grad()
        assert logs[i]["loss"] == pytest.approx(mean.item(), rel=1e-9)
        assert logs[i]["grad_norm"] == pytest.approx(norm, rel=1e-9)
        assert logs[i]["lr"] == pytest.approx(lr * fraction)
    for a, b in zip(weights, model.parameters(), strict=True):
        torch.testing.assert_close(a, b.detach(), rtol=1e-7, atol=1e-9)


CORPORA = {
    "decoder": {"data.n_stories": "60"},
    "rnn": {"data.n_stories": "60", "optim.kind": "adamw"},
    "encoder_decoder": {"data.n_pairs": "90", "data.corpus": "translation", "task.kind": "translate"},
}
LENGTH = {"decoder": "64", "rnn": "64", "encoder_decoder": "128"}


@pytest.mark.parametrize("kind", CORPORA)
def test_training_is_smoothed_and_validation_never(kind):
    flags = {
        "model.kind": kind,
        "model.context_length": LENGTH[kind],
        "train.precision": "fp32",
        "tokenizer.kind": "byte",
    } | CORPORA[kind]
    plain, smooth = (
        override(RunConfig(), flags | {"task.label_smoothing": s, "train.batch_size": "3"}) for s in ("0", "0.4")
    )
    data = wiring.build_data(plain, say=lambda line: None)
    model = wiring.build_model(plain, data.tokenizer.vocab_size).eval()
    validations = [wiring.build_validation(config, data) for config in (plain, smooth)]
    batch = wiring.build_batches(plain, data)(0)
    losses = [float(validation.objective(model, batch).total) for validation in validations]
    trainings = [float(wiring.build_objective(config)(model, batch).total) for config in (plain, smooth)]
    assert losses[0] == losses[1] == trainings[0] != trainings[1]
