"""Speculative decoding by the scripts: a run, an n-gram table or the text itself drafts."""

import re
from functools import partial
from pathlib import Path

import pytest

import sample
import train
from tests import tiny

SMALL = {
    "data.n_stories": 100,
    "tokenizer.kind": "char",
    "model.n_layers": 1,
    "model.d_model": 16,
    "model.n_heads": 2,
    "model.context_length": 32,
    "train.batch_size": 4,
    "schedule.warmup_steps": 1,
    "train.max_steps": 2,
    "train.precision": "fp32",
}
flags = partial(tiny.flags, SMALL)  # flags of a run that takes one second
RECURRENT = {name: value for name, value in SMALL.items() if name not in ("model.d_model", "model.n_heads")} | {
    "model.d_hidden": 16
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A target, drafts that fit and drafts that do not."""
    folder = tmp_path_factory.mktemp("work")
    target = ["--config", "gpt-target", *flags(train__max_steps=9)]
    assert train.main([*target, "--train.run", str(folder / "target")]) == 0
    assert train.main(["--config", "gpt-draft", *flags(train__run=folder / "draft")]) == 0
    assert train.main(["--config", "gpt-draft", *flags(train__run=folder / "short", model__context_length=16)]) == 0
    assert train.main(["--config", "gpt-draft", *flags(train__run=folder / "stranger", tokenizer__kind="byte")]) == 0
    assert train.main(["--config", "lstm-tiny", *tiny.flags(RECURRENT, train__run=folder / "lstm")]) == 0
    blanks = flags(train__run=folder / "blanks")
    assert train.main(["--config", "encoder-tiny", *blanks]) == 0
    return folder


def write(folder, *words):
    return sample.main(
        ["--run", str(folder / "target"), "--prompt", "One day", "--max-new-tokens", "20", *map(str, words)]
    )


@pytest.mark.parametrize("draft", ["draft", "target", "lstm", "ngram", "prompt"])
def test_greedy_text_is_the_same_with_every_draft_and_its_worth_is_told(folder, draft, capsys):
    assert write(folder, "--temperature", 0) == 0
    plain = capsys.readouterr().out
    named = folder / draft if (folder / draft).exists() else draft
    assert write(folder, "--temperature", 0, "--draft", named) == 0
    out = capsys.readouterr().out
    assert out.startswith(plain)
    counts = r"([\d.]+) tokens drafted, ([\d.]+) written; (\d+)% .* for (\d+) of (\d+) calls"
    numbers = counts + r".*\nspeed-up: ([\d.]+) x, measured"
    drafted, written, accepted, n_plain, n_calls, measured = map(float, re.search(numbers, out).groups())
    assert written <= drafted + 1.1 and 0 <= accepted <= 100 and 0 < n_plain <= n_calls and measured > 0
    assert draft != "target" or accepted == 100


def test_samples_are_drafted_together_one_by_one_as_they_come_and_by_a_fixed_length(folder, capsys):
    words = ["--draft", folder / "draft", "--num-samples", 2, "--seed", 4, "--draft-tokens", 3]
    assert write(folder, *words) == 0
    together = capsys.readouterr().out.partition("\nper call")[0]
    assert write(folder, *words, "--stream") == 0
    streamed = capsys.readouterr().out.partition("\nper call")[0]
    assert together.split("\n---\n") == streamed.split("\n\n---\n") and "\n---\n" in together


def test_a_recurrent_run_is_drafted_for_too(folder, capsys):
    texts = []
    for draft in ([], ["--draft", str(folder / "draft")], ["--draft", "ngram"]):
        assert sample.main(["--run", str(folder / "lstm"), "--temperature", "0", "--max-new-tokens", "15", *draft]) == 0
        texts.append(capsys.readouterr().out.partition("\nper call")[0].strip())
    assert texts[0] == texts[1] == texts[2]


BAD = {
    "absent": (["--draft", "nowhere"], "nowhere: expected the folder of a run"),
    "another tokenizer": (["--draft", "stranger"], "--draft stranger: expected the tokenizer of"),
    "an encoder": (["--draft", "blanks"], "--draft blanks: expected a run that writes"),
    "a short context": (["--draft", "short"], "draft of context_length = 16: expected at least"),
    "a cost alone": (["--draft-cost", "0.5"], "--draft-cost would be ignored without --draft"),
    "a length alone": (["--draft-tokens", "3"], "--draft-tokens would be ignored without --draft"),
    "a length beyond": (["--draft", "prompt", "--draft-tokens", "99"], "n_draft = 99: expected 1 ... 16"),
}


@pytest.mark.parametrize(("words", "sentence"), BAD.values(), ids=BAD.keys())
def test_a_draft_that_cannot_work_is_refused_with_a_sentence(folder, words, sentence, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    assert write(Path(), *words) == 2
    err = capsys.readouterr().err
    assert sentence in err and err.count("\n") == 1
