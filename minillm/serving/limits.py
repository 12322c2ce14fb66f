"""Limits of a server: how much it does at once, and how long it waits."""

from dataclasses import dataclass

from minillm.config.fields import Count, Positive, validate


@dataclass(frozen=True)
class Limits:
    """Limits of the work and the memory of a server."""

    max_running: Positive = 16  # texts that are written at once
    max_waiting: Count = 64  # texts that may wait; a request for more is answered with 429
    pages: Count = 0  # pages of 16 tokens in the KV cache; 0: enough for some full contexts
    body_bytes: Positive = 2**20  # most bytes in the body of a request
    read_seconds: Positive = 10  # most time for the header of a request, and again for its body
    send_seconds: Positive = 60  # most time for a client to take a piece of its answer
    stop_seconds: Positive = 60  # most time for running texts to end when the server stops

    def __post_init__(self) -> None:
        validate(self)

    @property
    def most_open(self) -> int:
        """The number of texts that run or wait."""
        return self.max_running + self.max_waiting
