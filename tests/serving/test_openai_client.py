"""The openai package as a client: round trips, streams, logprobs, and errors as its exceptions."""

import math

import pytest
import torch

from minillm.decoding.penalties import LogitBias
from minillm.decoding.sampler import SamplingConfig
from minillm.serving.bodies import N_SEEDS
from minillm.serving.formats import FINISH
from minillm.serving.worker import TextOrder
from tests.serving.running import BYTES, NAME, alone, running, toy

openai = pytest.importorskip("openai")
pytest.importorskip("uvicorn")

MESSAGES = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "héllo"}]
SETTINGS = [
    {"temperature": 0},
    {"seed": 11},
    {"seed": 3, "temperature": 0.7, "top_p": 0.8, "frequency_penalty": 0.5, "presence_penalty": -0.5},
    {"seed": 4, "extra_body": {"top_k": 7, "min_p": 0.02, "repetition_penalty": 1.2, "no_repeat_ngram": 3}},
    {"seed": 5, "logit_bias": {"101": 6, "116": 6.5, "256": -100}},
    {"seed": 6, "stop": ["e", "AB"]},
    {"seed": 7, "stop": "t", "logit_bias": {"116": 3.5}},
]


@pytest.fixture(scope="module")
def text():
    return toy()


@pytest.fixture(scope="module")
def server(text):
    with running(text) as server:
        yield server


@pytest.fixture(scope="module")
def client(server):
    return server.client()


def order(text, prompt, max_new_tokens, seed=0, stop=(), logit_bias=None, extra_body=None, **sampling):
    """The order that a request should become."""
    bias = tuple(sorted((int(i), float(x)) for i, x in (logit_bias or {}).items()))
    stop = (stop,) if isinstance(stop, str) else tuple(stop)
    sampling = SamplingConfig(**sampling, **(extra_body or {}))
    return TextOrder(prompt, max_new_tokens, sampling, seed, stop, (LogitBias(bias),) if bias else ())


@pytest.mark.parametrize("how", SETTINGS, ids=str)
def test_a_chat_is_what_generate_writes_alone_whole_and_streamed(client, text, how):
    ids = text.converse(MESSAGES)
    expected, reason, _ = alone(text, order(text, ids, 40, **how))
    answer = client.chat.completions.create(model=NAME, messages=MESSAGES, max_tokens=40, **how)
    [choice] = answer.choices
    assert (choice.message.content, choice.finish_reason) == (expected, FINISH[reason])
    assert choice.message.role == "assistant" and answer.object == "chat.completion" and answer.model == NAME
    assert answer.usage.prompt_tokens == len(ids) and choice.logprobs is None
    assert answer.usage.total_tokens == len(ids) + answer.usage.completion_tokens
    chunks = [*client.chat.completions.create(model=NAME, messages=MESSAGES, max_tokens=40, stream=True, **how)]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == expected
    assert chunks[0].choices[0].delta.role == "assistant" and not chunks[0].choices[0].delta.content
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [None] * (len(chunks) - 1) + [FINISH[reason]]
    assert {chunk.object for chunk in chunks} == {"chat.completion.chunk"} and len({chunk.id for chunk in chunks}) == 1
    assert chunks[-1].choices[0].delta.content is None and all(chunk.usage is None for chunk in chunks)


def test_the_steps_of_an_earlier_answer_are_a_part_of_the_conversation(client, text):
    answer = {"role": "assistant", "content": "b"}
    ids = text.converse([*MESSAGES, answer | {"think": "Hm."}, MESSAGES[-1]])
    expected, _, _ = alone(text, order(text, ids, 9))
    sent = [*MESSAGES, answer | {"reasoning_content": "Hm."}, MESSAGES[-1]]
    found = client.chat.completions.create(model=NAME, messages=sent, max_tokens=9, seed=0)
    assert (found.choices[0].message.content, found.usage.prompt_tokens) == (expected, len(ids))


@pytest.mark.parametrize("how", SETTINGS, ids=str)
def test_a_completion_is_what_generate_writes_alone_whole_and_streamed(client, text, how):
    expected, reason, _ = alone(text, order(text, "once", 30, **how))
    answer = client.completions.create(model=NAME, prompt="once", max_tokens=30, **how)
    assert (answer.choices[0].text, answer.choices[0].finish_reason) == (expected, FINISH[reason])
    assert answer.object == "text_completion" and answer.usage.prompt_tokens == 5, "END and four letters"
    chunks = [*client.completions.create(model=NAME, prompt="once", max_tokens=30, stream=True, **how)]
    assert "".join(chunk.choices[0].text for chunk in chunks) == expected
    assert chunks[-1].choices[0].finish_reason == FINISH[reason]


def test_prompts_and_choices_come_in_order_each_with_its_own_seed(client, text):
    prompts = ["a", "bc", "def"]
    how = {"model": NAME, "prompt": prompts, "n": 2, "seed": 20, "max_tokens": 12}
    expected = [alone(text, order(text, prompt, 12, seed=20 + i))[0] for prompt in prompts for i in range(2)]
    answer = client.completions.create(**how)
    assert [choice.text for choice in answer.choices] == expected
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3, 4, 5]
    assert answer.usage.prompt_tokens == 2 + 3 + 4, "each prompt is counted once"
    joined = [""] * 6
    for chunk in client.completions.create(**how, stream=True):
        joined[chunk.choices[0].index] += chunk.choices[0].text
    assert joined == expected
    ids = [text.encode("a"), [65, 66]]
    answer = client.completions.create(model=NAME, prompt=ids, seed=20, max_tokens=12)
    assert [choice.text for choice in answer.choices] == [alone(text, order(text, p, 12, seed=20))[0] for p in ids]


def test_without_a_seed_one_is_drawn_and_told_and_gives_the_same_text_again(client):
    first = client.completions.create(model=NAME, prompt="x", max_tokens=20)
    again = client.completions.create(model=NAME, prompt="x", max_tokens=20, seed=first.seed)
    assert first.choices[0].text == again.choices[0].text and 0 <= first.seed < N_SEEDS
    seeds = {client.completions.create(model=NAME, prompt="x", max_tokens=0).seed for _ in range(3)}
    assert len(seeds) > 1


def test_null_is_the_default_and_zero_is_not(client, text):
    plain = alone(text, order(text, "q", 16, seed=1))[0]
    null = client.completions.create(
        model=NAME, prompt="q", seed=1, temperature=None, top_p=None, stop=None, max_tokens=None, logit_bias=None
    )
    assert null.choices[0].text == plain, "the default of max_tokens is 16"
    greedy = client.completions.create(model=NAME, prompt="q", seed=1, temperature=0)
    assert greedy.choices[0].text == alone(text, order(text, "q", 16, temperature=0))[0] != plain


def test_the_settings_of_the_run_are_the_default():
    text = toy()
    with running(text, sampling=SamplingConfig(top_k=1)) as server:
        client = server.client()
        greedy, drawn = (
            client.completions.create(model=NAME, prompt="q", seed=1, extra_body=more) for more in ({}, {"top_k": 0})
        )
    assert greedy.choices[0].text == alone(text, order(text, "q", 16, temperature=0))[0]
    assert drawn.choices[0].text == alone(text, order(text, "q", 16, seed=1))[0]


def test_a_chat_without_a_limit_ends_at_the_context(client, text):
    how = {"seed": 2, "logit_bias": {"256": -100}}
    ids = text.converse(MESSAGES)
    answer = client.chat.completions.create(model=NAME, messages=MESSAGES, **how)
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.total_tokens == text.model.context_length
    assert answer.choices[0].message.content == alone(text, order(text, ids, 96, **how))[0]


def test_the_usage_comes_last_if_it_is_asked_for(client):
    how = {"model": NAME, "messages": MESSAGES, "seed": 1, "max_tokens": 9, "stream": True}
    chunks = [*client.chat.completions.create(**how, stream_options={"include_usage": True})]
    assert chunks[-1].choices == [] and all(chunk.choices and chunk.usage is None for chunk in chunks[:-1])
    plain = client.chat.completions.create(**how | {"stream": False})
    assert chunks[-1].usage == plain.usage and plain.usage.completion_tokens == 9


@pytest.mark.parametrize("how", [{}, {"stop": ["e", "AB"]}, {"logit_bias": {"195": 6, "169": 8}}, {"stop": "é"}])
def test_logprobs_are_those_of_the_untransformed_model_and_the_same_in_a_stream(client, text, how):
    how = {"seed": 6, "temperature": 0.8} | how
    ids = text.converse(MESSAGES)
    expected, _, logprobs = alone(text, order(text, ids, 30, **how))
    asked = {"model": NAME, "messages": MESSAGES, "max_tokens": 30, "logprobs": True, "top_logprobs": 3, **how}
    [choice] = client.chat.completions.create(**asked).choices
    content = choice.logprobs.content
    assert choice.message.content == expected
    assert [each.logprob for each in content] == pytest.approx(logprobs[: len(content)], abs=1e-9)
    drawn = [each.bytes[0] for each in content]
    assert bytes(drawn).decode(errors="replace") == expected, "a token that a stop cut away is not told of"
    read = list(ids)
    for each, token in zip(content, drawn, strict=True):
        nats = text.model(torch.tensor([read]))[0][0, -1].detach().log_softmax(-1)
        best = nats.topk(3)
        assert [top.logprob for top in each.top_logprobs] == pytest.approx(best.values.tolist(), abs=1e-9)
        names = [top.bytes and top.bytes[0] for top in each.top_logprobs]
        assert names == [i if i < 256 else None for i in best.indices.tolist()]
        assert each.logprob == pytest.approx(float(nats[token]), abs=1e-9)
        read.append(token)
    chunks = [*client.chat.completions.create(**asked, stream=True)]
    streamed = [each for chunk in chunks if chunk.choices[0].logprobs for each in chunk.choices[0].logprobs.content]
    assert [each.bytes for each in streamed] == [each.bytes for each in content]
    assert [each.logprob for each in streamed] == pytest.approx([each.logprob for each in content], abs=1e-9)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == expected


def test_logprobs_of_a_completion_name_tokens_and_places(client, text):
    answer = client.completions.create(model=NAME, prompt="once", seed=8, max_tokens=20, logprobs=2)
    [choice] = answer.choices
    found = choice.logprobs
    assert len(found.tokens) == len(found.token_logprobs) == len(found.top_logprobs) == len(found.text_offset)
    for place, name in zip(found.text_offset, found.tokens, strict=True):
        assert name.startswith("bytes:") or choice.text[place] == name, "a place counts characters"
    assert all(len(top) == 2 for top in found.top_logprobs)
    assert all(logprob <= 0 for logprob in found.token_logprobs)


def test_an_echo_is_the_prompt_before_the_text(client, text):
    how = {"model": NAME, "seed": 8, "max_tokens": 8}
    plain = client.completions.create(prompt="once", **how).choices[0].text
    assert client.completions.create(prompt="once", echo=True, **how).choices[0].text == "once" + plain
    chunks = client.completions.create(prompt="once", echo=True, stream=True, **how)
    assert "".join(chunk.choices[0].text for chunk in chunks) == "once" + plain
    assert client.completions.create(prompt=[72, 105], echo=True, **how).choices[0].text.startswith("Hi")


def test_models_are_listed(client):
    assert [model.id for model in client.models.list()] == [NAME]
    assert client.models.retrieve(NAME).owned_by == "minillm"
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("gpt-5")
    assert caught.value.code == "model_not_found"


def test_errors_are_exceptions_of_the_package(client, server):
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model=NAME, messages=MESSAGES, temperature=-1)
    assert caught.value.param == "temperature" and "temperature = -1" in caught.value.message
    with pytest.raises(openai.NotFoundError):
        client.completions.create(model="other", prompt="x")
    with pytest.raises(openai.BadRequestError, match="no sentence vectors"):
        client.embeddings.create(model=NAME, input="x")
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(model=NAME, prompt="x" * 96)
    assert caught.value.code == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError) as caught:  # in a stream too, and with its own status
        client.completions.create(model=NAME, prompt="x", max_tokens=2, extra_body={"min_new_tokens": 3}, stream=True)
    assert "min_new_tokens = 3" in caught.value.message


def test_a_run_without_a_template_names_the_other_route():
    with running(toy(template=False)) as server, pytest.raises(openai.BadRequestError, match="/v1/completions"):
        server.client().chat.completions.create(model=NAME, messages=MESSAGES)


def test_a_key_is_asked_for():
    with running(toy(), key="se3ret") as server:
        assert [model.id for model in server.client(api_key="se3ret").models.list()] == [NAME]
        for key in ("se3re", "se3ret1", "SE3RET", "é"):
            with pytest.raises((openai.AuthenticationError, UnicodeEncodeError)):
                server.client(api_key=key).models.list()


class Vectors:
    """An embedder: the number of letters and of e's."""

    tokenizer = BYTES

    def vectors(self, texts):
        if "bad" in texts:
            raise ValueError("text = 'bad': expected a good one")
        return torch.tensor([[len(text), text.count("e") / 3] for text in texts], dtype=torch.float64)


def test_an_encoder_offers_vectors_and_no_text():
    with running(embedder=Vectors()) as server:
        client = server.client()
        answer = client.embeddings.create(model=NAME, input=["eel", "sea"])  # the package asks for base64
        assert [each.embedding for each in answer.data] == [[3, pytest.approx(2 / 3)], [3, pytest.approx(1 / 3)]]
        assert answer.usage.prompt_tokens == 6 and [each.index for each in answer.data] == [0, 1]
        plain = client.embeddings.create(model=NAME, input="eel", encoding_format="float").data[0].embedding
        assert plain == pytest.approx(answer.data[0].embedding) and math.isclose(plain[1], 2 / 3, rel_tol=1e-6)
        for bad in ("bad", [], [1, 2], ""):
            with pytest.raises(openai.BadRequestError):
                client.embeddings.create(model=NAME, input=bad)
        with pytest.raises(openai.BadRequestError, match="writes no text"):
            client.completions.create(model=NAME, prompt="x")
        assert server.ask("/health")[0] == 200 and b"running 0" in server.ask("/metrics")[2]


def test_special_tokens_and_parts_of_characters_have_names():
    from minillm.serving.formats import Spelling

    spelling = Spelling(BYTES)
    assert [spelling.name(i) for i in (65, 195, 256, 300)] == ["A", "bytes:\\xc3", "<|end|>", "<|unused 300|>"]
    assert [spelling.bytes_of(i) for i in (65, 256, 300)] == [b"A", None, None]
