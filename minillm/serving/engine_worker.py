"""Engine worker: one thread owns the engine of continuous batching and steps it while there is a text to write.

Orders join the batch between two steps, and so a client that leaves frees its slot and its pages after the step that
runs. If the model raises in a step (out of memory, say), the texts of that step fail, and the next ones are served.
Read before: `writing_thread`, `telling`, `engine/engine.py`.
"""

import logging
from collections.abc import Iterable, Mapping
from functools import partial
from types import MappingProxyType

from minillm.decoding.rows import Event
from minillm.engine.engine import Engine
from minillm.engine.request import Job, Request
from minillm.serving.errors import ApiError
from minillm.serving.telling import Telling
from minillm.serving.worker import Load, Ticket
from minillm.serving.writing_thread import WritingThread
from minillm.text.model import TextModel

log = logging.getLogger(__name__)


class EngineWorker(WritingThread):
    """A `Worker` for decoders."""

    def __init__(
        self,
        text: TextModel,
        adapters: Mapping[str, TextModel] = MappingProxyType({}),
        *,
        max_running: int = 16,
        n_pages: int = 256,
        page_size: int = 16,
    ):
        """Arguments as of `Engine`; all texts have one tokenizer. Raises ValueError for models that it cannot serve."""
        model, tokenizer = text.writer, text.tokenizer
        self.text = text
        self.engine = Engine(
            model,
            n_pages=n_pages,
            page_size=page_size,
            max_running=max_running,
            end_id=tokenizer.end_id,
            stop_ids=tokenizer.stop_ids,
            vocab_size=tokenizer.vocab_size if tokenizer.vocab_size < model.vocab_size else None,
            adapters={name: adapted.writer for name, adapted in adapters.items()},
        )
        self.jobs = dict[Ticket, Job]()
        self.load = self._load()
        super().__init__("engine")

    def _busy(self) -> bool:
        return self.engine.busy

    def _tickets(self) -> Iterable[Ticket]:
        return self.jobs

    def _write(self) -> None:
        try:
            self.engine.step()
        except Exception as error:
            log.exception("a step of the engine failed, and so do its texts")
            self._fail(ApiError(500, f"the model failed: {error}", code="model_failed"))

    def _load(self) -> Load:
        scheduler, pool = self.engine.scheduler, self.engine.pool
        return Load(len(scheduler.running), len(scheduler.waiting), pool.n_free, pool.n_pages)

    def _add(self, ticket: Ticket) -> None:
        try:
            self.jobs[ticket] = self.engine.add(self._request(ticket))
        except ValueError as error:
            self._refuse(ticket, ApiError(400, str(error)))
        except Exception as error:
            log.exception("a text could not be begun")
            self._refuse(ticket, ApiError(500, f"the text could not be begun: {error}", code="text_failed"))

    def _request(self, ticket: Ticket) -> Request:
        order = ticket.order
        telling = Telling(order, self.text.tokenizer, ticket.tell)
        return Request(
            self.text.encode(order.prompt),
            order.max_new_tokens,
            order.sampling,
            order.seed,
            order.adapter,
            stop=telling,
            logprobs=order.logprobs,
            n_top=order.n_top,
            first=order.first,
            show=partial(self._hear, ticket, telling),
        )

    def _hear(self, ticket: Ticket, telling: Telling, event: Event) -> None:
        # subtle: a text that may have no token has ended when it is added, and can be cancelled before it is told of
        if ticket.ended:
            return
        if event.reason is not None:
            ticket.ended = True
            del self.jobs[ticket]
        telling.hear(event)

    def _cancel(self, ticket: Ticket) -> None:
        if ticket in self.jobs:
            ticket.ended = True
            self.engine.cancel(self.jobs.pop(ticket))

    def _fail(self, error: ApiError) -> None:
        for ticket in [*self.jobs]:
            self._refuse(ticket, error)
            self.engine.cancel(self.jobs.pop(ticket))
