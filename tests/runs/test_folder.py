"""The folder of a run: permission to write, the newest run, and errors of paths and disks."""

import os
import shutil
from pathlib import Path

import pytest
import torch

import train
from minillm.runs import folder, training
from minillm.training import checkpoint
from tests.small_runs import flags, progress, said, started


def test_the_newest_run_is_the_newest_by_time_whatever_its_name(finished, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for age, name in ((300, "z"), (100, "m"), (200, "a")):
        shutil.copytree(finished, tmp_path / "runs" / name)
        latest = tmp_path / "runs" / name / "checkpoint" / "latest.pt"
        os.utime(latest, (1e9 - age, 1e9 - age))
        os.utime(tmp_path / "runs" / name, (1e9 + age, 1e9 + age))
    assert folder.newest_run() == Path("runs/m")
    os.utime("runs/z/checkpoint/latest.pt", (1e9, 1e9))
    assert folder.newest_run() == Path("runs/z")


def test_a_second_training_of_a_run_is_refused_and_a_new_run_takes_the_next_number(
    finished, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    words = ["--config", "gpt-tiny", *flags(data__corpus=finished.parent / "my.txt")]
    shutil.copytree(finished, "runs/a")
    with folder.only_trainer(Path("runs/a")), folder.only_trainer(Path("runs/gpt-tiny")):
        assert "runs/a: expected no other training of this run, found process" in said(capsys, "--resume", "runs/a")
        assert train.main(["--resume", "runs/a", "--train.max_steps", "9", "--dry-run"]) == 0, "which only looks"
        assert "found process" in said(capsys, *words, "--train.run", "runs/gpt-tiny")
        assert train.main(words) == 0
    assert progress(Path("runs/gpt-tiny-2"))["step"] == 6
    assert not Path("runs/gpt-tiny").exists() and not (tmp_path / "runs/gpt-tiny-2" / "training.lock").exists()


def test_a_run_is_held_while_it_trains_and_while_it_is_resumed(tmp_path, finished, monkeypatch, capsys):
    original, refused = training.train, []

    def look(*how):
        refused.append(said(capsys, "--resume", tmp_path / "run"))
        return original(*how)

    monkeypatch.setattr(training, "train", look)
    path = started(tmp_path)
    assert train.main(["--resume", str(path), "--train.max_steps", "7"]) == 0
    assert len(refused) == 2 and all("expected no other training of this run" in err for err in refused)


def test_a_run_that_ends_while_another_prepares_is_not_overwritten(finished, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    original = folder.only_trainer

    def just_before(path):
        if not path.exists():
            shutil.copytree(finished, path)
        return original(path)

    monkeypatch.setattr(
        folder, "only_trainer", lambda path: just_before(path) if path.name == "gpt" else original(path)
    )
    with folder.ExitStack() as held:
        assert folder.new_folder("", "gpt", held) == Path("runs/gpt-2")
        with original(Path("runs/gpt")):
            pass  # the lock, which nobody holds
    with pytest.raises(ValueError, match="expected no run there; use --resume"), folder.ExitStack() as held:
        folder.new_folder("elsewhere/gpt", "x", held)


@pytest.mark.parametrize("part", ["config", "tokenizer", "documents", "corpus", "progress", "base", "step"])
def test_a_checkpoint_that_lacks_a_part_is_refused(mine, capsys, part):
    contents = checkpoint.load(mine / "checkpoint" / "latest.pt")
    contents.pop(part)
    checkpoint.save(mine / "checkpoint" / "latest.pt", contents)
    assert f"expected the checkpoint of a run, found one without '{part}'" in said(capsys, "--resume", mine)


def test_a_run_of_the_former_format_is_refused_by_both_numbers(mine, capsys):
    for name in ("latest", "best"):
        contents = checkpoint.load(mine / "checkpoint" / f"{name}.pt")
        torch.save({"format": 1, **contents}, mine / "checkpoint" / f"{name}.pt")
    for words in (["--resume", mine], ["--init-from", mine]):
        assert f"format = 1: expected {checkpoint.FORMAT}" in said(capsys, *words)


def test_a_place_that_cannot_be_is_a_sentence(finished, tmp_path, capsys):
    file = tmp_path / "file"
    file.write_text("")
    words = ["--config", "gpt-tiny", *flags(data__corpus=finished.parent / "my.txt"), "--train.run"]
    assert f"{file}: expected a folder, or nothing yet, found a file; name another place" in said(capsys, *words, file)
    assert "expected folders before the last name, found a file" in said(capsys, *words, file / "run")
    for place in (["--config"], ["--resume"], ["--init-from"], words):
        assert "expected a shorter path" in said(capsys, *place, "x" * 999 + ".toml")
    (tmp_path / "run" / "metrics.jsonl").mkdir(parents=True)
    assert "expected a file, found a folder" in said(capsys, *words, tmp_path / "run")
    assert not (tmp_path / "run" / "checkpoint").exists()


def test_a_disk_that_is_full_says_how_to_go_on_or_that_nothing_is_there_yet(
    finished, mine, tmp_path, capsys, monkeypatch
):
    original = checkpoint.write_atomically

    def full(path, data):
        if path.suffix == ".pt":
            raise OSError(28, "No space left on device", str(path))
        original(path, data)

    monkeypatch.setattr(checkpoint, "write_atomically", full)
    new = said(
        capsys, "--config", "gpt-tiny", *flags(data__corpus=finished.parent / "my.txt", train__run=tmp_path / "new")
    )
    assert "there is no previous one: the disk is full; free some space, and start again" in new
    again = said(capsys, "--resume", mine, "--train.max_steps", "9")
    assert (
        "the previous one is intact: the disk is full; free some space, "
        f"and continue with: python train.py --resume {mine}" in again
    )
    monkeypatch.undo()
    words = ["--config", "gpt-tiny", *flags(data__corpus=finished.parent / "my.txt", train__run=tmp_path / "new")]
    assert train.main(words) == 0, "where nothing was saved there is no run yet"
