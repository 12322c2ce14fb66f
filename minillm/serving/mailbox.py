"""Mailbox: calls from any thread, made by the one thread that owns an object (the actor model, Hewitt 1973).

An object that is not thread-safe needs no lock if only one thread touches it. Other threads put calls into its mailbox.
The owner makes them between two steps of its work; while it has no work, it sleeps until a call comes.
"""

from collections.abc import Callable
from queue import Empty, SimpleQueue


class Mailbox:
    """A queue of calls."""

    def __init__(self) -> None:
        self.calls: SimpleQueue[Callable[[], object]] = SimpleQueue()
        self.left = False  # the owner makes no more calls

    def put(self, call: Callable[[], object]) -> None:
        """Leave a call, from any thread."""
        self.calls.put(call)
        if self.left:
            self.work(wait=False)

    def work(self, wait: bool) -> None:
        """Make all calls that have come, in order; with `wait`, sleep until there is one. Only the owner's thread."""
        try:
            while True:
                self.calls.get(block=wait)()
                wait = False
        except Empty:
            return

    def leave(self) -> None:
        """Make all calls that have come; later ones are made by the thread that puts them. The owner ends with it."""
        self.left = True  # subtle: first, so that a call that comes now is made by one thread or the other
        self.work(wait=False)
