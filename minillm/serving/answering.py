"""Answering: hand the texts of a request to the worker, and send what it tells, whole or as server-sent events.

Every way out of a request passes one `finally`: the answer was sent, the client left, the server stops, or something
failed. There the texts that have not ended are cancelled, so none is ever left behind. The status of a stream is sent
with its first news, so a refusal by the worker is still an error with its own status; a later one is the last event.
Read before: `worker`, `bodies`, `formats`, `reading`.
"""

import asyncio
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

from minillm.serving.bodies import Body
from minillm.serving.errors import ApiError, queue_full, to_json
from minillm.serving.formats import FINISH, Format
from minillm.serving.limits import Limits
from minillm.serving.prometheus import Meter
from minillm.serving.reading import ASGIMessage, ClientGone, Receive, Send, while_connected
from minillm.serving.worker import News, TextOrder, Worker, worker_ended

Inbox = asyncio.Queue[tuple[int, News]]  # news of all texts of a request, by their index
EVENTS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]


class Desk:
    """Takes orders for a worker, up to the limit of the queue."""

    def __init__(self, worker: Worker, limits: Limits, meter: Meter):
        self.worker, self.limits, self.meter = worker, limits, meter
        self.n_open = 0  # texts that run or wait

    def need_room(self, n: int = 1) -> None:
        """Raise ApiError if there is no room for n more texts."""
        if self.n_open + n > self.limits.most_open:
            raise queue_full(self.n_open, "texts run or wait", self.limits.most_open)

    @contextmanager
    def ordered(self, orders: Sequence[TextOrder]) -> Iterator[Inbox]:
        """Order texts; what is unfinished at the end is cancelled. Raises ApiError if there is no room."""
        if not self.worker.alive:
            raise worker_ended()
        self.need_room(len(orders))
        inbox, loop, tickets = Inbox(), asyncio.get_running_loop(), []
        self.n_open += len(orders)
        try:
            for i, order in enumerate(orders):
                tickets.append(self.worker.submit(order, partial(_post, loop, inbox, i)))
            yield inbox
        finally:
            for ticket in tickets:
                self.worker.cancel(ticket)
            self.n_open -= len(orders)


def _post(loop: asyncio.AbstractEventLoop, inbox: Inbox, index: int, news: News) -> None:
    """Pass news to the event loop, from the worker's thread."""
    with suppress(RuntimeError):  # the loop is closed: nobody waits any more
        loop.call_soon_threadsafe(inbox.put_nowait, (index, news))


class Answer:
    """The answer to one request: an ASGI application, as a response of starlette is one."""

    def __init__(self, desk: Desk, body: Body, form: Format, model: str):
        self.desk, self.body, self.form = desk, body, form
        self.id, self.began = f"{form.prefix}-{uuid.uuid4().hex}", time.perf_counter()
        self.about = {"created": int(time.time()), "model": model, "seed": body.seed}
        self.n_drawn = [0] * len(body.orders)

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        """Answer; see ASGI. Raises ApiError before anything is sent."""
        with self.desk.ordered(self.body.orders) as inbox, suppress(ClientGone):
            send = in_time(send, self.desk.limits.send_seconds)
            work = self._stream(inbox, send) if self.body.stream else self._whole(inbox, send)
            await while_connected(receive, work)

    async def _whole(self, inbox: Inbox, send: Send) -> None:
        """Wait for all texts, then send them in one object."""
        found: dict[int, News] = {}
        while len(found) < len(self.body.orders):
            index, news = await self._next(inbox, first=not found)
            found[index] = news
        choices = []
        for i, order in enumerate(self.body.orders):
            drawn = found[i].drawn if order.logprobs else None
            choice = self.form.choice(self.body.echoes[i], found[i].text, drawn)
            choices.append({"index": i, **choice, "finish_reason": FINISH[found[i].reason]})
        answer = {"id": self.id, "object": self.form.whole, **self.about, "choices": choices, "usage": self._usage()}
        headers = [(b"content-type", b"application/json")]
        data = to_json(answer)
        headers.append((b"content-length", str(len(data)).encode()))
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": data})

    async def _stream(self, inbox: Inbox, send: Send) -> None:
        """Send each piece as an event when it comes."""
        index, news = await self._next(inbox, first=True)
        await send({"type": "http.response.start", "status": 200, "headers": EVENTS})
        for i, echo in enumerate(self.body.echoes):
            await self._event(send, self._chunk(i, self.form.opening(echo)))
        n_left = len(self.body.orders)
        while True:
            for chunk in self._chunks(index, news):
                await self._event(send, chunk)
            n_left -= news.reason is not None
            if not n_left:
                break
            try:
                index, news = await self._next(inbox)
            except ApiError as error:
                await self._event(send, error.body())
                await send({"type": "http.response.body"})
                return
        if self.body.include_usage:
            await self._event(send, self._around([]) | {"usage": self._usage()})
        await send_part(send, b"data: [DONE]\n\n")
        await send({"type": "http.response.body"})

    async def _next(self, inbox: Inbox, first: bool = False) -> tuple[int, News]:
        """The next news, counted. Raises the error of a text."""
        index, news = await inbox.get()
        if news.error is not None:
            raise news.error
        meter = self.desk.meter
        if first:
            meter.first_token_after(news.first_at - self.began)
            meter.prompt_tokens += self.body.n_prompt_tokens
        meter.completion_tokens += news.n_drawn - self.n_drawn[index]
        self.n_drawn[index] = news.n_drawn
        return index, news

    def _chunks(self, index: int, news: News) -> list[dict[str, Any]]:
        """The chunks of one piece of news: a delta if there is text, and the finish_reason at the end."""
        order, chunks = self.body.orders[index], []
        if news.text or news.drawn:
            drawn = news.drawn if order.logprobs else None
            chunks.append(self._chunk(index, self.form.delta(self.body.echoes[index], news.text, drawn)))
        if news.reason is not None:
            chunks.append(self._chunk(index, self.form.closing(), FINISH[news.reason]))
        return chunks

    def _chunk(self, index: int, choice: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
        chunk = self._around([{"index": index, **choice, "finish_reason": finish}])
        return chunk | ({"usage": None} if self.body.include_usage else {})

    def _around(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {"id": self.id, "object": self.form.part, **self.about, "choices": choices}

    def _usage(self) -> dict[str, int]:
        read, drawn = self.body.n_prompt_tokens, sum(self.n_drawn)
        return {"prompt_tokens": read, "completion_tokens": drawn, "total_tokens": read + drawn}

    async def _event(self, send: Send, value: dict[str, Any]) -> None:
        await send_part(send, b"data: " + to_json(value) + b"\n\n")


def in_time(send: Send, seconds: float) -> Send:
    """A `send` that raises ClientGone if the client does not take a message within these seconds."""

    async def sent(message: ASGIMessage) -> None:
        try:
            async with asyncio.timeout(seconds):
                await send(message)
        except TimeoutError:
            raise ClientGone from None

    return sent


async def send_part(send: Send, data: bytes) -> None:
    """Send a part of a body that goes on."""
    await send({"type": "http.response.body", "body": data, "more_body": True})
