"""A user's own text through train.py: however small, training ends well and reports what happened."""

import json
import tomllib

import pytest
import torch

import train
from minillm.config.flags import override
from minillm.runs import folder, wiring
from minillm.runs.config import load_config
from minillm.training import checkpoint
from minillm.training.step import GradientStep
from tests import tiny
from tests.interruption import ctrl_c_after

LINES = [
    "The sun rises over the hill.",
    "A cat sleeps on the warm wall.",
    "My friend reads an old book.",
    "We drink tea when it rains.",
]
SMALL = {
    "model.n_layers": 1,
    "model.d_model": 16,
    "model.n_heads": 2,
    "model.init_embed": 0.05,
    "train.precision": "fp32",
}
SMALL |= {"text.max_new_tokens": 5, "optim.lr": 0.02}


def go(folder, text: str, config: str = "gpt-tiny", **more) -> int:
    """Train on a text; return the exit status."""
    (folder / "my.txt").write_text(text)
    return train.main(
        ["--config", config, *tiny.flags(SMALL, data__corpus=folder / "my.txt", train__run=folder / "run", **more)]
    )


def rows(path) -> list[dict]:
    return [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]


CHARACTERS = "".join(f"{line} {i}\n" for i, line in enumerate(LINES * 3))[:300]


@pytest.mark.parametrize("text", ["\n".join(LINES), CHARACTERS], ids=["lines", "300 characters"])
def test_a_few_lines_stop_early_with_the_best_weights_and_a_word_on_it(tmp_path, capsys, text):
    assert go(tmp_path, text) == 0
    out, path = capsys.readouterr().out, tmp_path / "run"
    assert out.startswith("training; corpus") and "learns to tell" not in out
    assert "expected, as configured" not in out and "warning: in " in out
    val = {row["step"]: row["val_loss"] for row in rows(path) if "val_loss" in row}
    best = min(val, key=val.__getitem__)
    summary = json.loads((path / "summary.json").read_text())
    assert len(val) >= 8 and summary["steps"] == max(val) == best + 8 * 5 < 1000
    assert summary["best_step"] == best == folder.open_run(path).step and summary["val_loss"] == pytest.approx(
        val[best], rel=1e-5
    )
    assert f"stopped early at step {max(val)}, after 8 validations" in out
    assert out.splitlines()[-1].startswith(
        ("the model has memorized the text", "the model has begun to memorize the text", "validation was best")
    )


def test_sizes_that_the_text_decided_are_kept_for_resume_and_the_bits_are_the_same(tmp_path, capsys):
    torch.set_num_threads(1)
    one, other = tmp_path / "one", tmp_path / "other"
    one.mkdir()
    other.mkdir()
    text, quick = "\n".join(LINES), {"train__max_steps": 20, "train__patience": 0}
    assert go(one, text, **quick) == 0
    with ctrl_c_after(GradientStep, 7):
        assert go(other, text, **quick) == 130
    capsys.readouterr()
    assert train.main(["--resume", str(other / "run")]) == 0
    assert "sets it" not in capsys.readouterr().out, "nothing is decided anew"
    configs = [tomllib.loads((path / "run" / "config.toml").read_text()) for path in (one, other)]
    for config in configs:
        assert config["tokenizer"]["vocab_size"] == 300 and config["model"]["context_length"] == 16
        assert config["data"]["val_fraction"] == 0.1
        assert (
            config["train"]["eval_every"] == 2 and config["train"]["patience"] == 0 and config["about"]["summary"] == ""
        )
    weights = [checkpoint.load(path / "run" / "checkpoint" / "latest.pt")["step"]["model"] for path in (one, other)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    kept = [
        [(row["step"], row["val_loss"]) for row in rows(path / "run") if "val_loss" in row] for path in (one, other)
    ]
    assert kept[0] == kept[1] and [step for step, _ in kept[0]] == list(range(2, 21, 2))


def test_a_run_from_the_weights_of_another_decides_for_its_own_text_how_often_to_validate(tmp_path):
    assert go(tmp_path, "\n".join(LINES), train__max_steps=200, train__eval_every=100) == 0
    new, text = tmp_path / "new", tmp_path / "large.txt"
    text.write_text("\n".join(f"{line} {i}" for i, line in enumerate(LINES * 60)))
    words = ["--init-from", tmp_path / "run", "--data.corpus", text, "--train.run", new, "--train.max_steps", 16]
    assert train.main(list(map(str, words))) == 0
    config = folder.open_run(new).config
    assert (config.train.eval_every, config.train.patience) == (2, 0) and config.about.summary == ""


def test_a_context_that_was_asked_for_is_refused_where_it_cannot_work(tmp_path, capsys):
    assert go(tmp_path, "\n".join(LINES), model__context_length=176) == 2
    assert "lower model.context_length or give more text" in capsys.readouterr().err


def test_the_best_is_chosen_on_a_sample_and_told_of_the_whole_part(tmp_path, capsys):
    text = "\n".join(f"{line} {i}" for i, line in enumerate(LINES * 60))
    quick = {"train__max_steps": 16, "model__context_length": 16, "train__eval_tokens": 100, "data__val_fraction": 0.2}
    assert go(tmp_path, text, **quick) == 0
    path, out = tmp_path / "run", capsys.readouterr().out
    validated = [row for row in rows(path) if "val_loss" in row]
    assert len(validated) == 8 and all(row.keys() == {"step", "val_loss"} for row in validated)
    summary, opened = json.loads((path / "summary.json").read_text()), folder.open_run(path)
    data = wiring.build_data(opened.config, opened.text.tokenizer)
    whole = wiring.build_validation(opened.config, data)
    assert summary["val_loss"] == pytest.approx(whole(opened.text.model)["val_loss"]) and "bits_per_byte" in summary
    best = min(validated, key=lambda row: row["val_loss"])
    assert (
        best["val_loss"] == pytest.approx(whole.sampled(100)(opened.text.model)["val_loss"])
        and best["step"] == opened.step
    )
    assert "on about 100 of the" in out and f"val_loss  {summary['val_loss']:.4f}" in out


@pytest.mark.parametrize("config", ["rnn-tiny", "ngram-tiny", "encoder-tiny"])
def test_every_kind_of_model_reads_a_few_lines(tmp_path, capsys, config):
    small = {
        "rnn-tiny": {"model.d_hidden": 8},
        "encoder-tiny": {"model.d_model": 16, "model.n_layers": 1},
        "ngram-tiny": {},
    }[config]
    (tmp_path / "my.txt").write_text("\n".join(LINES))
    limit = {} if config == "ngram-tiny" else {"train.max_steps": 60}
    words = tiny.flags(
        {"data.corpus": tmp_path / "my.txt", "train.run": tmp_path / "run", "train.precision": "fp32", **small, **limit}
    )
    assert train.main(["--config", config, *words]) == 0
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    val = {row["step"]: row["val_loss"] for row in rows(tmp_path / "run") if "val_loss" in row}
    assert (
        summary["best_step"] == min(val, key=val.__getitem__)
        and "expected, as configured" not in capsys.readouterr().out
    )


def test_the_config_as_it_is_says_what_to_expect(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    about, build_data = load_config("gpt-tiny").about, wiring.build_data
    monkeypatch.setattr(
        wiring, "build_data", lambda config, *rest: build_data(override(config, {"data.n_stories": "1500"}), *rest)
    )
    for words, expected in (
        ([], True),
        (["--train.run", "x", "--train.log_every", "5"], True),
        (["--train.max_steps", "999"], False),
    ):
        assert train.main(["--config", "gpt-tiny", "--train.precision", "fp32", *words, "--dry-run"]) == 0
        out = capsys.readouterr().out
        assert out.startswith(about.summary) and (f"validation loss {about.expected_loss:.3f}" in out) == expected
