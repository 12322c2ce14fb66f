"""The application: the routes of OpenAI's API for one run, behind the guard.

Tokenizing and rendering a template may take long, so bodies are read in a thread of their own, one at a time, while the
event loop goes on; so are sentence vectors computed. Only as many bodies may wait as texts, and none is read while the
queue of texts is full. Read before: `bodies`, `answering`, `guard`, `side_thread`; after: `listening`.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from types import MappingProxyType
from typing import Any, NamedTuple

from minillm.decoding.sampler import SamplingConfig
from minillm.serving.answering import Answer, Desk
from minillm.serving.bodies import MOST_TEXTS, Body, Reader, unknown_model
from minillm.serving.embedding import Embedder, embed, read_embedding
from minillm.serving.errors import ApiError, respond
from minillm.serving.formats import ChatFormat, CompletionFormat, Format
from minillm.serving.guard import Gate, Guard
from minillm.serving.hosts import Hosts
from minillm.serving.limits import Limits
from minillm.serving.page import Page, page_routes
from minillm.serving.page_api import PageApi
from minillm.serving.prometheus import Meter
from minillm.serving.reading import ClientGone, read_json
from minillm.serving.side_thread import SideThread
from minillm.serving.worker import Load, Worker
from minillm.text.model import TextModel

LOCAL = ("localhost", "127.0.0.1", "[::1]")
NO_WRITER = "this run writes no text; it may offer /v1/embeddings"
NO_EMBEDDER = "this run offers no sentence vectors, as only encoders do; ask for a text at /v1/completions"
PATHS = ("/", "/health", "/metrics", "/v1/models", "/v1/chat/completions", "/v1/completions", "/v1/embeddings")


class ServedAdapter(NamedTuple):
    """An adapter of the model that is served."""

    created: int  # seconds since 1970
    sampling: SamplingConfig  # the adapter's own settings
    text: TextModel


class Served(NamedTuple):
    """A run that is served: its text model and worker, or its sentence vectors."""

    name: str
    created: int  # seconds since 1970
    sampling: SamplingConfig  # the run's own settings, for what a request leaves out
    text: TextModel | None = None
    worker: Worker | None = None  # writes for `text`
    embedder: Embedder | None = None
    adapters: Mapping[str, ServedAdapter] = MappingProxyType({})  # served by the same worker, as models by their names


class Api:
    """The endpoints."""

    def __init__(self, served: Served, limits: Limits, gate: Gate, meter: Meter):
        self.served, self.limits, self.gate, self.meter = served, limits, gate, meter
        self.readers = SideThread("reader", limits.most_open)
        self.embedders = SideThread("embedder", limits.most_open)
        self.page: PageApi | None = None
        if served.text is not None and served.worker is not None:
            most, others = min(MOST_TEXTS, limits.most_open), tuple(served.adapters)
            self.desk = Desk(served.worker, limits, meter)
            self.reader = Reader(served.name, served.text, served.sampling, most, others=others)
            self.by_adapter = {
                name: Reader(name, adapter.text, adapter.sampling, most, name)
                for name, adapter in served.adapters.items()
            }
            self.page = PageApi(served.name, self.desk, self.reader, self.readers, limits)
            self.formats = ChatFormat(served.text.tokenizer), CompletionFormat(served.text.tokenizer)

    async def chat(self, request: Any) -> Any:
        """POST /v1/chat/completions."""
        self._needs_a_writer()
        return await self._answer(request, Reader.chat, self.formats[0])

    async def complete(self, request: Any) -> Any:
        """POST /v1/completions."""
        self._needs_a_writer()
        return await self._answer(request, Reader.completion, self.formats[1])

    async def embed(self, request: Any) -> Any:
        """POST /v1/embeddings."""
        embedder, name = self.served.embedder, self.served.name
        if embedder is None:
            raise ApiError(400, NO_EMBEDDER, code="no_embeddings")
        asked = read_embedding(await read_json(request.headers, request.receive, self.limits), name)
        return respond(await self.embedders.call(embed, embedder, asked, name))

    async def models(self, request: Any) -> Any:
        """GET /v1/models."""
        return respond({"object": "list", "data": [*self._models().values()]})

    async def model(self, request: Any) -> Any:
        """GET /v1/models/NAME."""
        asked, known = request.path_params["name"], self._models()
        if asked not in known:
            raise unknown_model(asked, [*known])
        return respond(known[asked])

    async def health(self, request: Any) -> Any:
        """GET /health: 200 while requests are served, else 503."""
        if self.gate.closed:
            return respond({"status": "stopping"}, 503)
        if self.served.worker is not None and not self.served.worker.alive:
            return respond({"status": "failed"}, 503)
        return respond({"status": "ok"})

    async def metrics(self, request: Any) -> Any:
        """GET /metrics."""
        from starlette.responses import PlainTextResponse

        load = self.served.worker.load if self.served.worker is not None else Load(0, 0)
        return PlainTextResponse(self.meter.text(load), media_type="text/plain; version=0.0.4")

    def close(self) -> None:
        """End the threads."""
        if self.served.worker is not None:
            self.served.worker.close()
        if self.page is not None:
            self.page.close()
        self.readers.close()
        self.embedders.close()

    async def _answer(self, request: Any, read: Callable[[Reader, dict[str, Any]], Body], form: Format) -> Answer:
        body = await read_json(request.headers, request.receive, self.limits)
        self.desk.need_room()
        asked = body.get("model")
        reader = self.by_adapter.get(asked, self.reader) if isinstance(asked, str) else self.reader
        return Answer(self.desk, await self.readers.call(read, reader, body), form, reader.name)

    def _needs_a_writer(self) -> None:
        if self.served.worker is None:
            raise ApiError(400, NO_WRITER, code="no_writer")

    def _models(self) -> dict[str, dict[str, Any]]:
        """The entries of all models, by their names."""
        created = {self.served.name: self.served.created}
        created |= {name: adapter.created for name, adapter in self.served.adapters.items()}
        about = {"object": "model", "owned_by": "minillm"}
        return {name: {"id": name, "created": seconds} | about for name, seconds in created.items()}


def build_app(
    served: Served,
    *,
    key: str = "",
    hosts: Sequence[str] = LOCAL,
    origins: Sequence[str] = (),
    limits: Limits | None = None,
    gate: Gate | None = None,
) -> Any:
    """The ASGI application. `key`: "" for none; `hosts`: allowed in the Host header; `origins`: allowed by CORS."""
    from starlette.applications import Starlette
    from starlette.exceptions import HTTPException
    from starlette.middleware import Middleware
    from starlette.middleware.cors import CORSMiddleware
    from starlette.responses import Response
    from starlette.routing import Route

    meter, gate = Meter(), gate or Gate()
    api = Api(served, limits or Limits(), gate, meter)

    @asynccontextmanager
    async def lifespan(app: Any) -> AsyncIterator[None]:
        yield
        await asyncio.get_running_loop().run_in_executor(None, api.close)

    async def refuse(request: Any, error: ApiError) -> Any:
        return respond(error.body(), error.status, error.headers)

    async def refuse_route(request: Any, error: HTTPException) -> Any:
        path, method = request.url.path, request.method
        what = f"{method} {path}: expected another method" if error.status_code == 405 else f"{path}: no such route"
        return await refuse(request, ApiError(error.status_code, what, headers=error.headers))

    async def fail(request: Any, error: Exception) -> Any:
        return await refuse(request, ApiError(500, "the server failed; its log says why", code="internal_error"))

    async def leave(request: Any, error: ClientGone) -> Any:
        return Response(status_code=499)  # nobody reads it

    cors = {"allow_origins": origins, "allow_methods": ["GET", "POST"], "allow_headers": ["authorization"]}
    return Starlette(
        routes=[
            *page_routes(Page(served.name), api.page),
            Route("/health", api.health),
            Route("/metrics", api.metrics),
            Route("/v1/models", api.models),
            Route("/v1/models/{name:path}", api.model),
            Route("/v1/chat/completions", api.chat, methods=["POST"]),
            Route("/v1/completions", api.complete, methods=["POST"]),
            Route("/v1/embeddings", api.embed, methods=["POST"]),
        ],
        middleware=[
            Middleware(Hosts, allowed=hosts),
            *([Middleware(CORSMiddleware, **cors)] if origins else []),
            Middleware(Guard, key=key, gate=gate, meter=meter, paths=PATHS),
        ],
        exception_handlers={ApiError: refuse, HTTPException: refuse_route, ClientGone: leave, Exception: fail},
        lifespan=lifespan,
    )
