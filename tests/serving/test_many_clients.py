"""Many clients at once, of whom some leave: the others get what `generate` writes alone, and nothing is left over."""

import http.client
import json
import random
import socket
import threading
import time
from pathlib import Path

import pytest
import torch

from minillm.config.loading import load
from minillm.decoding.generate import generate
from minillm.decoding.sampler import Sampler, SamplingConfig, build_pipeline, seeded
from minillm.models.decoder import Decoder
from minillm.runs.config import RunConfig
from minillm.serving.limits import Limits
from minillm.serving.worker import TextOrder
from minillm.system.folders import SHIPPED
from minillm.text.model import TextModel
from tests.serving.running import BYTES, NAME, Toy, alone, events, running, texts, toy, wait_for

pytest.importorskip("uvicorn")
ENDLESS = {"model": NAME, "prompt": "x", "max_tokens": 90, "logit_bias": {"256": -100}}
SAMPLINGS = [{"temperature": 0}, {}, {"temperature": 0.6}, {"frequency_penalty": 0.7}]


class Margins(Sampler):
    """A sampler that keeps how near its draws were to another token."""

    nearest = 1.0

    def choose(self, logits, history, uniforms):
        if self.greedy:
            first, second = self._before_greedy.shape(logits, history).topk(2).values[0].tolist()
            near = first - second
        else:
            near = float((self.distribution(logits, history).cumsum(-1) - uniforms[:, None]).abs().min())
        Margins.nearest = min(Margins.nearest, near)
        return super().choose(logits, history, uniforms)


def clear(text: TextModel, order: TextOrder, margin: float) -> bool:
    """Whether no draw of an order is decided by the last digits, which depend on the other rows of a batch."""
    Margins.nearest = 1.0
    pipeline = build_pipeline(order.sampling, end_id=BYTES.end_id)
    how = {"max_new_tokens": order.max_new_tokens, "generators": seeded([order.seed]), "end_id": BYTES.end_id}
    generate(text.model, [text.encode(order.prompt)], Margins(pipeline), **how)
    return Margins.nearest > margin


def requests(text: TextModel, margin: float = 0.0, n: int = 24):
    """Bodies of completions, with the text and the reason that are expected."""
    found, seed = [], 0
    while len(found) < n:
        r, seed = random.Random(seed), seed + 1
        sampling, most, prompt = r.choice(SAMPLINGS), r.randint(0, 50), r.choice(texts(seed, 19))
        order = TextOrder(prompt, most, SamplingConfig(**sampling), seed)
        if not margin or clear(text, order, margin):
            body = {"model": NAME, "prompt": prompt, "max_tokens": most, "seed": seed, **sampling}
            found.append((body, alone(text, order)[:2]))
    return found


def read_stream(answer) -> tuple[str, str]:
    """The joined text and the finish_reason of a stream."""
    *chunks, done = events(answer.read())
    choices = [json.loads(chunk)["choices"][0] for chunk in chunks]
    assert done == "[DONE]" and [choice["finish_reason"] for choice in choices[:-1]] == [None] * (len(choices) - 1)
    return "".join(choice["text"] for choice in choices), choices[-1]["finish_reason"]


def one_client(port, asked, seed, end, finished, failures):
    """Ask again and again, whole or streamed, and leave some requests early."""
    r = random.Random(seed)
    try:
        while time.monotonic() < end:
            body, (text, reason) = r.choice(asked)
            stream, leaves = r.random() < 0.5, r.random() < 0.25
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
            data = json.dumps(body | {"stream": stream})
            connection.request("POST", "/v1/completions", data, {"content-type": "application/json"})
            if leaves:
                time.sleep(r.random() * 0.1)
                if stream and r.random() < 0.5:
                    connection.getresponse().read(r.randint(1, 300))
                connection.close()
                continue
            answer = connection.getresponse()
            assert answer.status == 200
            if stream:
                got = read_stream(answer)
            else:
                [choice] = json.loads(answer.read())["choices"]
                got = choice["text"], choice["finish_reason"]
            assert got == (text, {"end": "stop"}.get(reason, "length")), body
            connection.close()
            finished.append(1)
    except Exception as error:
        failures.append(error)


def crowd(text: TextModel, asked, seconds: float, n_pages: int) -> int:
    """32 clients for some seconds; returns how many answers were right, and fails if one was not."""
    finished, failures = [], []
    limits = Limits(max_running=8, max_waiting=64)
    with running(text, limits=limits, n_pages=n_pages) as server:
        end = time.monotonic() + seconds
        args = (server.port, asked)
        clients = [
            threading.Thread(target=one_client, args=(*args, seed, end, finished, failures)) for seed in range(32)
        ]
        for client in clients:
            client.start()
        for client in clients:
            client.join()
        assert not failures, failures[0]
        wait_for(lambda: not server.worker.engine.busy)
    return len(finished)


def test_thirty_two_clients_of_whom_some_leave_get_what_each_would_get_alone():
    text = toy()
    assert crowd(text, requests(text), 3, n_pages=40) > 64, "two for each client, on average"


@pytest.mark.slow
def test_a_minute_of_thirty_two_clients_in_float32():
    torch.manual_seed(0)
    config = load(RunConfig, Path(SHIPPED) / "configs" / "gpt-tiny.toml").model
    text = TextModel(Decoder(config, BYTES.vocab_size).eval(), BYTES, documents=True)
    text.model.head.weight.data *= 8
    text.template = Toy()
    assert crowd(text, requests(text, 1e-5), 60, n_pages=60) > 320


def send(port: int, body: dict) -> socket.socket:
    """A connection on which a completion was asked for."""
    data = json.dumps(body).encode()
    connection = socket.create_connection(("127.0.0.1", port), timeout=20)
    head = b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    connection.sendall(head + b"content-length: %d\r\n\r\n" % len(data) + data)
    return connection


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_frees_its_slots_and_pages_at_once(stream):
    with running(toy(context_length=20_000), n_pages=5_000) as server:
        body = ENDLESS | {"max_tokens": 19_000, "n": 3, "stream": stream}
        connection = send(server.port, body)
        wait_for(lambda: server.worker.load.running == 3)
        connection.close()
        wait_for(lambda: server.worker.load.running == 0, seconds=5)
        assert server.worker.load == (0, 0, 5_000, 5_000)


def test_one_that_waits_and_leaves_is_never_started():
    with running(toy(context_length=20_000), limits=Limits(max_running=1), n_pages=5_000) as server:
        first = send(server.port, ENDLESS | {"max_tokens": 19_000})
        wait_for(lambda: server.worker.load.running == 1)
        second = send(server.port, ENDLESS)
        wait_for(lambda: server.worker.load.waiting == 1)
        second.close()
        wait_for(lambda: server.worker.load.waiting == 0)
        assert server.worker.load.running == 1
        first.close()


def test_an_idle_worker_sleeps():
    with running(toy()) as server:
        server.ask("/v1/completions", ENDLESS)
        began, cpu = time.monotonic(), time.process_time()
        time.sleep(0.5)
        assert time.process_time() - cpu < 0.3 * (time.monotonic() - began), "it waits for a call, and polls nothing"


def test_a_model_that_raises_fails_its_texts_and_serves_the_next(caplog):
    text = toy()
    with running(text) as server:
        head, text.model.head.weight.data = text.model.head.weight.data, torch.zeros(2, 3, dtype=torch.float64)
        status, error = server.error("/v1/completions", ENDLESS)
        assert (status, error["type"], error["code"]) == (500, "server_error", "model_failed")
        text.model.head.weight.data = head
        assert server.ask("/v1/completions", ENDLESS | {"max_tokens": 3})[0] == 200
        assert server.ask("/health")[0] == 200


def test_an_error_within_a_stream_is_its_last_event():
    text = toy(context_length=20_000)
    with running(text, n_pages=5_000) as server:
        connection = send(server.port, ENDLESS | {"max_tokens": 19_000, "stream": True})
        data = connection.recv(1000)
        head, text.model.head.weight.data = text.model.head.weight.data, torch.zeros(2, 3, dtype=torch.float64)
        while not data.endswith(b"0\r\n\r\n"):
            data += connection.recv(65536)
        text.model.head.weight.data = head
        last = [line for line in data.split(b"\r\n") if line.startswith(b"data: ")][-1]
        assert json.loads(last.removeprefix(b"data: "))["error"]["code"] == "model_failed" and b"[DONE]" not in data


def test_a_stop_finishes_what_runs_and_refuses_what_is_new():
    text = toy(context_length=900)
    body = ENDLESS | {"max_tokens": 400, "seed": 1, "stream": True}
    with running(text, n_pages=300) as server:
        connection = send(server.port, body)
        data = connection.recv(100)
        late = socket.create_connection(("127.0.0.1", server.port), timeout=20)  # accepted, but has not asked yet
        server.gate.closed = True
        late.sendall(b"GET /v1/models HTTP/1.1\r\nhost: localhost\r\n\r\n")
        assert b" 503 " in late.recv(1000).split(b"\r\n")[0]
        assert server.ask("/health")[0] == 503
        server.server.should_exit = True
        while part := connection.recv(65536):
            data += part
        assert data.count(b'"finish_reason":"length"') == 1 and b"data: [DONE]" in data
