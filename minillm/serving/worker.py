"""Workers: a worker writes the texts that requests order, in a thread of its own, and tells about them as they grow.

The event loop of the server must never wait for a model, and no model may be used by two threads at once. So orders
and cancellations cross to the worker's thread, and news cross back. There are two workers: `engine_worker` writes many
texts at once by continuous batching, and `single_worker` writes one after the other, for models that the engine cannot
serve. Both write what `generate` writes for the same order alone.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from minillm.decoding.sampler import SamplingConfig
from minillm.decoding.transforms import Transform
from minillm.serving.errors import ApiError
from minillm.text.model import Prompt


@dataclass(frozen=True)
class TextOrder:
    """One text to write."""

    prompt: Prompt
    max_new_tokens: int
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    seed: int = 0
    stop: tuple[str, ...] = ()
    first: tuple[Transform, ...] = ()  # transforms before those of `sampling`
    logprobs: bool = False  # tell of each token, with its logprob under the untransformed model
    n_top: int = 0  # with logprobs: the most probable tokens beside each
    eager: bool = False  # tell of each piece at once; otherwise only of the whole text at its end
    adapter: str | None = None  # name of the adapter that writes; None: the model without one


class Drawn(NamedTuple):
    """A token of a text, with its place and its probability."""

    begin: int  # characters of the text before it
    token: int
    logprob: float  # nats
    top: tuple[tuple[int, float], ...]


class News(NamedTuple):
    """An event of a text: more of it, its end, or its failure."""

    text: str = ""
    drawn: tuple[Drawn, ...] = ()  # the tokens of this piece, if the order asks for logprobs
    reason: str | None = None  # why it ended (see `Reason`); None: it goes on
    n_drawn: int = 0  # tokens drawn so far, the one that ended it included
    first_at: float = 0.0  # time.perf_counter() of its first token
    error: ApiError | None = None  # it failed, and there is no more news


STOPPING = ApiError(503, "the server stops; ask again later", code="stopping", headers={"retry-after": "5"})


def worker_ended() -> ApiError:
    """The refusal of a worker whose thread has ended."""
    return ApiError(503, "the worker of this server has ended; start the server again", code="worker_ended")


Tell = Callable[[News], object]


class Load(NamedTuple):
    """The numbers of texts and of pages of a worker."""

    running: int
    waiting: int
    pages_free: int = 0
    pages: int = 0  # 0: the worker has no pages


class Ticket:
    """An order that was handed in."""

    def __init__(self, order: TextOrder, tell: Tell):
        self.order, self.tell = order, tell
        self.ended = False  # set by the worker, after which nothing more is told


class Worker(Protocol):
    """Writes texts in a thread of its own. All methods may be called from any thread."""

    load: Load  # after the last step

    @property
    def alive(self) -> bool:
        """Whether its thread runs."""
        ...

    def submit(self, order: TextOrder, tell: Tell) -> Ticket:
        """Hand in an order; `tell` is called in the worker's thread (at once if that has ended), and may not raise."""
        ...

    def cancel(self, ticket: Ticket) -> None:
        """Stop writing after the current step, and tell no more; does nothing for a text that has ended."""
        ...

    def close(self) -> None:
        """End all texts with an error, and the thread."""
        ...
