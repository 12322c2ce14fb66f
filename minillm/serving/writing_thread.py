"""Writing thread: the part that all workers share, one thread that owns a model and writes the texts of orders.

Other threads reach it through a mailbox. Its end is told to every text that has not ended, and later orders are
refused. A subclass says how texts are written. Read before: `worker`, `mailbox`.
"""

import logging
from abc import ABC, abstractmethod
from collections.abc import Iterable
from functools import partial
from threading import Thread

from minillm.serving.errors import ApiError
from minillm.serving.mailbox import Mailbox
from minillm.serving.worker import STOPPING, Load, News, Tell, TextOrder, Ticket, worker_ended

log = logging.getLogger(__name__)


class WritingThread(ABC):
    """A `Worker` whose texts are written by one thread."""

    load: Load

    def __init__(self, name: str):
        """Start the thread; a subclass calls this last."""
        self.mailbox, self.closing = Mailbox(), False
        self.ended: ApiError | None = None  # why it writes no more
        self.thread = Thread(target=self._run, name=name, daemon=True)
        self.thread.start()

    @property
    def alive(self) -> bool:
        """See `Worker.alive`."""
        return self.thread.is_alive()

    def submit(self, order: TextOrder, tell: Tell) -> Ticket:
        """See `Worker.submit`."""
        ticket = Ticket(order, tell)
        self.mailbox.put(partial(self._receive, ticket))
        return ticket

    def cancel(self, ticket: Ticket) -> None:
        """See `Worker.cancel`."""
        if not ticket.ended:
            self.mailbox.put(partial(self._cancel, ticket))

    def close(self) -> None:
        """See `Worker.close`."""
        self.mailbox.put(self._close)
        self.thread.join()

    @abstractmethod
    def _busy(self) -> bool:
        """Whether there is a text to write."""

    @abstractmethod
    def _write(self) -> None:
        """Write on: one step, or one text."""

    @abstractmethod
    def _load(self) -> Load:
        """The current load."""

    @abstractmethod
    def _add(self, ticket: Ticket) -> None:
        """Take an order."""

    @abstractmethod
    def _cancel(self, ticket: Ticket) -> None:
        """End a text about which nothing more is told."""

    @abstractmethod
    def _tickets(self) -> Iterable[Ticket]:
        """The tickets of all texts that have not ended."""

    def _run(self) -> None:
        ended = worker_ended()
        try:
            while not self.closing:
                self.mailbox.work(wait=not self._busy())
                if self._busy():
                    self._write()
                self.load = self._load()
            ended = STOPPING
        except Exception:
            log.exception("the thread %s failed, and no text is written any more", self.thread.name)
        finally:
            self.ended = ended
            for ticket in [*self._tickets()]:  # not cancelled: the model may be broken, and nobody uses it any more
                self._refuse(ticket, ended)
            self.mailbox.leave()

    def _receive(self, ticket: Ticket) -> None:
        if self.ended is None:
            self._add(ticket)
        else:
            self._refuse(ticket, self.ended)

    def _close(self) -> None:
        self.closing = True

    def _refuse(self, ticket: Ticket, error: ApiError) -> None:
        """Tell of a failure, unless the text has ended."""
        if not ticket.ended:
            ticket.ended = True
            ticket.tell(News(error=error))
