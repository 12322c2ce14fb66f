"""The command: a real process that serves a run, and ends by a signal when what runs has ended; and what it refuses."""

import json
import re
import signal
import socket
import subprocess
import sys
import urllib.request

import pytest

from minillm import serve
from minillm.serving.listening import bind
from tests.small_runs import started
from tests.test_architecture import ROOT

pytest.importorskip("uvicorn")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run with a context of 16 tokens."""
    return started(tmp_path_factory.mktemp("serve"))


def post(url: str, body: dict):
    request = urllib.request.Request(url, json.dumps(body).encode(), {"content-type": "application/json"})
    return urllib.request.urlopen(request, timeout=30)


@pytest.mark.parametrize("signum", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_a_process_serves_a_run_and_ends_by_a_signal_without_a_loss(run, signum):
    words = [sys.executable, "-m", "minillm.serve", str(run), "--port", "0"]
    process = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        line = process.stdout.readline()
        url = re.search(r"http://127\.0\.0\.1:\d+", line)[0]
        body = {"prompt": "the", "seed": 1, "max_tokens": 5}
        with post(f"{url}/v1/completions", body) as answer:
            first = json.load(answer)
        assert first["model"] == "run" and first["usage"]["completion_tokens"] == 5
        with post(f"{url}/v1/completions", body | {"stream": True}) as answer:
            process.send_signal(signum)
            assert answer.read().endswith(b"data: [DONE]\n\n")
        assert process.wait(timeout=30) == 0 and process.stderr.read() == ""
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--host", "0.0.0.0"], "expected --api-key beside it"),
        (["--host", "::"], "expected --api-key beside it"),
        (["--host", "my.host"], "expected --api-key beside it"),
        (["--api-key", "a b"], "printable ASCII"),
        (["--api-key", "é"], "printable ASCII"),
        (["--cors", "*"], "expected an origin"),
        (["--cors", "https://a.example/path"], "without a path"),
        (["--allow-host", "*"], "without *"),
        (["--allow-host", "a:80"], "without a port"),
        (["--port", "70000"], "a port in 0 ... 65535"),
        (["--host", "256.0.0.1", "--api-key", "k"], "an address of this machine"),
        (["--max-running", "0"], "--max-running = 0: expected int >= 1"),
        (["--weights", "int4", "--port", "0", "no/such/run"], "expected the folder of a run"),
    ],
)
def test_an_open_door_is_refused(words, message, capsys):
    assert serve.main(words) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_a_missing_package_is_named_with_its_extra(monkeypatch, capsys):
    monkeypatch.setattr("minillm.serving.listening.find_spec", lambda name: None)
    assert serve.main([]) == 2
    assert 'pip install "minillm[serve]"' in capsys.readouterr().err


def test_a_port_in_use_is_a_sentence(capsys):
    with bind("127.0.0.1", 0) as held:
        assert serve.main(["--port", str(held.getsockname()[1])]) == 2
    assert "expected a free port" in capsys.readouterr().err


def test_addresses_of_ipv6_are_in_brackets():
    assert serve.named("::1") == "[::1]" and serve.named("127.0.0.1") == "127.0.0.1"
    if socket.has_ipv6:
        try:
            bind("::1", 0).close()
        except ValueError:
            pytest.skip("this machine has no IPv6")
