"""Single worker: one thread writes one text after the other with `generate`, for every kind of model.

A recurrent state has no pages, and the memory of an encoder belongs to one source. So these models, and n-gram tables,
are not served by the engine; clients notice only that they wait for each other. Read before: `worker`, `mailbox`,
`telling`, `decoding/generate.py`.
"""

import logging
from collections import deque
from collections.abc import Sequence
from functools import partial
from threading import Thread

from torch import Tensor

from minillm.decoding.generate import stream
from minillm.decoding.rows import Completion, most_probable
from minillm.decoding.sampler import Sampler
from minillm.models.language_model import LanguageModel
from minillm.serving.errors import ApiError
from minillm.serving.mailbox import Mailbox
from minillm.serving.telling import Telling
from minillm.serving.worker import STOPPING, Load, News, Tell, TextOrder, Ticket, worker_ended
from minillm.text.model import TextModel

log = logging.getLogger(__name__)


class SingleWorker:
    """A `Worker` for any text model."""

    def __init__(self, text: TextModel):
        self.text = text
        self.mailbox, self.closing = Mailbox(), False
        self.waiting = deque[Ticket]()
        self.current: Ticket | None = None
        self.ended: ApiError | None = None  # why it writes no more
        self.load = Load(0, 0)
        self.thread = Thread(target=self._run, name="writer", daemon=True)
        self.thread.start()

    @property
    def alive(self) -> bool:
        """See `Worker.alive`."""
        return self.thread.is_alive()

    def submit(self, order: TextOrder, tell: Tell) -> Ticket:
        """See `Worker.submit`."""
        ticket = Ticket(order, tell)
        self.mailbox.put(partial(self._add, ticket))
        return ticket

    def cancel(self, ticket: Ticket) -> None:
        """See `Worker.cancel`."""
        if not ticket.ended:
            self.mailbox.put(partial(self._cancel, ticket))

    def close(self) -> None:
        """See `Worker.close`."""
        self.mailbox.put(self._close)
        self.thread.join()

    def _run(self) -> None:
        ended = worker_ended()
        try:
            while not self.closing:
                self.mailbox.work(wait=not self.waiting)
                if self.waiting:
                    self.current = self.waiting.popleft()
                    self._write(self.current)
                    self.current = None
                self.load = self._load()
            ended = STOPPING
        except Exception:
            log.exception("the thread of the writer failed, and no text is written any more")
        finally:
            self.ended = ended
            self._fail_all(ended)
            self.mailbox.leave()

    def _add(self, ticket: Ticket) -> None:
        if self.ended is None:
            self.waiting.append(ticket)
        else:
            self._fail(ticket, self.ended)

    def _load(self) -> Load:
        return Load(int(self.current is not None), len(self.waiting))

    def _write(self, ticket: Ticket) -> None:
        order = ticket.order
        how = {"max_new_tokens": order.max_new_tokens, "seeds": [order.seed]}
        try:
            self.text.generate([order.prompt], order.sampling, **how, write=partial(self._tell, ticket))
        except ValueError as error:
            self._fail(ticket, ApiError(400, str(error)))
        except Exception as error:
            log.exception("a text failed")
            self._fail(ticket, ApiError(500, f"the model failed: {error}", code="model_failed"))

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
        self.closing = True
        self._fail_all(STOPPING)

    def _fail_all(self, error: ApiError) -> None:
        for ticket in ([self.current] if self.current else []) + [*self.waiting]:
            self._fail(ticket, error)

    def _fail(self, ticket: Ticket, error: ApiError) -> None:
        if not ticket.ended:
            self._cancel(ticket)
            ticket.tell(News(error=error))


class Watch:
    """A `Transform` that changes nothing, and keeps the most probable tokens of the logits of one text."""

    def __init__(self, n: int):
        self.n = n
        self.top: tuple[tuple[int, float], ...] = ()

    def __call__(self, logits: Tensor, history: Tensor) -> Tensor:
        [self.top] = most_probable(logits, self.n)
        return logits
