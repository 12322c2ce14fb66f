"""Both workers, one contract: each text is what `generate` writes alone. The single worker serves every other model."""

from queue import SimpleQueue

import pytest
import torch

from minillm.decoding.penalties import LogitBias
from minillm.decoding.sampler import SamplingConfig
from minillm.models.encoder_decoder import EncoderDecoder, EncoderDecoderConfig
from minillm.models.ngram import Ngram, NgramConfig
from minillm.models.rnn import RNN, RNNConfig
from minillm.serve import build_worker
from minillm.serving.engine_worker import EngineWorker
from minillm.serving.limits import Limits
from minillm.serving.single_worker import SingleWorker
from minillm.serving.worker import TextOrder
from minillm.text.model import TextModel
from minillm.text.translator import Translator
from tests.serving.running import BYTES, NAME, alone, running, toy, wait_for

BIAS = (LogitBias(((101, 4.0), (256, -100.0))),)
ORDERS = [
    TextOrder("abc", 20, SamplingConfig(temperature=0)),
    TextOrder("abc", 20, seed=1, logprobs=True, n_top=2),
    TextOrder([97, 98], 20, SamplingConfig(temperature=0.8, top_k=9), seed=2, eager=True),
    TextOrder("q", 20, seed=3, first=BIAS, stop=("e",), logprobs=True, eager=True),
    TextOrder("q", 0, seed=3),
    TextOrder("q" * 95, 9, seed=4, eager=True),
]


def rnn(cell="lstm"):
    torch.manual_seed(1)
    model = RNN(RNNConfig(cell=cell, n_layers=2, d_hidden=11, init_embed=0.7, context_length=97), BYTES.vocab_size)
    return TextModel(model.double().eval(), BYTES, documents=True)


def told(worker, order):
    """All news of one text until its end, joined."""
    heard = SimpleQueue()
    worker.submit(order, heard.put)
    found = [heard.get(timeout=20)]
    while found[-1].reason is None and found[-1].error is None:
        found.append(heard.get(timeout=20))
    assert order.eager or len(found) == 1
    return found


def workers():
    yield "engine", toy(), lambda text: EngineWorker(text, n_pages=64, page_size=4)
    yield "single, a decoder", toy(), SingleWorker
    for cell in ("rnn", "lstm", "gru"):
        yield cell, rnn(cell), SingleWorker


@pytest.mark.parametrize(("text", "make"), [each[1:] for each in workers()], ids=[each[0] for each in workers()])
def test_a_worker_tells_what_generate_writes_alone(text, make):
    worker = make(text)
    for order in ORDERS:
        found = told(worker, order)
        expected, reason, logprobs = alone(text, order)
        assert ("".join(news.text for news in found), found[-1].reason) == (expected, reason)
        drawn = [each for news in found for each in news.drawn]
        if order.logprobs:
            assert drawn and [each.logprob for each in drawn] == pytest.approx(logprobs[: len(drawn)], abs=1e-9)
        assert all(len(each.top) == order.n_top for each in drawn)
    worker.close()
    assert not worker.alive


def test_the_single_worker_gives_the_same_candidates_as_the_engine():
    order = TextOrder("abc", 12, seed=1, logprobs=True, n_top=3, first=BIAS)
    tops = []
    for worker in (SingleWorker(toy()), EngineWorker(toy(), n_pages=64, page_size=4)):
        [news] = told(worker, order)
        tops.append([(each.token, *each.top) for each in news.drawn])
        worker.close()
    assert [[pair[0] for pair in row[1:]] for row in tops[0]] == [[pair[0] for pair in row[1:]] for row in tops[1]]
    for a, b in zip(*tops, strict=True):
        assert a[0] == b[0] and [x for _, x in a[1:]] == pytest.approx([x for _, x in b[1:]], abs=1e-9)


@pytest.mark.parametrize("make", [lambda: SingleWorker(rnn()), lambda: EngineWorker(toy(20_000), n_pages=5_000)])
def test_texts_are_cancelled_while_they_wait_and_while_they_are_written(make):
    worker, heard = make(), SimpleQueue()
    long = TextOrder("x", 10_000, first=BIAS, eager=True)
    tickets = [worker.submit(long, heard.put) for _ in range(3)]
    heard.get(timeout=20)
    for ticket in reversed(tickets):
        worker.cancel(ticket)
        worker.cancel(ticket)
    wait_for(lambda: worker.load[:2] == (0, 0))
    assert told(worker, TextOrder("x", 3, first=BIAS))[-1].reason == "length"
    worker.cancel(tickets[0])
    assert told(worker, TextOrder("x", 3, first=BIAS))[-1].reason == "length"
    worker.close()


def test_a_text_without_any_token_can_be_cancelled_before_it_is_told_of():
    worker, heard = EngineWorker(toy(), n_pages=64, page_size=4), SimpleQueue()
    worker.mailbox.put(lambda: worker.cancel(worker.submit(TextOrder("x", 0), heard.put)))
    other = told(worker, TextOrder("x", 3, first=BIAS))
    assert other[-1].reason == "length" and heard.empty()
    worker.close()


@pytest.mark.parametrize("make", [lambda: SingleWorker(rnn()), lambda: EngineWorker(toy(20_000), n_pages=5_000)])
def test_what_is_unfinished_at_the_end_is_told_so(make):
    worker, heard = make(), SimpleQueue()
    for _ in range(3):
        worker.submit(TextOrder("x", 10_000, first=BIAS), heard.put)
    worker.close()
    assert [heard.get(timeout=20).error.status for _ in range(3)] == [503] * 3 and heard.empty()


MAKE = [lambda: SingleWorker(rnn()), lambda: EngineWorker(toy(), n_pages=64, page_size=4)]


@pytest.mark.parametrize("make", MAKE)
def test_every_order_is_told_when_the_thread_fails(make, caplog):
    worker, order, heard = make(), TextOrder("x", 9, first=BIAS), SimpleQueue()

    def fail():
        raise RuntimeError("broken")

    def orders_around_a_failure():
        worker.submit(order, heard.put)
        worker.mailbox.put(fail)
        worker.submit(order, heard.put)

    worker.mailbox.put(orders_around_a_failure)
    found = [heard.get(timeout=9) for _ in range(2)]
    worker.thread.join(timeout=9)
    worker.submit(order, heard.put)
    found.append(heard.get(timeout=9))
    assert [news.error.code for news in found] == ["worker_ended"] * 3 and "broken" in caplog.text
    worker.close()
    assert not worker.alive and heard.empty()


@pytest.mark.parametrize("make", MAKE)
def test_an_order_that_comes_after_the_end_is_told_so(make):
    worker = make()
    worker.close()
    assert told(worker, TextOrder("x", 9))[0].error.code == "stopping"


@pytest.mark.parametrize("error", [RuntimeError("no memory"), ValueError("no such text")])
def test_a_text_that_cannot_be_begun_fails_alone(monkeypatch, caplog, error):
    text = toy()
    worker, encode, other = EngineWorker(text, n_pages=64, page_size=4), text.encode, SimpleQueue()

    def failing(prompt):
        if prompt == "bad":
            raise error
        return encode(prompt)

    monkeypatch.setattr(text, "encode", failing)
    worker.mailbox.put(lambda: worker.submit(TextOrder("x", 30, first=BIAS), other.put))
    [news] = told(worker, TextOrder("bad", 9))
    assert news.error.status == (500 if isinstance(error, RuntimeError) else 400) and str(error) in str(news.error)
    assert other.get(timeout=20).reason == "length"
    assert told(worker, TextOrder("x", 3, first=BIAS))[-1].reason == "length"
    worker.close()


def test_other_models_are_served_one_by_one():
    text, limits = rnn(), Limits()
    worker = build_worker(text, limits)
    engine_worker = build_worker(toy(), limits)
    assert isinstance(worker, SingleWorker) and isinstance(engine_worker, EngineWorker)
    assert engine_worker.engine.pool.n_pages == 8 * 96 // 16
    engine_worker.close()
    with running(text, worker=worker) as server:
        for stream in (False, True):
            body = {"model": NAME, "prompt": ["ab", "c"], "max_tokens": 9, "seed": 5, "stream": stream}
            status, _, data = server.ask("/v1/completions", body)
            assert status == 200 and data
        answer = server.client().completions.create(model=NAME, prompt="ab", max_tokens=9, seed=5)
        assert answer.choices[0].text == alone(text, TextOrder("ab", 9, seed=5))[0]
        assert b"minillm_pages" not in server.ask("/metrics")[2]


def test_an_ngram_table_is_served():
    model = Ngram(NgramConfig(order=2), BYTES.vocab_size).eval()
    text = TextModel(model, BYTES, documents=True)
    order = TextOrder("ab", 5, seed=2)
    worker = SingleWorker(text)
    assert told(worker, order)[0].text == alone(text, order)[0]
    worker.close()


def test_a_translator_reads_text_and_no_ids():
    torch.manual_seed(0)
    shape = EncoderDecoderConfig(n_layers=1, d_model=12, n_heads=3, d_ff=10, context_length=30)
    text = Translator(EncoderDecoder(shape, BYTES.vocab_size).double().eval(), BYTES, documents=True)
    worker = build_worker(text, Limits())
    [expected] = text.generate(["ab c"], SamplingConfig(), max_new_tokens=7, seeds=[3])
    with running(text, worker=worker) as server:
        body = {"model": NAME, "prompt": "ab c", "max_tokens": 7, "seed": 3}
        [choice] = server.client().completions.create(**body).choices
        assert choice.text == expected.text and expected.text
        status, error = server.error("/v1/completions", body | {"prompt": [97, 98]})
        assert status == 400 and "an encoder reads it" in error["message"]
        status, error = server.error("/v1/completions", body | {"prompt": " "})
        assert status == 400 and "expected a sentence" in error["message"]
