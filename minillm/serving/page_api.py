"""Routes of the page: writing with the ids of each token, and the inspection of what was written.

Texts are written by the same worker as those of the API, so the page waits in the same queue. Inspections run in one
thread of their own, one at a time, and only a few may wait; they cannot hold up the worker. A text with drafts is
written call by call in that thread, so other inspections come in between. Read before: `page`, `inspection`,
`answering`.
"""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Annotated, Any

from minillm.config.fields import Between, Count
from minillm.serving.answering import EVENTS, Answer, Desk, in_time, send_part
from minillm.serving.bodies import MAX_SEED, Body, Reader, read_sampling
from minillm.serving.body_fields import BodyFields, expected
from minillm.serving.errors import ApiError, queue_full, respond, to_json
from minillm.serving.inspection import MOST_DRAFTED, Drawing, Inspector
from minillm.serving.limits import Limits
from minillm.serving.reading import ClientGone, Receive, Send, read_json, while_connected
from minillm.serving.side_thread import SideThread
from minillm.serving.worker import Drawn
from minillm.text.conversation import Conversation, Turn

MOST_OPEN = 8  # inspections that run or wait
MOST_TURNS = 1000
DEFAULT_ANSWER = 128  # new tokens
SEED = Annotated[int, Between(0, MAX_SEED)]


class PageFormat:
    """The `Format` of /page/write: text with the ids of its tokens."""

    prefix, whole, part = "page", "page", "page"

    def __init__(self, prompt: Sequence[int], n_left_out: int):
        """`n_left_out`: oldest turns of the conversation that did not fit the context."""
        self.prompt, self.n_left_out = prompt, n_left_out

    def choice(self, echo: str, text: str, drawn: Sequence[Drawn] | None) -> dict[str, Any]:
        """See `Format.choice`."""
        return self.opening(echo) | self.delta(echo, text, drawn)

    def opening(self, echo: str) -> dict[str, Any]:
        """See `Format.opening`."""
        return {"prompt": self.prompt, "n_left_out": self.n_left_out}

    def delta(self, echo: str, text: str, drawn: Sequence[Drawn] | None) -> dict[str, Any]:
        """See `Format.delta`. `begin`: characters of the text before the token."""
        tokens = [{"id": each.token, "begin": each.begin, "logprob": each.logprob} for each in drawn or ()]
        return {"text": text, "tokens": tokens}

    def closing(self) -> dict[str, Any]:
        """See `Format.closing`."""
        return {}


class PageApi:
    """The endpoints of the page."""

    def __init__(self, name: str, desk: Desk, reader: Reader, readers: SideThread, limits: Limits):
        """`readers`: the thread that reads bodies."""
        self.name, self.desk, self.reader, self.readers, self.limits = name, desk, reader, readers, limits
        self.inspector = Inspector(reader.text)
        self.thread, self.n_open = ThreadPoolExecutor(1, thread_name_prefix="inspector"), 0

    async def about(self, request: Any) -> Any:
        """GET /page/about: what the page can do with this run, and the run's own settings."""
        with self.open():
            found = await self.beside(self.inspector.describe)
        return respond({"name": self.name, "writes": True, "sampling": vars(self.reader.defaults)} | found)

    async def write(self, request: Any) -> Any:
        """POST /page/write: a stream of text; `answer` has the ids with which it begins."""
        body = await read_json(request.headers, request.receive, self.limits)
        self.desk.need_room()
        return Answer(self.desk, *await self.readers.call(self._order, body), self.name)

    async def pipeline(self, request: Any) -> Any:
        """POST /page/pipeline: sampling settings in words."""
        fields = BodyFields(await read_json(request.headers, request.receive, self.limits))
        sampling = read_sampling(fields, self.reader.defaults)
        fields.finish()
        with self.open():
            return respond({"pipeline": await self.beside(self.inspector.pipeline, sampling)})

    async def xray(self, request: Any) -> Any:
        """POST /page/xray: the distributions of one token; see `Inspector.xray`."""
        fields = await self._fields(request)
        answer = fields.take("answer", self._ids, [])
        n_given = fields.typed("n_given", Annotated[int, Between(0, len(answer))], 0)
        taken = fields.typed("taken", Annotated[int, Between(0, self.reader.text.tokenizer.vocab_size - 1)])
        drawing = self._drawing(fields)
        return await self._inspect(self.inspector.xray, drawing, answer, n_given, taken)

    async def attention(self, request: Any) -> Any:
        """POST /page/attention: one attention map; see `Inspector.attention`."""
        fields = await self._fields(request)
        tokens = fields.needed("tokens", self._ids)
        layer, head = fields.typed("layer", Annotated[int, Between(1, 10**6)], 1), fields.typed("head", Count, 0)
        fields.finish()
        return await self._inspect(self.inspector.attention, tokens, layer, head)

    async def drafts(self, request: Any) -> Any:
        """POST /page/drafts: a stream of calls of the target; see `Inspector.drafts`."""
        fields = await self._fields(request)
        most = fields.typed("max_tokens", Annotated[int, Between(1, MOST_DRAFTED)], MOST_DRAFTED)
        return DraftStream(self, self._drawing(fields), most)

    def close(self) -> None:
        """End the thread."""
        self.thread.shutdown(cancel_futures=True)

    @contextmanager
    def open(self) -> Iterator[None]:
        """Count an inspection. Raises ApiError if there is no room for one."""
        if self.n_open >= MOST_OPEN:
            raise queue_full(self.n_open, "inspections run or wait", MOST_OPEN)
        self.n_open += 1
        try:
            yield
        finally:
            self.n_open -= 1

    async def beside(self, call: Callable[..., Any], *args: Any) -> Any:
        """Call a function in the inspector's thread; its ValueError becomes an ApiError."""
        try:
            return await asyncio.get_running_loop().run_in_executor(self.thread, call, *args)
        except ValueError as e:
            raise ApiError(400, str(e), code="invalid_value") from None

    async def _inspect(self, call: Callable[..., Any], *args: Any) -> Any:
        with self.open():
            return respond(await self.beside(call, *args))

    async def _fields(self, request: Any) -> BodyFields:
        if not self.inspector.by_ids:
            raise ApiError(400, "page: expected a run without an encoder, since its texts are not inspected")
        return BodyFields(await read_json(request.headers, request.receive, self.limits))

    def _drawing(self, fields: BodyFields) -> Drawing:
        """The prompt, the settings and the seed, which are the last fields."""
        prompt, seed = fields.needed("prompt", self._ids), fields.typed("seed", SEED, 0)
        sampling = read_sampling(fields, self.reader.defaults)
        fields.finish()
        return Drawing(prompt, sampling, seed)

    def _order(self, body: dict[str, Any]) -> tuple[Body, PageFormat]:
        """The body of /page/write: a conversation or a prompt, and the ids with which the answer begins."""
        fields = BodyFields(body)
        given, turns = fields.take("answer", self._ids, []), fields.take("turns", read_turns)
        if turns is None:
            prompt, n_left_out = fields.typed("prompt", str, ""), 0
        else:
            system, most = fields.typed("system", str, ""), fields.typed("max_tokens", Count, DEFAULT_ANSWER)
            fields.left["max_tokens"] = most
            prompt, n_left_out = self._conversation(system, turns, most)
        if self.inspector.by_ids:
            prompt = self.reader.text.encode(prompt)
        how = {"prompt": [*prompt, *given] if self.inspector.by_ids else prompt, "logprobs": 0, "stream": True}
        return self.reader.completion(fields.left | how), PageFormat(prompt, n_left_out)

    def _conversation(self, system: str, turns: Sequence[Turn], most: int) -> tuple[list[int], int]:
        """The ids of a conversation whose last turn is to be answered, and how many of the oldest it leaves out."""
        conversation = Conversation(self.reader.text, system)
        conversation.turns, question = list(turns[:-1]), turns[-1].question
        try:
            n_left_out = conversation.n_to_leave_out(question, most)
            return self.reader.text.converse(conversation.messages(question, n_left_out)), n_left_out
        except ValueError as e:
            raise ApiError(400, str(e), "turns", "invalid_value") from None

    def _ids(self, value: Any) -> list[int]:
        """Token ids. Raises ValueError."""
        size = self.reader.text.tokenizer.vocab_size
        if not isinstance(value, list) or not all(type(each) is int and 0 <= each < size for each in value):
            raise ValueError(f"ids: expected an array of token ids, each in 0 ... {size - 1}")
        if value and not self.inspector.by_ids:
            raise ValueError("ids: expected none, since an encoder reads text")
        return value


class DraftStream:
    """The answer of /page/drafts: an ASGI application."""

    def __init__(self, api: PageApi, drawing: Drawing, most: int):
        self.api, self.drawing, self.most = api, drawing, most

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        """Answer; see ASGI. Raises ApiError before anything is sent."""
        with self.api.open(), suppress(ClientGone):
            calls = await self.api.beside(self.api.inspector.drafts, self.drawing, self.most)
            await while_connected(receive, self._stream(calls, in_time(send, self.api.limits.send_seconds)))

    async def _stream(self, calls: Iterator[dict[str, Any]], send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": EVENTS})
        try:
            while (call := await self.api.beside(next, calls, None)) is not None:
                await send_part(send, b"data: " + to_json(call) + b"\n\n")
        except ApiError as error:
            await send_part(send, b"data: " + to_json(error.body()) + b"\n\n")
        await send_part(send, b"data: [DONE]\n\n")
        await send({"type": "http.response.body"})


def read_turns(value: Any) -> list[Turn]:
    """The turns of a conversation: pairs of a question and its answer, of which the last is not used. ValueError."""
    turns = value if isinstance(value, list) and 0 < len(value) <= MOST_TURNS else [None]
    for turn in turns:
        if not isinstance(turn, list) or len(turn) != 2 or not all(isinstance(part, str) for part in turn):
            raise expected("turns", value, f"an array of 1 to {MOST_TURNS} pairs of a question and an answer")
    return [Turn(*turn) for turn in turns]
