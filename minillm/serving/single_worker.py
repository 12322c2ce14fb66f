"""Single worker: one thread writes one text after the other with `generate`, for every kind of model.

A recurrent state has no pages, and the memory of an encoder belongs to one source. So these models, and n-gram tables,
are not served by the engine; clients notice only that they wait for each other. Read before: `writing_thread`,
`telling`, `decoding/generate.py`.
"""

import logging
from collections import deque
from collections.abc import Iterable, Sequence
from functools import partial

from torch import Tensor

from minillm.decoding.generate import stream
from minillm.decoding.rows import Completion, most_probable
from minillm.decoding.sampler import Sampler
from minillm.models.language_model import LanguageModel
from minillm.serving.errors import ApiError
from minillm.serving.telling import Telling
from minillm.serving.worker import STOPPING, Load, Ticket
from minillm.serving.writing_thread import WritingThread
from minillm.text.model import TextModel

log = logging.getLogger(__name__)


class SingleWorker(WritingThread):
    """A `Worker` for any text model."""

    def __init__(self, text: TextModel):
        self.text = text
        self.waiting = deque[Ticket]()
        self.current: Ticket | None = None
        self.load = Load(0, 0)
        super().__init__("writer")

    def _busy(self) -> bool:
        return bool(self.waiting)

    def _tickets(self) -> Iterable[Ticket]:
        return ([self.current] if self.current else []) + [*self.waiting]

    def _add(self, ticket: Ticket) -> None:
        self.waiting.append(ticket)

    def _load(self) -> Load:
        return Load(int(self.current is not None), len(self.waiting))

    def _write(self) -> None:
        self.current = ticket = self.waiting.popleft()
        order = ticket.order
        how = {"max_new_tokens": order.max_new_tokens, "seeds": [order.seed]}
        try:
            self.text.generate([order.prompt], order.sampling, **how, write=partial(self._tell, ticket))
        except ValueError as error:
            self._refuse(ticket, ApiError(400, str(error)))
        except Exception as error:
            log.exception("a text failed")
            self._refuse(ticket, ApiError(500, f"the model failed: {error}", code="model_failed"))
        self.current = None

    def _tell(
        self,
        ticket: Ticket,
        model: LanguageModel,
        prompts: Sequence[Sequence[int]],
        sampler: Sampler,
        *,
        stops: object,
        **how: object,
    ) -> list[Completion]:
        """A `generate` for one text, which tells of it and can be cancelled; `stops` is replaced."""
        telling, watch = Telling(ticket.order, self.text.tokenizer, ticket.tell), Watch(ticket.order.n_top)
        watching = [watch] if ticket.order.n_top else []
        sampler = Sampler([*watching, *ticket.order.first, *sampler.pipeline])
        for [event] in stream(model, prompts, sampler, stops=[telling], **how):
            ticket.ended = ticket.ended or event.reason is not None
            telling.hear(event._replace(top=watch.top))
            self.load = self._load()
            self.mailbox.work(wait=False)
            if ticket.ended:
                break
        return [Completion()]

    def _cancel(self, ticket: Ticket) -> None:
        ticket.ended = True
        if ticket in self.waiting:
            self.waiting.remove(ticket)

    def _close(self) -> None:
        super()._close()
        for ticket in self._tickets():  # also the text that is being written, which ends here
            self._refuse(ticket, STOPPING)


class Watch:
    """A `Transform` that changes nothing, and keeps the most probable tokens of the logits of one text."""

    def __init__(self, n: int):
        self.n = n
        self.top: tuple[tuple[int, float], ...] = ()

    def __call__(self, logits: Tensor, history: Tensor) -> Tensor:
        [self.top] = most_probable(logits, self.n)
        return logits
