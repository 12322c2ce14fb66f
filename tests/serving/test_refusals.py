"""Refusals of the server: bad bodies, keys, hosts and sizes, each with its status and a sentence; and never a 500."""

import json
import random
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial

import pytest

from minillm.serving.app import LOCAL
from minillm.serving.limits import Limits
from minillm.serving.strict_json import parse_object
from tests.serving.running import NAME, running, toy, wait_for

pytest.importorskip("uvicorn")
CHAT, COMPLETION = "/v1/chat/completions", "/v1/completions"
GOOD = {
    CHAT: {"model": NAME, "messages": [{"role": "user", "content": "x"}], "max_tokens": 2},
    COMPLETION: {"model": NAME, "prompt": "x", "max_tokens": 2},
}
LIMITS = Limits(body_bytes=20_000, read_seconds=1, max_running=2, max_waiting=3)


@pytest.fixture(scope="module")
def server():
    with running(toy(), limits=LIMITS) as server:
        yield server


BAD_FIELDS = [
    (CHAT, {"temperatur": 0.5}, "temperatur", "did you mean temperature?"),
    (CHAT, {"messages": None}, "messages", "expected this field"),
    (CHAT, {"messages": []}, "messages", "not empty"),
    (CHAT, {"messages": ["x"]}, "messages", "messages[0] = 'x'"),
    (CHAT, {"messages": [{"role": "usr", "content": "x"}]}, "messages", "system, user, assistant"),
    (CHAT, {"messages": [{"role": "user", "content": "x", "nam": "y"}]}, "messages", "messages[0].nam"),
    (CHAT, {"messages": [{"role": "user"}]}, "messages", "messages[0].content = null"),
    (CHAT, {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages", "reads only text"),
    (CHAT, {"messages": [{"role": "assistant", "content": "x"}]}, "messages", "expected the last one to be the user's"),
    (CHAT, {"tools": [{}]}, "tools", "calls no functions"),
    (CHAT, {"response_format": {"type": "json_object"}}, "response_format", "no grammar"),
    (CHAT, {"top_logprobs": 2}, "top_logprobs", "logprobs = true"),
    (CHAT, {"logprobs": True, "top_logprobs": 21}, "top_logprobs", "top_logprobs = 21"),
    (CHAT, {"max_completion_tokens": 3}, "max_tokens", "leave one out"),
    (CHAT, {"stream_options": {"include_usage": True}}, "stream_options", "stream = true"),
    (CHAT, {"stream": True, "stream_options": {"usage": True}}, "stream_options", "stream_options.usage"),
    (CHAT, {"temperature": True}, "temperature", "temperature = True"),
    (CHAT, {"temperature": "hot"}, "temperature", "temperature = 'hot'"),
    (CHAT, {"n": 0}, "n", "n = 0"),
    (CHAT, {"n": 17}, "n", "n = 17"),
    (CHAT, {"n": 6}, "messages", "at most 5 texts"),
    (CHAT, {"seed": -1}, "seed", "seed = -1"),
    (CHAT, {"seed": 2**63}, "seed", "seed = "),
    (CHAT, {"max_tokens": 97}, "max_tokens", "context of 96"),
    (CHAT, {"max_tokens": -1}, "max_tokens", "max_tokens = -1"),
    (CHAT, {"max_tokens": 1.5}, "max_tokens", "max_tokens = 1.5"),
    (CHAT, {"frequency_penalty": 2.1}, "frequency_penalty", "-2 ... 2"),
    (CHAT, {"stop": ["a"] * 5}, "stop", "at most 4"),
    (CHAT, {"stop": [""]}, "stop", "1 to 256 characters"),
    (CHAT, {"stop": {}}, "stop", "stop = an object"),
    (CHAT, {"logit_bias": {"257": 1}}, "logit_bias", "0 ... 256"),
    (CHAT, {"logit_bias": {"01": 1}}, "logit_bias", "'01'"),
    (CHAT, {"logit_bias": {"1": 101}}, "logit_bias", "101"),
    (CHAT, {"logit_bias": [1]}, "logit_bias", "logit_bias = an array"),
    (COMPLETION, {"prompt": []}, "prompt", "not empty"),
    (COMPLETION, {"prompt": ["a", 1]}, "prompt", "array of token ids"),
    (COMPLETION, {"prompt": [1, 257]}, "prompt", "0 ... 256"),
    (COMPLETION, {"prompt": [[1], []]}, "prompt", "array of token ids"),
    (COMPLETION, {"prompt": ["a"] * 6}, "prompt", "at most 5 texts"),
    (COMPLETION, {"prompt": "x" * 96}, "prompt", "97 tokens"),
    (COMPLETION, {"suffix": "x"}, "suffix", "only continues"),
    (COMPLETION, {"best_of": 2}, "best_of", "best_of = 2"),
    (COMPLETION, {"logprobs": 6}, "logprobs", "logprobs = 6"),
    (COMPLETION, {"echo": True, "logprobs": 1}, "echo", "no logprobs"),
    (COMPLETION, {"min_new_tokens": 3}, None, "min_new_tokens = 3"),
    (COMPLETION, {"banned_tokens": [1]}, "banned_tokens", "unknown field"),
]


@pytest.mark.parametrize(("path", "change", "param", "message"), BAD_FIELDS, ids=str)
def test_a_field_without_sense_is_refused_by_name(server, path, change, param, message):
    status, error = server.error(path, GOOD[path] | change)
    assert (status, error["param"], error["type"]) == (400, param, "invalid_request_error")
    assert message in error["message"]


@pytest.mark.parametrize("path", GOOD)
def test_harmless_fields_and_null_are_accepted(server, path):
    more = {"user": "me", "metadata": {"a": "b"}, "store": True, "service_tier": "auto", "temperature": None, "n": None}
    more |= {"response_format": {"type": "text"}, "stop": [], "logit_bias": {}, "suffix" * (path == COMPLETION): None}
    more.pop("", None)
    assert server.ask(path, GOOD[path] | more)[0] == 200
    sent_back = {"role": "assistant", "content": "a", "refusal": None, "tool_calls": None, "annotations": []}
    parts = {"role": "user", "content": [{"type": "text", "text": "b"}, {"type": "text", "text": "c"}]}
    messages = [*GOOD[CHAT]["messages"], sent_back, parts]
    assert server.ask(CHAT, GOOD[CHAT] | {"messages": messages})[0] == 200


BAD_BODIES = [
    (b"", "found an error at character 0"),
    (b"{", "found an error at character"),
    (b"[]", "found an array"),
    (b"\xff{}", "found the byte 0xff at 0"),
    (b'{"prompt": "\\ud800"}', "lone surrogate"),
    (b'{"\\udfff": 1}', "lone surrogate"),
    (b'{"a": NaN}', "no NaN"),
    (b'{"a": -Infinity}', "no -Infinity"),
    (b'{"a": 1e999}', "finite"),
    (b'{"a": ' + b"9" * 5000 + b"}", "digits"),
    (b'{"n": 1, "n": 2}', "found 'n' twice"),
    (b'{"a": ' + b"[" * 40 + b"]" * 40 + b"}", "at most 32"),
    (b'{"a": ' + b"[" * 9000, "at most 32"),
    (b'{"a": ' + b'{"a":' * 3000 + b"1" + b"}" * 3001, "at most 32"),
]


@pytest.mark.parametrize(("body", "message"), BAD_BODIES, ids=lambda each: str(each)[:30])
def test_a_body_that_is_no_strict_json_is_refused(server, body, message):
    status, error = server.error(COMPLETION, body)
    assert (status, error["code"]) == (400, "invalid_json") and message in error["message"]


def test_the_cost_of_a_key_that_comes_twice_does_not_grow_with_the_square_of_the_keys():
    names = [*range(20_000), 19_999]
    began = time.process_time()
    with pytest.raises(ValueError, match="found '19999' twice"):
        parse_object(b"{" + b",".join(b'"%d":0' % name for name in names) + b"}")
    assert time.process_time() - began < 1


def mutations(seed):
    """A body that was valid: a few values replaced, removed, or added; or its bytes damaged."""
    r = random.Random(seed)
    path = r.choice([*GOOD])
    body = json.loads(json.dumps(GOOD[path]))
    strange = [
        None,
        True,
        -1,
        0,
        2**70,
        1e308,
        -1e-320,
        "",
        "\x00",
        "é" * 50,
        [],
        {},
        [[]],
        [None],
        {"a": {}},
        [1, "a"],
    ]
    names = [*body, "n", "stop", "seed", "temperature", "top_p", "top_k", "logit_bias", "stream", "logprobs", "echo"]
    names += ["stream_options", "repetition_penalty", "presence_penalty", "min_p", "response_format", "no_repeat_ngram"]
    for _ in range(r.randint(0, 2)):
        body[r.choice(names)] = r.choice([r.choice(strange), r.uniform(0, 3), r.randint(0, 5), True, 1e-300])
    if path == CHAT and r.random() < 0.3:
        body["messages"] = [{"role": "user", "content": "x"}, r.choice(strange), {"role": r.choice(strange)}]
    data = json.dumps(body).encode()
    if r.random() < 0.3:
        i = r.randrange(len(data))
        data = data[:i] + r.choice([b"", b"\x00", b"\xff", b'"', b"{", b"[", b"\\"]) + data[i + r.randint(0, 4) :]
    return path, data


def test_three_hundred_damaged_bodies_never_fail_the_server(server):
    statuses = [server.ask(*mutations(seed))[0] for seed in range(300)]
    assert set(statuses) <= {200, 400, 404} and statuses.count(400) > 100 and statuses.count(200) > 30
    assert server.ask(COMPLETION, GOOD[COMPLETION])[0] == 200


def test_settings_under_which_no_token_can_be_drawn_fail_with_a_sentence(server):
    how = {"repetition_penalty": 5e-324, "prompt": [*range(32, 90)]}
    status, error = server.error(COMPLETION, GOOD[COMPLETION] | how)
    assert (status, error["code"]) == (400, "no_token")


def test_unknown_routes_and_methods(server):
    assert server.error("/v1/chat")[0] == 404
    status, headers, _ = server.ask(CHAT)
    assert status == 405 and headers["allow"] == "POST"
    assert server.error(CHAT, {}, headers={"content-type": "text/plain"})[0] == 415
    assert server.error(CHAT, b"{}", headers={"content-encoding": "gzip"})[0] == 415
    assert server.error("/v1/models", method="DELETE")[0] == 405


def raw(server, data: bytes, seconds: float = 5) -> bytes:
    """All that the server answers to these bytes until it closes the connection."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=seconds) as connection:
        connection.sendall(data)
        found = b""
        while part := connection.recv(65536):
            found += part
        return found


HEAD = b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"


def test_a_body_that_is_too_long_is_refused_with_and_without_a_declared_length(server):
    assert server.error(COMPLETION, GOOD[COMPLETION] | {"prompt": "x" * 30_000})[0] == 413
    assert server.error(COMPLETION, GOOD[COMPLETION] | {"prompt": "x" * 10_000})[0] == 400, (
        "only the prompt is too long"
    )
    assert b" 413 " in raw(server, HEAD + b"content-length: 99999999999999\r\n\r\n{}").split(b"\r\n")[0]
    chunk = b"1000\r\n" + b" " * 4096 + b"\r\n"
    assert b" 413 " in raw(server, HEAD + b"transfer-encoding: chunked\r\n\r\n" + chunk * 5).split(b"\r\n")[0]


def test_a_header_and_a_body_must_come_in_time(server):
    began = time.monotonic()
    with ThreadPoolExecutor(3) as pool:
        late = [b"", b"GET /health HTTP/1.1\r\nhost: loc", HEAD + b"content-length: 100\r\n\r\n{"]
        silent, header, body = pool.map(partial(raw, server), late)
    assert silent == header == b"" and b" 408 " in body.split(b"\r\n")[0]
    assert time.monotonic() - began < 2 * LIMITS.read_seconds + 2
    with socket.create_connection(("127.0.0.1", server.port)) as slow:  # a byte at a time does not help
        began = time.monotonic()
        with pytest.raises(OSError):
            while time.monotonic() < began + 5:
                slow.sendall(b"x")
                time.sleep(0.1)
        assert time.monotonic() - began < LIMITS.read_seconds + 1
    with suppress(ConnectionError):  # it is refused while it is being sent
        huge = raw(server, b"GET /health HTTP/1.1\r\nhost: localhost\r\nx: " + b"y" * 200_000)
        assert b" 400 " in huge.split(b"\r\n")[0]
    assert server.ask("/health")[0] == 200


def test_an_answered_body_that_goes_on_is_cut_off(server):
    head = HEAD.replace(b"json", b"text") + b"transfer-encoding: chunked\r\n\r\n"
    with socket.create_connection(("127.0.0.1", server.port)) as endless:
        began = time.monotonic()
        endless.sendall(head)
        with pytest.raises(OSError):
            while time.monotonic() < began + 5:
                endless.sendall(b"1\r\nx\r\n")
                time.sleep(0.05)
        assert time.monotonic() - began < LIMITS.read_seconds + 1


def test_a_full_queue_is_told_to_come_back(server):
    how = {"prompt": "x", "max_tokens": 80, "logit_bias": {"256": -100}, "n": 5, "stream": True}
    with socket.create_connection(("127.0.0.1", server.port)) as first:
        body = json.dumps(how).encode()
        first.sendall(HEAD + b"content-length: %d\r\n\r\n" % len(body) + body)
        first.recv(100)  # the first event: five texts run or wait
        status, headers, data = server.ask(COMPLETION, GOOD[COMPLETION])
        assert status == 429 and headers["retry-after"] == "1"
        assert json.loads(data)["error"]["type"] == "rate_limit_error"
    wait_for(lambda: not server.worker.engine.busy)
    wait_for(lambda: server.ask(COMPLETION, GOOD[COMPLETION])[0] == 200)


@pytest.mark.parametrize("host", ["localhost", "localhost:81", "127.0.0.1", "[::1]:8000", "LocalHost"])
def test_hosts_of_the_list_are_served(server, host):
    assert server.ask("/health", headers={"host": host})[0] == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "localhost.evil.example", "127.0.0.1.evil", "", "[::2]", "a@localhost"]
)
def test_other_hosts_are_refused_against_rebinding(server, host):
    status, error = server.error("/v1/models", headers={"host": host})
    assert status == 400 and "Host" in error["message"] and error["code"] == "invalid_host"


def test_a_given_host_is_served_and_origins_only_where_asked_for():
    preflight = {"origin": "https://a.example", "access-control-request-method": "POST"}
    with running(toy(), hosts=[*LOCAL, "my.host"], origins=["https://a.example"], key="k") as server:
        assert server.ask("/health", headers={"host": "my.host:80"})[0] == 200
        status, headers, _ = server.ask(CHAT, method="OPTIONS", headers=preflight)
        assert status == 200 and headers["access-control-allow-origin"] == "https://a.example"
        status, headers, _ = server.ask(CHAT, method="OPTIONS", headers=preflight | {"origin": "https://b.example"})
        assert status == 400 and "access-control-allow-origin" not in headers
    with running(toy()) as server:
        status, headers, _ = server.ask("/health", headers={"origin": "https://a.example"})
        assert status == 200 and not [name for name in headers if name.startswith("access-control")]


def test_the_key_guards_all_but_the_page_and_the_health():
    with running(toy(), key="k1") as server:
        for path in ("/v1/models", "/metrics", "/v1/nothing", "/page/x"):
            for headers in ({}, {"authorization": "Bearer k2"}, {"authorization": "Basic k1"}, {"authorization": "k1"}):
                status, answer, data = server.ask(path, headers=headers)
                assert status == 401 and answer["www-authenticate"] == "Bearer"
                assert json.loads(data)["error"]["code"] == "invalid_api_key"
        assert server.ask(CHAT, GOOD[CHAT])[0] == 401
        assert server.ask("/v1/models", headers={"authorization": "Bearer k1"})[0] == 200
        assert server.ask("/")[0] == server.ask("/health")[0] == 200


def test_the_page_runs_no_script_but_its_own(server):
    status, headers, data = server.ask("/")
    rules = dict(rule.split(" ", 1) for rule in headers["content-security-policy"].split("; "))
    assert status == 200 and NAME.encode() in data and headers["content-type"].startswith("text/html")
    assert rules["default-src"] == rules["frame-ancestors"] == rules["base-uri"] == "'none'"
    assert rules["connect-src"] == "'self'" and rules["style-src"].startswith("'sha256-")
    assert "unsafe" not in headers["content-security-policy"] and headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"


def test_metrics_count_what_was_done(server):
    def values():
        lines = server.ask("/metrics")[2].decode().splitlines()
        return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if not line.startswith("#")}

    before = values()
    server.ask(COMPLETION, {"prompt": "abcd", "max_tokens": 7, "n": 2, "seed": 1, "logit_bias": {"256": -100}})
    server.ask("/no/such/path")
    wait_for(lambda: values()["minillm_running"] == 0)
    after = values()
    grown = {name: after[name] - before.get(name, 0) for name in after}
    assert grown["minillm_prompt_tokens_total"] == 5 and grown["minillm_completion_tokens_total"] == 14
    assert grown['minillm_requests_total{path="/v1/completions",status="200"}'] == 1
    assert grown['minillm_requests_total{path="other",status="404"}'] == 1
    assert grown["minillm_time_to_first_token_seconds_count"] == 1
    assert after["minillm_pages_free"] == after["minillm_pages"] == 64 and after["minillm_waiting"] == 0
    buckets = [value for name, value in after.items() if "_bucket" in name]
    assert buckets == sorted(buckets) and buckets[-1] == after["minillm_time_to_first_token_seconds_count"]
