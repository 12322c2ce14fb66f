"""Queues of slow threads are bounded, and a slow kind of work does not hold up another."""

import json
import socket
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from threading import Event

import pytest
import torch

from minillm.serving import listening
from minillm.serving.limits import Limits
from tests.serving.running import BYTES, Toy, running, toy, wait_for

pytest.importorskip("uvicorn")
CHAT, COMPLETION, EMBEDDINGS = "/v1/chat/completions", "/v1/completions", "/v1/embeddings"
CHAT_BODY = {"messages": [{"role": "user", "content": "x"}], "max_tokens": 2}
LIMITS = Limits(max_running=1, max_waiting=1)


class Slow(Toy):
    """A template, and an embedder, that wait until they may go on."""

    tokenizer = BYTES

    def __init__(self):
        self.may_go, self.n_begun = Event(), 0

    def _wait(self):
        self.n_begun += 1
        assert self.may_go.wait(timeout=20)

    def render(self, messages, answer=True):
        self._wait()
        return super().render(messages, answer)

    def vectors(self, texts):
        self._wait()
        return torch.ones(len(texts), 3)


@contextmanager
def slow_server(limits=LIMITS):
    slow, text = Slow(), toy()
    text.template = slow
    with running(text, embedder=slow, limits=limits) as server, ThreadPoolExecutor(8) as clients:
        try:
            yield server, slow, clients
        finally:
            slow.may_go.set()


@pytest.mark.parametrize(("path", "body"), [(CHAT, CHAT_BODY), (EMBEDDINGS, {"input": "x"})])
def test_a_request_beyond_the_bound_is_refused_before_its_work_is_done(path, body):
    with slow_server() as (server, slow, clients):
        asked = [clients.submit(server.ask, path, body) for _ in range(3)]
        wait_for(lambda: any(each.done() for each in asked), seconds=5)
        [(status, headers, data)] = [each.result() for each in asked if each.done()]
        assert status == 429 and headers["retry-after"] == "1" and slow.n_begun == 1
        assert json.loads(data)["error"]["code"] == "queue_full"
        slow.may_go.set()
        assert sorted(each.result()[0] for each in asked) == [200, 200, 429]
        assert server.ask(path, body)[0] == 200


def test_vectors_do_not_hold_up_texts():
    with slow_server() as (server, slow, clients):
        waiting = clients.submit(server.ask, EMBEDDINGS, {"input": "x"})
        wait_for(lambda: slow.n_begun == 1)
        asked = clients.submit(server.ask, COMPLETION, {"prompt": "x", "max_tokens": 2})
        assert asked.result(timeout=5)[0] == 200 and not waiting.done()


def test_no_body_is_read_while_the_queue_of_texts_is_full():
    with slow_server(Limits(max_running=1, max_waiting=0)) as (server, slow, clients):
        held, release = Event(), Event()
        server.worker.mailbox.put(lambda: (held.set(), release.wait(timeout=20)))
        assert held.wait(timeout=5)
        text = clients.submit(server.ask, COMPLETION, {"prompt": "x", "max_tokens": 2})
        wait_for(lambda: not server.worker.mailbox.calls.empty())
        try:
            assert clients.submit(server.ask, CHAT, CHAT_BODY).result(timeout=5)[0] == 429 and slow.n_begun == 0
        finally:
            release.set()
        assert text.result()[0] == 200


def test_connections_are_bounded(monkeypatch):
    monkeypatch.setattr(listening, "MOST_CONNECTIONS", 3)
    with running(toy(), limits=Limits(max_running=1, max_waiting=0)) as server, ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(socket.create_connection(("127.0.0.1", server.port)))
        wait_for(lambda: len(server.server.server_state.connections) == 3)
        assert server.ask("/health")[0] == 503
        stack.close()
        wait_for(lambda: server.ask("/health")[0] == 200)
