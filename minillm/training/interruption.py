"""Interrupting a training run: Ctrl-C (SIGINT), the end of a batch job (SIGTERM), a closed terminal (SIGHUP).

The first signal is recorded. The loop checks for it after each step, so the current step is finished and saved. A
second signal has its usual effect and ends the process at once. A signal that was ignored before, as under `nohup`,
stays ignored.
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
REPEATED = 0.25  # seconds; `timeout` and a closing shell send a signal twice, which counts as one request


class Interrupted(KeyboardInterrupt):
    """Raised after a signal requested a stop and everything was saved; `status` is the exit status."""

    def __init__(self, signum: int):
        super().__init__(f"stopped by {signal.Signals(signum).name}, all saved")
        self.status = 128 + signum  # as shells report for a process that was ended by a signal


@contextmanager
def interruptions() -> Iterator[Callable[[], int]]:
    """Catch stop signals; gives a function that returns the number of the first signal, or 0 before there is one.

    Only the main thread receives signals. If stdout or stderr is closed, for example with its terminal, output to it is
    discarded from then on.
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
            _leave_what_is_closed()  # once more, since the reader of a pipe may end a little later
        return asked[0] if asked else 0

    before = {s: signal.getsignal(s) for s in signal.Signals if s.name in STOPPING}
    # subtle: a handler that is None was not set by Python, so Python could not restore it
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
    """Redirect stdout or stderr to /dev/null if it is closed: printing would raise OSError before the run is saved."""
    poll = select.poll()
    for stream in (1, 2):
        poll.register(stream, 0)  # with an event mask of 0, poll reports only errors
    for stream, _ in poll.poll(0):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
