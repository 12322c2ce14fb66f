"""Ctrl-C, or another signal, at a chosen moment."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager

import pytest


@contextmanager
def ctrl_c_after(step_class: type, n: int, signum: signal.Signals = signal.SIGINT) -> Iterator[None]:
    """While it lasts, the n-th step of a class of steps is interrupted as it ends."""
    original = step_class.__call__

    def press(self, batch):
        metrics = original(self, batch)
        if self.n_steps == n:
            signal.raise_signal(signum)
        return metrics

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(step_class, "__call__", press)
        yield
