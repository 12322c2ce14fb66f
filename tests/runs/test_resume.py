"""Resuming a run: what is kept, which flags may change, and that text and config must match."""

import json
import signal
from functools import partial

import pytest

import train
from minillm.config.loading import keys
from minillm.runs import folder, training
from minillm.runs.config import RunConfig, load_config
from minillm.training import checkpoint
from minillm.training.step import GradientStep
from tests.interruption import ctrl_c_after
from tests.small_runs import TEXT, edit, flags, progress, rows, said, started

LOOP = training.train


@pytest.mark.parametrize("stop_at", [1, 3, 4])
def test_metrics_keep_the_steps_before_and_hold_each_step_once(tmp_path, finished, stop_at):
    with ctrl_c_after(GradientStep, stop_at):
        path = started(tmp_path, status=130)
    before = rows(path)
    assert [row["step"] for row in before if "loss" in row] == list(range(1, stop_at + 1))
    assert train.main(["--resume", str(path)]) == 0
    after = rows(path)
    assert after[: len(before)] == before
    strip = partial(map, lambda row: {k: v for k, v in row.items() if "seconds" not in k})
    assert list(strip(after)) == list(strip(rows(finished)))


def losses(monkeypatch, values: list[float]) -> None:
    """Make the next validations return these losses."""
    left = iter(values)

    def with_losses(config, step, batch, evaluate, *rest):
        return LOOP(config, step, batch, lambda: evaluate() | {"val_loss": next(left)}, *rest)

    monkeypatch.setattr(training, "train", with_losses)


def test_best_loss_and_patience_survive_and_a_worse_model_never_replaces_the_best(tmp_path, monkeypatch):
    losses(monkeypatch, [2.0, 3.0])
    with ctrl_c_after(GradientStep, 5):
        path = started(tmp_path, status=130, train__max_steps=40, train__patience=4)
    best = (path / "checkpoint" / "best.pt").read_bytes()
    assert progress(path, "best")["step"] == 2
    losses(monkeypatch, [2.5, 2.0, 9.0])  # none is below 2, and with the 3.0 from before they are four
    assert train.main(["--resume", str(path)]) == 0
    assert (path / "checkpoint" / "best.pt").read_bytes() == best
    found = progress(path)
    assert (found["best_loss"], found["n_worse"], found["step"]) == (2.0, 4, 10)
    summary = json.loads((path / "summary.json").read_text())
    assert summary["best_step"] == 2


def test_a_better_model_replaces_the_best_after_a_resume(tmp_path, monkeypatch):
    losses(monkeypatch, [2.0])
    with ctrl_c_after(GradientStep, 3):
        path = started(tmp_path, status=130)
    losses(monkeypatch, [2.5, 1.5])
    assert train.main(["--resume", str(path)]) == 0
    assert progress(path, "best")["step"] == 6 and progress(path)["best_loss"] == 1.5


def test_the_test_figures_are_those_of_the_test_part_by_the_best_model(tmp_path, monkeypatch):
    (tmp_path / "texts").mkdir()
    for i in range(60):
        (tmp_path / "texts" / f"{i}.txt").write_text(TEXT[40 * i : 40 * i + 160])
    losses(monkeypatch, [2.0, 3.0, 4.0])
    held_out = {"data__corpus": tmp_path / "texts", "data__val_fraction": 0.2, "data__test_fraction": 0.2}
    words = flags(train__run=tmp_path / "run", optim__lr=0.1, optim__min_lr=0.01, optim__muon_lr=0.1, **held_out)
    assert train.main(["--config", "gpt-tiny", *words]) == 0
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    opened = folder.open_run(tmp_path / "run")
    data = train.wiring.build_data(opened.config, opened.text.tokenizer)
    assert opened.step == 2 and len(data.test.ids) != len(data.val.ids)
    monkeypatch.undo()
    expected = train.wiring.build_validation(opened.config, data, "test")(opened.text.model)
    found = {name.removeprefix("test_"): value for name, value in summary.items() if name.startswith("test_")}
    assert (
        found == {name.removeprefix("val_"): pytest.approx(value, rel=1e-5) for name, value in expected.items()}
        and "loss" in found
    )
    last = checkpoint.load(tmp_path / "run" / "checkpoint" / "latest.pt")["step"]["model"]
    opened.text.model.load_state_dict(last)
    others = [
        train.wiring.build_validation(opened.config, data, part)(opened.text.model)["val_loss"]
        for part in ("val", "test")
    ]
    assert all(abs(other - expected["val_loss"]) > 1e-3 for other in others), (
        "the last model has other figures, and so has validation"
    )


def test_a_resume_writes_its_changes_into_the_config_at_once(mine, monkeypatch):
    monkeypatch.setattr(training, "train", lambda *_: (_ for _ in ()).throw(train.Interrupted(signal.SIGINT)))
    for n in (9, 11):
        assert train.main(["--resume", str(mine), "--train.max_steps", str(n), "--train.save_every", "7"]) == 130
        assert f"max_steps = {n} " in (mine / "config.toml").read_text()
        assert checkpoint.load(mine / "checkpoint" / "latest.pt")["config"] == (mine / "config.toml").read_text()


ALLOWED = {
    "train.max_steps",
    "train.eval_every",
    "train.save_every",
    "train.log_every",
    "train.patience",
    "train.fast",
    "data.corpus",
}


@pytest.mark.parametrize("key", [key.name for key in keys(RunConfig) if key.name not in ALLOWED])
def test_every_flag_but_the_allowed_ones_is_refused(key, finished, capsys):
    value = str(getattr(getattr(load_config("gpt-tiny"), key.split(".")[0]), key.split(".")[1], "1"))
    assert f"--{key}: expected only train.max_steps, " in said(capsys, "--resume", finished, f"--{key}", value)


@pytest.mark.parametrize("key", sorted(ALLOWED - {"data.corpus", "train.max_steps"}))
def test_the_allowed_flags_are_obeyed(key, mine, monkeypatch):
    seen, value = [], "false" if key == "train.fast" else "3"
    monkeypatch.setattr(
        training,
        "train",
        lambda config, *_: seen.append(config) or (_ for _ in ()).throw(train.Interrupted(signal.SIGINT)),
    )
    assert train.main(["--resume", str(mine), "--train.max_steps", "9", f"--{key}", value]) == 130
    assert str(getattr(seen[0], key.split(".")[1])).lower() == value and seen[0].max_steps == 9


@pytest.mark.parametrize(
    "change", [lambda text: text.replace("fox", "fix", 1), lambda text: text[:-1], lambda text: text + "x"]
)
def test_another_text_under_the_same_name_is_refused(tmp_path, capsys, change):
    path = started(tmp_path)
    (tmp_path / "my.txt").write_text(change(TEXT))
    err = said(capsys, "--resume", path, "--train.max_steps", "8")
    assert f"data.corpus = {tmp_path / 'my.txt'}: expected the text that {path} was trained on, of SHA-256 " in err
    assert progress(path)["step"] == 6
    (tmp_path / "my.txt").write_text(TEXT)
    assert train.main(["--resume", str(path), "--train.max_steps", "8"]) == 0 and progress(path)["step"] == 8


def test_a_text_that_was_moved_is_named_and_must_be_the_same(tmp_path, capsys):
    path = started(tmp_path)
    moved, other = tmp_path / "moved.txt", tmp_path / "other.txt"
    (tmp_path / "my.txt").rename(moved)
    other.write_text(TEXT + TEXT)
    more = ["--resume", str(path), "--train.max_steps", "8"]
    assert f"if the text of {path} has moved, say where it is by --data.corpus" in said(capsys, *more)
    assert "expected the text that" in said(capsys, *more, "--data.corpus", other)
    assert train.main([*more, "--data.corpus", str(moved)]) == 0
    assert train.main(["--resume", str(path), "--train.max_steps", "9"]) == 0, "the new place is remembered"


EDITS = {
    "train.max_steps": ("max_steps = 6 ", "max_steps = 60 "),
    "optim.lr": ("\nlr = 0.004", "\nlr = 0.005"),
    "model.n_layers": ("n_layers = 1 ", "n_layers = 3 "),
}


@pytest.mark.parametrize("key", EDITS)
def test_an_edited_config_is_noticed(mine, capsys, key):
    edit(mine, *EDITS[key])
    for words in (["--resume", mine, "--train.max_steps", "8"], ["--init-from", mine]):
        err = said(capsys, *words)
        old, new = (text.strip().removesuffix(" ") for text in EDITS[key])
        assert f"{mine / 'config.toml'}: expected {key.split('.')[0]}.{old}, as the checkpoint has it" in err
        assert f"found {key.split('.')[0]}.{new};" in err and f"--config {mine / 'config.toml'}" in err
    (mine / "config.toml").unlink()
    assert train.main(["--resume", str(mine), "--train.max_steps", "8"]) == 0


def test_comments_and_the_order_of_keys_may_change(mine):
    text = (mine / "config.toml").read_text()
    sections = [section.rstrip() for section in text.split("\n\n") if section.strip()]
    (mine / "config.toml").write_text("# mine\n" + "\n".join(reversed(sections)) + "\n")
    assert train.main(["--resume", str(mine), "--train.max_steps", "7"]) == 0
