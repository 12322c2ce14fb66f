"""Signals: the first stops gently, the second at once, ignored ones stay ignored, a closed terminal is no error."""

import os
import pty
import signal
import subprocess
import sys
import termios
import threading
from fcntl import ioctl
from pathlib import Path
from types import SimpleNamespace

import pytest

from minillm.training import interruption
from minillm.training.interruption import REPEATED, Interrupted, interruptions

SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
every_signal = pytest.mark.parametrize("signum", SIGNALS)


class Ended(Exception):
    """Raised by the signal handlers that were set before `interruptions`."""


@pytest.fixture
def before(monkeypatch):
    """Install handlers that raise `Ended`, as the default ones would end the process; the time is `clock[0]`."""
    clock = [0.0]

    def end(signum, frame):
        raise Ended(signum)

    monkeypatch.setattr(interruption, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    kept = {s: signal.signal(s, end) for s in SIGNALS}
    yield clock
    for s, handler in kept.items():
        signal.signal(s, handler)


@every_signal
def test_the_first_signal_is_told_and_stays_the_one_that_asked(before, signum):
    with interruptions() as asked:
        assert asked() == 0
        signal.raise_signal(signum)
        assert asked() == asked() == signum
        assert Interrupted(asked()).status == 128 + signum


@every_signal
@pytest.mark.parametrize("first", SIGNALS)
def test_a_second_signal_does_at_once_what_it_did_before_also_another_one(before, first, signum):
    with pytest.raises(Ended, match=str(int(signum))), interruptions() as asked:
        signal.raise_signal(first)
        before[0] += REPEATED + 0.01
        signal.raise_signal(signum)
        raise AssertionError("it went on")
    assert asked() == first


@every_signal
def test_the_same_signal_twice_in_a_moment_is_one_request(before, signum):
    with interruptions() as asked:
        signal.raise_signal(signum)
        before[0] += REPEATED - 0.01
        signal.raise_signal(signum)
        assert asked() == signum


@every_signal
def test_handlers_are_put_back_whatever_happens(before, signum):
    for what in (lambda: None, lambda: signal.raise_signal(signum), lambda: 1 // 0):
        try:
            with interruptions():
                what()
        except ZeroDivisionError:
            pass
        with pytest.raises(Ended):
            signal.raise_signal(signum)


@every_signal
def test_an_ignored_signal_stays_ignored(before, signum):
    signal.signal(signum, signal.SIG_IGN)
    with interruptions() as asked:
        signal.raise_signal(signum)
        assert asked() == 0 and signal.getsignal(signum) == signal.SIG_IGN
    assert signal.getsignal(signum) == signal.SIG_IGN


def test_another_thread_gets_no_signals_and_touches_no_handler(before):
    found = []

    def work():
        with interruptions() as asked:
            found.append((asked(), [signal.getsignal(s) for s in SIGNALS]))

    handlers = [signal.getsignal(s) for s in SIGNALS]
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [(0, handlers)] and [signal.getsignal(s) for s in SIGNALS] == handlers


SCRIPT = """
import pathlib, sys, time
from minillm.training.interruption import Interrupted, interruptions
try:
    with interruptions() as asked:
        print("ready", file=sys.stderr, flush=True)
        while not asked():
            time.sleep(0.01)
        for stream in (sys.stdout, sys.stderr):
            print("a last line", file=stream, flush=True)
        pathlib.Path(sys.argv[1]).write_text("saved")
        raise Interrupted(asked())
except Interrupted as e:
    print("one more", flush=True)
    sys.exit(e.status)
"""


@pytest.mark.parametrize("kind", ["terminal", "pipe"])
def test_what_is_saved_after_a_terminal_was_closed_is_saved(tmp_path, kind):
    near, far = pty.openpty() if kind == "terminal" else os.pipe()
    lead = (lambda: ioctl(1, termios.TIOCSCTTY, 0)) if kind == "terminal" else None
    root = Path(__file__).resolve().parents[2]
    command = [sys.executable, "-c", SCRIPT, str(tmp_path / "file")]
    process = subprocess.Popen(command, cwd=root, stdout=far, stderr=far, start_new_session=True, preexec_fn=lead)
    os.close(far)
    assert os.read(near, 99).startswith(b"ready")
    os.close(near)  # which the kernel tells the leader of a terminal's session
    if kind == "pipe":
        process.send_signal(signal.SIGHUP)
    assert process.wait(timeout=30) == 129
    assert (tmp_path / "file").read_text() == "saved"
