"""Stopping a training from outside: Ctrl-C (SIGINT), the end of a batch job (SIGTERM), a closed terminal (SIGHUP).

The first signal is remembered and the loop asks for it between two steps, so that the step at hand is finished and
saved. A second one does what it would do without this file: it ends the process at once. A signal that is ignored, as
`nohup` has it, stays ignored.
"""

import os
import select
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

STOPPING = ("SIGINT", "SIGTERM", "SIGHUP")  # Windows has no SIGHUP
REPEATED = 0.25  # seconds; `timeout` and a shell that closes send the same signal twice, which is one request


class Interrupted(KeyboardInterrupt):
    """A signal asked to stop, and everything was saved."""

    def __init__(self, signum: int):
        super().__init__(f"stopped by {signal.Signals(signum).name}, all saved")
        self.status = 128 + signum  # what a shell reports for a process that a signal ended


@contextmanager
def interruptions() -> Iterator[Callable[[], int]]:
    """A function that returns the number of the signal that asked to stop, 0 before there is one. Only the main thread gets signals.

    Where nobody can read what is printed any more, as after a terminal was closed, it goes nowhere from then on.
    """
    asked: list[int] = []
    ends_from = 0.0  # when a further signal is a second request

    def remember(signum: int, frame: Any) -> None:
        nonlocal ends_from
        if not asked:
            asked.append(signum)
            ends_from = time.monotonic() + REPEATED
            _leave_what_is_closed()
        elif time.monotonic() > ends_from:
            signal.signal(signum, before[signum])
            signal.raise_signal(signum)

    def asked_by() -> int:
        if asked:
            _leave_what_is_closed()  # once more, since what reads a pipe may end a little later
        return asked[0] if asked else 0

    before = {s: signal.getsignal(s) for s in signal.Signals if s.name in STOPPING}
    # subtle: a handler that is None was not set by Python, so it could not be put back
    before = {s: handler for s, handler in before.items() if handler not in (signal.SIG_IGN, None)}
    if threading.current_thread() is not threading.main_thread():
        before = {}
    for each in before:
        signal.signal(each, remember)
    try:
        yield asked_by
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def _leave_what_is_closed() -> None:
    """Send what is printed nowhere if nobody can read it: printing to a closed terminal would raise OSError before the run is saved."""
    poll = select.poll()
    for stream in (1, 2):
        poll.register(stream, 0)  # asked for nothing, it reports only errors
    for stream, _ in poll.poll(0):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
