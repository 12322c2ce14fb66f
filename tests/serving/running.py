"""A real server in this process, a text model small enough for it, and what `generate` alone writes."""

import http.client
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from threading import Thread
from types import MappingProxyType

import torch

from minillm.decoding.generate import generate
from minillm.decoding.sampler import Sampler, SamplingConfig, build_pipeline, seeded
from minillm.decoding.stopping import StopText
from minillm.models.decoder import Decoder
from minillm.serving.app import Served, ServedAdapter, build_app
from minillm.serving.engine_worker import EngineWorker
from minillm.serving.guard import Gate
from minillm.serving.limits import Limits
from minillm.serving.listening import bind, build_server
from minillm.serving.worker import TextOrder
from minillm.text.model import TextModel
from minillm.tokenizers.byte import ByteTokenizer
from minillm.tokenizers.chat import whole_text
from tests import tiny

NAME = "toy"
BYTES = ByteTokenizer()
FEW = 64  # printable characters that the toy writes


class Toy:
    """A template: the first letter of the role, the whole text, END."""

    def render(self, messages, answer=True):
        if messages[-1]["role"] == "assistant":
            raise ValueError("messages: expected the last one to be the user's")
        parts = [part for m in messages for part in (m["role"][0] + whole_text(m), BYTES.end_id)]
        return BYTES.encode_parts([*parts, *(["a"] if answer else [])])


def toy(context_length: int = 96, dtype: torch.dtype = torch.float64, template: bool = True) -> TextModel:
    """A decoder with random weights that writes mostly printable characters, and sometimes END."""
    torch.manual_seed(0)
    model = Decoder(tiny.config(context_length=context_length, tied=False, norm_eps=1e-5), BYTES.vocab_size)
    model = model.to(dtype).eval()
    model.head.weight.data[:32] *= 0.1
    model.head.weight.data[32 : 32 + FEW] *= 2
    text = TextModel(model, BYTES, documents=True)
    if template:
        text.template = Toy()
    return text


def alone(text: TextModel, order: TextOrder) -> tuple[str, str, list[float]]:
    """Oracle: the text, the reason and the logprobs that plain `generate` gives for an order."""
    ids = text.encode(order.prompt)
    pipeline = build_pipeline(order.sampling, end_id=BYTES.end_id, prompt_lengths=[len(ids)])
    watcher = StopText(BYTES, order.stop)
    [found] = generate(
        text.model,
        [ids],
        Sampler([*order.first, *pipeline]),
        max_new_tokens=order.max_new_tokens,
        generators=seeded([order.seed]),
        end_id=BYTES.end_id,
        stops=[watcher],
    )
    watcher.finish()
    return watcher.text, found.reason, found.logprobs


@contextmanager
def running(
    text: TextModel | None = None,
    worker=None,
    embedder=None,
    sampling: SamplingConfig | None = None,
    limits: Limits | None = None,
    n_pages: int = 64,
    adapters: Mapping[str, TextModel] = MappingProxyType({}),
    **how,
) -> Iterator["Running"]:
    """A server on a free port, until the context ends; then nothing may be left of any request."""
    limits, gate = limits or Limits(), Gate()
    if worker is None and text is not None:
        worker = EngineWorker(text, adapters, max_running=limits.max_running, n_pages=n_pages, page_size=4)
    offered = {name: ServedAdapter(1, SamplingConfig(), adapted) for name, adapted in adapters.items()}
    served = Served(NAME, 1, sampling or SamplingConfig(), text, worker, embedder, offered)
    app = build_app(served, limits=limits, gate=gate, **how)
    server, held = build_server(app, limits, gate), bind("127.0.0.1", 0)
    thread = Thread(target=server.run, kwargs={"sockets": [held]})
    port = held.getsockname()[1]
    thread.start()
    try:
        wait_for(lambda: server.started)
        yield Running(port, worker, server, gate)
        if isinstance(worker, EngineWorker):
            wait_for(lambda: not worker.engine.busy)
            assert worker.engine.pool.n_free == n_pages and not worker.jobs, "no page and no job is left"
    finally:
        server.should_exit = True
        thread.join()
    assert worker is None or not worker.alive


class Running:
    """A server that runs."""

    def __init__(self, port, worker, server, gate):
        self.port, self.worker, self.server, self.gate = port, worker, server, gate

    def client(self, **how):
        """A client of the openai package."""
        import openai

        how = {"api_key": "none", "max_retries": 0, "timeout": 30} | how
        return openai.OpenAI(base_url=f"http://127.0.0.1:{self.port}/v1", **how)

    def ask(self, path: str, body=None, method: str = "", headers=None) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body of the answer to one request; a body that is no bytes is sent as JSON."""
        method = method or ("GET" if body is None else "POST")
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        headers = {"content-type": "application/json"} | (headers or {})
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        connection.request(method, path, data, headers)
        answer = connection.getresponse()
        found = answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
        connection.close()
        return found

    def error(self, path: str, body=None, **how) -> tuple[int, dict]:
        """The status and the error of a refused request."""
        status, _, data = self.ask(path, body, **how)
        error = json.loads(data)["error"]
        assert error.keys() == {"message", "type", "param", "code"} and error["message"]
        return status, error


def wait_for(ready, seconds: float = 20.0) -> None:
    """Wait until `ready()`."""
    end = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < end, "it takes too long"
        time.sleep(0.005)


def events(data: bytes) -> list[str]:
    """The data of server-sent events."""
    found = [part.removeprefix("data: ") for part in data.decode().split("\n\n") if part]
    assert data.endswith(b"\n\n") and all(part.startswith("data: ") for part in data.decode().split("\n\n") if part)
    return found


def texts(seed: int, n: int) -> Sequence[str]:
    """Some prompts."""
    g = torch.Generator().manual_seed(seed)
    return ["".join(chr(97 + int(torch.randint(26, (), generator=g))) for _ in range(1 + i % 19)) for i in range(n)]
