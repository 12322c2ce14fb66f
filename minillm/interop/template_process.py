"""A process that renders templates: started by the first request, kept for the next ones, and ended when it is late.

Read before: `template_worker`, the program that it runs.
"""

import contextlib
import importlib.util
import json
import os
import select
import subprocess
import sys
import threading
import time
import weakref
from pathlib import Path
from typing import Any

from minillm.interop.template_worker import LINE, MEMORY, SECONDS

WORKER = Path(__file__).with_name("template_worker.py")
STARTING = 30  # seconds for the process to start, on a machine with much else to do


class TemplateProcess:
    """Sends requests to the process; starts it where needed. Several threads may ask, one at a time."""

    def __init__(self):
        self.lock = threading.Lock()
        self.running: _Running | None = None

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """The answer to one request: {"text": ...} or {"error": ...}. Raises ValueError where it cannot be asked."""
        with self.lock:
            if self.running is None or self.running.process.poll() is not None:
                self.running = _Running()
            running, self.running = self.running, None
            answer = running.ask(request, SECONDS)
            if "last" in answer:
                running.end()
            else:
                self.running = running
            return answer


class _Running:
    """A running process."""

    def __init__(self):
        if sys.platform == "win32":
            raise ValueError("template: expected Linux or macOS, since Windows cannot limit the memory of a process")
        if importlib.util.find_spec("jinja2") is None:
            raise ValueError('template: expected the package jinja2 to render it; pip install "minillm[interop]"')
        # subtle: without an environment; of no session of the terminal, whose Ctrl-C is not for it; -E and -P, so that
        # neither variables nor the present folder choose what is imported
        self.process = subprocess.Popen(
            [sys.executable, "-E", "-P", str(WORKER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={},
            cwd="/",
            start_new_session=True,
        )
        self.end = weakref.finalize(self, _end, self.process)
        self.read = b""
        answer = self._answer(STARTING)
        if "error" in answer:
            self.end()
            raise ValueError(f"template: expected a process to render it, found none: {answer['error']}")

    def ask(self, request: dict[str, Any], seconds: float) -> dict[str, Any]:
        """The answer to one request."""
        try:
            self.process.stdin.write(json.dumps(request).encode() + b"\n")
            self.process.stdin.flush()
        except OSError:
            return _ended()
        return self._answer(seconds)

    def _answer(self, seconds: float) -> dict[str, Any]:
        """The next answer, or an error with "last" where there is none in time."""
        pipe, until = self.process.stdout.fileno(), time.monotonic() + seconds
        ready = select.poll()
        ready.register(pipe, select.POLLIN)
        pieces: list[bytes] = []
        size = 0
        while not (pieces and pieces[-1].endswith(b"\n")):
            left = until - time.monotonic()
            if left <= 0 or not ready.poll(1000 * left):
                return {"error": f"it needs more than {seconds:g} s", "last": True}
            pieces.append(os.read(pipe, 2**16))
            size += len(pieces[-1])
            if not pieces[-1]:
                return _ended()
            if size > LINE:
                return {"error": f"its answer has more than {LINE // 2**20} MB", "last": True}
        try:
            return dict(json.loads(b"".join(pieces)))
        except (ValueError, TypeError):
            return {"error": "its process answered what cannot be read", "last": True}


def _ended() -> dict[str, Any]:
    """The error of a process that ended by itself."""
    return {"error": f"it needs more than {SECONDS} s or {MEMORY // 2**20} MB of memory", "last": True}


def _end(process: subprocess.Popen) -> None:
    """End a process and close its pipes."""
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        with contextlib.suppress(OSError):  # a request that was not read to its end
            pipe.close()
