"""Prefix reuse for one conversation: keep the model's state between completions, and read only what is new.

The prompt of the next turn repeats the whole conversation, so most of it has been read already. The state that wrote
the last answer is cut back to the longest common prefix of what it has read and the new prompt, and reads on from
there. A state that cannot take tokens back (a recurrent one) serves if the prompt continues all that it has read;
otherwise reading starts anew. The text is that of a fresh state. `cache/prefix.py` does the same for many requests at
once. Read before: `model`.
"""

import contextlib
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch

from minillm.decoding.generate import generate
from minillm.decoding.rows import Completion
from minillm.decoding.sampler import SamplingConfig
from minillm.decoding.stopping import Stop
from minillm.models.language_model import State
from minillm.text.model import TextCompletion, TextModel


class Work(NamedTuple):
    """The cost of a completion."""

    n_reused: int  # tokens of the prompt that the state had read
    n_read: int  # tokens of the prompt that were read now
    n_written: int
    first: float  # seconds to the first token, the reading included
    seconds: float  # to the last token


class KeptState:
    """A text model with the state of its last completion. The weights may not change meanwhile."""

    def __init__(self, text: TextModel):
        self.text = text
        self.ids: list[int] = []  # what the state has read
        self.state: State | None = None

    def generate(
        self,
        ids: Sequence[int],
        sampling: SamplingConfig,
        *,
        max_new_tokens: int,
        seed: int,
        stop: Sequence[str] = (),
        show: Callable[[str], object] | None = None,
        stopped: Callable[[], bool] = lambda: False,
    ) -> tuple[TextCompletion, Work]:
        """The completion of a prompt, as `TextModel.generate`, and what it took.

        `stopped` is asked after each token; True ends the text there, with the reason "stop".
        """
        began = time.perf_counter()
        state = self._take(ids)
        n_reused, drawn, watched = int(state.lengths[0]), [Completion()], Watched(stopped)

        def write(*args: object, stops: Sequence[Stop], **how: object) -> list[Completion]:
            [watched.stop] = stops
            drawn[:] = generate(*args, stops=[watched], **how)
            return drawn

        how = {"max_new_tokens": max_new_tokens, "seeds": [seed], "stop": stop, "show": show}
        [found] = self.text.generate([ids], sampling, **how, write=write, start=lambda n_rows: state)
        ended = time.perf_counter()
        self.state, self.ids = state, [*ids, *drawn[0].tokens][: int(state.lengths[0])]
        first = (watched.first or ended) - began
        return found, Work(n_reused, len(ids) - n_reused, found.n_tokens, first, ended - began)

    @torch.inference_mode()
    def _take(self, ids: Sequence[int]) -> State:
        """A state that has read the beginning of a prompt, but not its last token."""
        # subtle: given away until the text is complete, because an interrupted one may have read half a token
        state, self.state = self.state, None
        n_shared = common(self.ids, ids[:-1])
        if state is not None and n_shared == len(self.ids):
            return state
        if state is not None and state.rollback == "truncate":
            with contextlib.suppress(ValueError):  # it has forgotten tokens that the prefix needs
                state.truncate(state.lengths.new_tensor([n_shared]))
                return state
        make = self.text.start([ids]) or self.text.writer.start
        return make(1)


class Watched:
    """A `Stop` that passes on to another one, ends the text when asked to, and notes the time of the first token."""

    stop: Stop

    def __init__(self, stopped: Callable[[], bool]):
        self.stopped = stopped
        self.first: float | None = None

    def push(self, token: int) -> bool:
        """See `Stop.push`."""
        self.first = self.first or time.perf_counter()
        return self.stop.push(token) or self.stopped()

    def finish(self) -> bool:
        """See `Stop.finish`."""
        return self.stop.finish()


def common(a: Sequence[int], b: Sequence[int]) -> int:
    """Length of the longest common prefix.

    >>> common([1, 2, 3, 4], [1, 2, 5])
    2
    """
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
