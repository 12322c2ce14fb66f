"""A request: a prompt, and how it wants to be continued. A job: how far the engine has come with it.

A request carries everything that its completion depends on: prompt, sampling, seed, limits. Its i-th new token is drawn
with the i-th number of its own generator, whoever runs beside it and however often it had to wait. So a job that lost
its memory needs nothing but its text to go on: it reads the text again and draws where it stopped.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from minillm.cache.paged import PageTable
from minillm.decoding.rows import Completion, Event, Limit
from minillm.decoding.sampler import SamplingConfig, seeded
from minillm.decoding.stopping import Stop


@dataclass(frozen=True)
class Request:
    """A request to the engine: a prompt, sampling settings, limits and a seed."""

    prompt: Sequence[int]  # one token at least
    max_new_tokens: int
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    seed: int = 0
    stop: Stop | None = None  # watches the new tokens; one for each request
    logprobs: bool = False  # keep the logprob of each draw under the untransformed model, in nats
    show: Callable[[Event], object] | None = None  # is told every event of this request, between two steps


class Job:
    """A request in the engine's hands."""

    def __init__(self, number: int, request: Request, limit: Limit):
        """`limit`: how many tokens may be added, and the reason why it ends there."""
        self.number, self.request, self.limit = number, request, limit  # numbers count up with arrival
        self.completion = Completion()  # its reason may also be "cancelled", or "failed" where no token could be drawn
        self.text = np.empty(
            len(request.prompt) + limit[0], dtype=np.int64
        )  # prompt and new tokens, of which the first n_text are there
        self.text[: len(request.prompt)] = request.prompt
        self.n_text = len(request.prompt)
        self.table: PageTable | None = None  # None: it waits
        self.chain: list[bytes] = []  # digests of its full pages
        generator = seeded([request.seed])[0]
        self.uniforms = torch.rand(
            limit[0], generator=generator, dtype=torch.float64
        ).tolist()  # as if drawn one at a time

    @property
    def n_read(self) -> int:
        """Tokens of the text whose keys and values are in its pages."""
        return self.table.length if self.table else 0

    @property
    def n_unread(self) -> int:
        """Tokens that must be read before the next one can be drawn."""
        return self.n_text - self.n_read

    @property
    def n_new(self) -> int:
        """Tokens that it has written."""
        return self.n_text - len(self.request.prompt)

    def write(self, token: int) -> None:
        """Append a token to the text."""
        self.text[self.n_text] = token
        self.n_text += 1
