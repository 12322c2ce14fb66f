"""The lock of a run: one training at a time, and none after its process has ended in any way."""

import os
import signal
import subprocess
import sys
import threading
import time
import types
from pathlib import Path

import pytest

from minillm.runs import lock
from minillm.runs.lock import FILE, Taken, only_trainer

ROOT = Path(__file__).resolve().parents[2]
HOLD = """
import sys, time
from pathlib import Path
from minillm.runs.lock import only_trainer
with only_trainer(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def another(tmp_path):
    """Another process that holds the lock on `tmp_path`/run."""
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "run")], env=env, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_a_run_that_another_process_trains_is_refused_and_the_process_named(another, tmp_path):
    for _ in range(2):  # a refusal does not release the lock
        with pytest.raises(Taken, match=rf"run: expected no other training of this run, found process {another.pid};"):
            only_trainer(tmp_path / "run").__enter__()
    with only_trainer(tmp_path / "another run"):
        pass


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_process_that_ends_in_any_way_leaves_no_lock(another, tmp_path, how):
    another.send_signal(how)
    another.wait(timeout=30)
    with only_trainer(tmp_path / "run"):
        assert (tmp_path / "run" / FILE).read_text() == str(os.getpid())
    assert not (tmp_path / "run" / FILE).exists()


def test_a_lock_is_held_against_ones_own_process_too_and_given_back_after_an_error(tmp_path):
    with pytest.raises(ZeroDivisionError), only_trainer(tmp_path):
        with pytest.raises(Taken, match=f"process {os.getpid()};"):
            only_trainer(tmp_path).__enter__()
        _ = 1 / 0
    with only_trainer(tmp_path):
        assert [p.name for p in tmp_path.iterdir()] == [FILE]
    assert not list(tmp_path.iterdir())


def test_a_number_longer_than_the_next_leaves_no_digits(tmp_path):
    (tmp_path / FILE).write_text("9" * 15)
    with only_trainer(tmp_path):
        assert (tmp_path / FILE).read_text() == str(os.getpid())


def test_a_folder_that_was_made_for_nothing_goes_again_and_any_other_stays(tmp_path):
    with only_trainer(tmp_path / "a" / "b"):
        assert (tmp_path / "a" / "b").is_dir()
    assert not (tmp_path / "a" / "b").exists()
    (tmp_path / "empty").mkdir()
    with only_trainer(tmp_path / "empty"):
        pass
    assert (tmp_path / "empty").is_dir()
    with only_trainer(tmp_path / "full"):
        (tmp_path / "full" / "x").write_text("")
    assert [p.name for p in (tmp_path / "full").iterdir()] == ["x"]


def test_a_lock_on_a_file_that_its_holder_has_just_removed_is_taken_again(tmp_path, monkeypatch):
    original, locked = lock._lock, []

    def removed_before(file):
        if not locked:
            (tmp_path / FILE).unlink()
        locked.append(file)
        original(file)

    monkeypatch.setattr(lock, "_lock", removed_before)
    with only_trainer(tmp_path):
        assert len(locked) == 2
        with pytest.raises(Taken):
            only_trainer(tmp_path).__enter__()


def test_a_lock_is_given_back_where_an_open_file_cannot_be_removed(tmp_path, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "The process cannot access the file because it is being used by another process")

    monkeypatch.setattr(Path, "unlink", refuse)
    for _ in range(2):
        with only_trainer(tmp_path):
            assert (tmp_path / FILE).read_text() == str(os.getpid())
    assert [p.name for p in tmp_path.iterdir()] == [FILE]


def test_a_system_without_fcntl_locks_by_its_own_means(tmp_path, monkeypatch):
    held = set()

    def locking(file, mode, n):
        assert (mode, n) == ("non-blocking", 1) and os.lseek(file, 0, os.SEEK_CUR) > 1_000_000, (
            "others can read the number"
        )
        if held - {file}:
            raise PermissionError(13, "Permission denied")
        held.add(file)

    monkeypatch.setitem(sys.modules, "fcntl", None)
    monkeypatch.setitem(sys.modules, "msvcrt", types.SimpleNamespace(locking=locking, LK_NBLCK="non-blocking"))
    with only_trainer(tmp_path):
        assert (tmp_path / FILE).read_text() == str(os.getpid())
        with pytest.raises(Taken, match=f"found process {os.getpid()};"):
            only_trainer(tmp_path).__enter__()


def test_where_a_file_system_knows_no_locks_training_goes_on_and_says_so(tmp_path, monkeypatch, capsys):
    def unknown(file, how):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr("fcntl.flock", unknown)
    with only_trainer(tmp_path):
        pass
    err = capsys.readouterr().err
    assert (
        err
        == "this file system has no locks (Function not implemented): make sure that no other process trains this run\n"
    )


def test_of_many_processes_that_start_at_once_exactly_one_trains(tmp_path):
    env, words = os.environ | {"PYTHONPATH": str(ROOT)}, [sys.executable, "-c", HOLD, str(tmp_path / "run")]
    processes = [
        subprocess.Popen(words, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(4)
    ]
    while sum(p.poll() is None for p in processes) > 1:
        time.sleep(0.02)
    [winner] = [p for p in processes if p.poll() is None]
    winner.kill()
    for p in processes:
        out, err = p.communicate()
        assert (out == "held\n") == (p is winner) and (f"found process {winner.pid};" in err) == (p is not winner)


def test_two_never_hold_a_run_however_fast_they_take_it_and_give_it_back(tmp_path):
    inside, taken, refused, at_most = [], [], [], []

    def again_and_again():
        for _ in range(300):
            try:
                with only_trainer(tmp_path):
                    inside.append(1)
                    at_most.append(len(inside))
                    taken.append(1)
                    inside.pop()
            except Taken:
                refused.append(1)

    threads = [threading.Thread(target=again_and_again) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(at_most) == 1 and len(taken) + len(refused) == 1200 and taken
