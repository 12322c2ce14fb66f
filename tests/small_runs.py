"""Trainings of a second: a small decoder on its own text, and the errors that refuse it."""

import json
from functools import partial
from pathlib import Path

import train
from minillm.training import checkpoint
from tests import tiny

TEXT = "".join(f"{i} the quick brown fox {7 * i % 11} jumps over {i % 5} lazy dogs and sleeps.\n" for i in range(120))
SMALL = {
    "tokenizer.kind": "char",
    "model.n_layers": 1,
    "model.d_model": 6,
    "model.n_heads": 2,
    "model.d_head": 4,
    "model.context_length": 16,
    "model.value_embeddings": "false",
    "train.batch_size": 3,
    "train.max_steps": 6,
    "schedule.warmup_steps": 2,
    "train.eval_every": 2,
    "train.save_every": 2,
    "train.log_every": 1,
    "train.precision": "fp32",
    "text.max_new_tokens": 1,
}
flags = partial(tiny.flags, SMALL)


def started(folder: Path, *words: str, status: int = 0, **changes) -> Path:
    """Train the config gpt-tiny, made small, on TEXT, in folder/run."""
    (folder / "my.txt").write_text(TEXT)
    words = [*flags(data__corpus=folder / "my.txt", train__run=folder / "run", **changes), *words]
    assert train.main(["--config", "gpt-tiny", *words]) == status
    return folder / "run"


def said(capsys, *words: object) -> str:
    """The one-line error of train.py for this command line."""
    capsys.readouterr()
    assert train.main([str(word) for word in words]) == 2
    err = capsys.readouterr().err
    assert err.startswith("train.py: ") and err.count("\n") == 1 and "Errno" not in err
    return err


def rows(path: Path) -> list[dict]:
    """The metrics of a run."""
    return [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]


def progress(path: Path, name: str = "latest") -> dict:
    """The progress that a checkpoint has saved."""
    return checkpoint.load(path / "checkpoint" / f"{name}.pt")["progress"]


def edit(path: Path, old: str, new: str) -> None:
    """Change the config.toml of a run by hand."""
    text = (path / "config.toml").read_text()
    assert old in text
    (path / "config.toml").write_text(text.replace(old, new))
