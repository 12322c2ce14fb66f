"""Request: a prompt with its sampling settings, limits and seed. Job: a request and its progress in the engine.

A completion depends only on its request. The i-th new token is drawn with the i-th number of the request's own random
generator, whatever other requests run in the batch and however often the job is preempted. So a preempted job, which
loses its pages, needs only its text to continue: it reads the text again and draws the next token.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from hashlib import sha256

import numpy as np
import torch

from minillm.cache.paged import PageTable
from minillm.decoding.rows import Completion, Event, Limit
from minillm.decoding.sampler import SamplingConfig, seeded
from minillm.decoding.stopping import Stop
from minillm.decoding.transforms import Transform


@dataclass(frozen=True)
class Request:
    """A request to the engine: a prompt, sampling settings, limits and a seed."""

    prompt: Sequence[int]  # at least one token
    max_new_tokens: int
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    seed: int = 0
    adapter: str | None = None  # name of the engine's adapter that writes; None: the model without one
    stop: Stop | None = None  # watches the new tokens; one for each request
    logprobs: bool = False  # keep the logprob of each draw under the untransformed model, in nats
    n_top: int = 0  # each event has this many of the untransformed model's most probable tokens, with logprobs
    first: tuple[Transform, ...] = ()  # transforms of its own, before those of `sampling`; they can be hashed
    show: Callable[[Event], object] | None = None  # called with every event of this request, at the end of a step


class Job:
    """The progress of one request in the engine."""

    def __init__(self, number: int, request: Request, limit: Limit):
        """`number`: order of arrival. `limit`: how many tokens may be added, and the reason for ending there."""
        self.number, self.request, self.limit = number, request, limit
        self.completion = Completion()  # reason: also "cancelled", or "failed" if no token could be drawn
        # prompt and new tokens; the first n_text are filled in
        self.text = np.empty(len(request.prompt) + limit[0], dtype=np.int64)
        self.text[: len(request.prompt)] = request.prompt
        self.n_text = len(request.prompt)
        self.table: PageTable | None = None  # None: the job is waiting
        self.chain: list[bytes] = []  # digests of its full pages
        self.origin = b"" if request.adapter is None else sha256(request.adapter.encode()).digest()
        generator = seeded([request.seed])[0]
        # the same numbers as one draw at a time would give
        self.uniforms = torch.rand(limit[0], generator=generator, dtype=torch.float64).tolist()

    @property
    def n_read(self) -> int:
        """Number of tokens with keys and values in the job's pages."""
        return self.table.length if self.table else 0

    @property
    def n_unread(self) -> int:
        """Number of tokens to read before the next one can be drawn."""
        return self.n_text - self.n_read

    @property
    def n_new(self) -> int:
        """Number of new tokens."""
        return self.n_text - len(self.request.prompt)

    def write(self, token: int) -> None:
        """Append a token to the text."""
        self.text[self.n_text] = token
        self.n_text += 1
