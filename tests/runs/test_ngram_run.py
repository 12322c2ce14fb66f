"""An n-gram model by the scripts: train, stop, resume, sample, and refused uses."""

import json
from functools import partial

import pytest
import torch

import sample
import train
from minillm.training import checkpoint
from minillm.training.counting import CountingStep
from tests import tiny
from tests.interruption import ctrl_c_after

SMALL = {
    "data.n_stories": 300,
    "tokenizer.vocab_size": 700,
    "model.context_length": 32,
    "train.batch_size": 64,
    "train.eval_every": 5,
    "train.save_every": 4,
    "text.max_new_tokens": 10,
}


flags = partial(tiny.flags, SMALL)  # flags of a run that takes one second


def counts(path):
    return checkpoint.load(path / "checkpoint" / "latest.pt")["step"]["model"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    path = tmp_path_factory.mktemp("work") / "run"
    assert train.main(["--config", "ngram-tiny", *flags(train__run=path)]) == 0
    return path


def test_the_whole_text_is_counted_once_and_measured_as_every_model_is(finished):
    saved = checkpoint.load(finished / "checkpoint" / "latest.pt")
    steps = saved["progress"]["step"]
    assert steps == saved["step"]["n_steps"] < 1000, "no more steps than there is text"
    summary = json.loads((finished / "summary.json").read_text())
    assert summary["val_loss"] - summary["source_loss"] == pytest.approx(summary["regret"]) and summary["regret"] > 0
    assert {"bits_per_byte", "test_loss"} <= summary.keys()
    rows = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    assert rows[0]["loss"] > rows[-1]["val_loss"] and rows[-1]["step"] == steps


def test_a_counted_model_writes(finished, capsys):
    assert sample.main(["--run", str(finished), "--prompt", "One day", "--top-p", "0.9", "--num-samples", "2"]) == 0
    out = capsys.readouterr().out
    assert out.count("One day") == 2 and "top-p 0.9 -> draw" in out


def test_stopping_and_resuming_gives_the_same_counts(finished, tmp_path):
    stopped = tmp_path / "stopped"
    with ctrl_c_after(CountingStep, 3):
        assert train.main(["--config", "ngram-tiny", *flags(train__run=stopped)]) == 130
    assert train.main(["--resume", str(stopped)]) == 0
    one, other = counts(finished), counts(stopped)
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_one_long_text_and_every_smoothing_work_too(tmp_path):
    (tmp_path / "my.txt").write_text("the cat sat on the mat, and the dog sat on the cat. " * 60)
    for smoothing, order in (("add-k", 1), ("stupid-backoff", 5)):
        words = flags(data__corpus=tmp_path / "my.txt", train__run=tmp_path / smoothing, tokenizer__kind="char")
        assert (
            train.main(["--config", "ngram-tiny", *words, "--model.smoothing", smoothing, "--model.order", str(order)])
            == 0
        )
    losses = [
        json.loads((tmp_path / name / "summary.json").read_text())["val_loss"] for name in ("add-k", "stupid-backoff")
    ]
    assert losses[1] < 0.6 < 2 < losses[0]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--model.order", "0"], "--model.order = 0: expected int >= 1"),
        (["--model.k", "0.5"], "model.k = 0.5: expected none"),
        (["--model.context_length", "2"], "model.context_length = 2: expected more than model.order - 1 = 2"),
        (
            ["--optim.lr", "0.5"],
            "optim.lr = 0.5: expected 0.003, its default, since task.kind = count has no gradients",
        ),
        (["--train.n_micro_batches", "2"], "train.n_micro_batches = 2: expected 1"),
        (
            ["--task.order", "random"],
            "--task.order: unknown key of task.kind = count; expected task.kind = next_token or",
        ),
        (["--train.precision", "bf16"], "train.precision = bf16: expected auto"),
        (["--model.n_layers", "2"], "--model.n_layers: unknown key"),
    ],
)
def test_what_it_would_ignore_or_cannot_do_is_one_sentence_and_status_2(words, sentence, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    quick = ["--data.n_stories", "60", "--tokenizer.kind", "char"]
    assert train.main(["--config", "ngram-tiny", *quick, *words]) == 2
    err = capsys.readouterr().err
    assert sentence in err and err.count("\n") == 1 and not (tmp_path / "runs").exists()
