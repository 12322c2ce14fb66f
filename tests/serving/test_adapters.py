"""Adapters that are served beside their base: requests choose by the name of a model, and each text is as alone."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from minillm import serve
from minillm.adapters.beside import beside
from minillm.adapters.lora import LoRAConfig
from minillm.adapters.prefix import PrefixConfig
from minillm.runs import folder
from minillm.serve import serve_run
from minillm.serving.limits import Limits
from minillm.serving.worker import TextOrder
from minillm.text.model import TextModel
from tests.adapters.models import train_a_little
from tests.serving.running import BYTES, NAME, Toy, alone, running, texts, toy
from tests.small_runs import started

pytest.importorskip("uvicorn")


def adapted(base: TextModel, adapter, seed: int) -> TextModel:
    torch.manual_seed(seed)
    text = TextModel(train_a_little(beside(base.model, adapter), seed).eval(), BYTES, documents=True)
    text.template = Toy()
    return text


@pytest.fixture(scope="module")
def models():
    base = toy()
    kinds = {"rank": LoRAConfig(rank=2, targets=("to_*", "up")), "memory": PrefixConfig(length=3)}
    return {NAME: base} | {name: adapted(base, kind, i) for i, (name, kind) in enumerate(kinds.items())}


@pytest.fixture(scope="module")
def server(models):
    adapters = {name: text for name, text in models.items() if name != NAME}
    with running(models[NAME], adapters=adapters) as server:
        yield server


def test_each_name_writes_what_its_model_writes_alone(server, models):
    asked = [(name, prompt, seed) for seed, prompt in enumerate(texts(3, 7)) for name in models]

    def ask(name, prompt, seed):
        status, _, data = server.ask(
            "/v1/completions", {"model": name, "prompt": prompt, "seed": seed, "max_tokens": 9}
        )
        assert status == 200
        return json.loads(data)

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda each: ask(*each), asked))
    for (name, prompt, seed), answer in zip(asked, found, strict=True):
        assert answer["model"] == name
        assert answer["choices"][0]["text"] == alone(models[name], TextOrder(prompt, 9, seed=seed))[0]
    by_prompt = {}
    for (_, prompt, _), answer in zip(asked, found, strict=True):
        by_prompt.setdefault(prompt, set()).add(answer["choices"][0]["text"])
    assert any(len(texts) > 1 for texts in by_prompt.values())


def test_a_chat_with_an_adapter(server, models):
    messages = [{"role": "user", "content": "hello"}]
    body = {"messages": messages, "seed": 5, "max_tokens": 7}
    for name, text in models.items():
        status, _, data = server.ask("/v1/chat/completions", body | {"model": name})
        expected = alone(text, TextOrder(text.converse(messages), 7, seed=5))[0]
        assert status == 200 and json.loads(data)["choices"][0]["message"]["content"] == expected


def test_the_names_are_listed_and_others_are_refused(server, models):
    _, _, data = server.ask("/v1/models")
    assert [each["id"] for each in json.loads(data)["data"]] == list(models)
    for name in models:
        assert json.loads(server.ask(f"/v1/models/{name}")[2])["id"] == name
    expected = "expected 'toy' or 'rank' or 'memory'"
    for status, error in (
        server.error("/v1/models/other"),
        server.error("/v1/completions", {"model": "other", "prompt": "a"}),
    ):
        assert status == 404 and error["code"] == "model_not_found" and expected in error["message"]


def test_what_cannot_be_served_together_is_refused(tmp_path, capsys):
    base = started(tmp_path)
    assert serve.main([str(base), "--adapter", str(base)]) == 2
    assert "expected the run of an adapter, found a whole model" in capsys.readouterr().err
    opened = folder.open_run(base)
    with pytest.raises(ValueError, match="--adapter run: expected another name"):
        serve_run(opened, Limits(), adapters=[opened])
    with pytest.raises(ValueError, match="expected none beside --adapter"):
        serve_run(opened, Limits(), "int8", adapters=[opened._replace(path=tmp_path / "other")])
