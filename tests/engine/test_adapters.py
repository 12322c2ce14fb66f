"""Adapters in one engine: each request gets the completion that its own adapter writes alone."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from minillm.adapters.beside import beside
from minillm.adapters.lora import LoRAConfig
from minillm.decoding.generate import generate
from minillm.decoding.sampler import Sampler, SamplingConfig, build_pipeline, seeded
from minillm.engine.engine import Engine
from minillm.engine.request import Request
from tests.adapters.models import KINDS, train_a_little
from tests.tiny import SHAPES, VOCAB, decoder

END = 3
BEGINNING = [5, 1, 4, 1, 2, 6]
SAMPLINGS = [SamplingConfig(temperature=0), SamplingConfig(), SamplingConfig(top_k=3, repetition_penalty=1.3)]


def adapted(model, kinds=KINDS):
    """One adapter of every kind beside a model."""
    found = {}
    for i, (name, kind) in enumerate(kinds.items()):
        torch.manual_seed(i)
        found[name] = train_a_little(beside(model, kind), seed=i).eval()
    return found


def alone(model, request):
    """Oracle: the completion of a request by `generate`."""
    pipeline = build_pipeline(request.sampling, end_id=END, prompt_lengths=[len(request.prompt)])
    how = {"max_new_tokens": request.max_new_tokens, "generators": seeded([request.seed]), "end_id": END}
    return generate(model, [list(request.prompt)], Sampler(pipeline), **how)[0]


@pytest.fixture(scope="module", params=["gpt", "value embeddings"])
def models(request):
    model = decoder(**SHAPES[request.param])
    return {None: model} | adapted(model)


@settings(deadline=None, max_examples=40)
@given(data=st.data())
def test_each_request_gets_what_its_adapter_writes_alone(models, data):
    names = list(models)
    engine = Engine(
        models[None],
        end_id=END,
        n_pages=data.draw(st.integers(12, 40)),
        page_size=data.draw(st.integers(1, 4)),
        chunk=data.draw(st.integers(1, 9)),
        max_running=data.draw(st.integers(1, 6)),
        adapters={name: model for name, model in models.items() if name is not None},
    )
    requests = [
        Request(
            BEGINNING[: data.draw(st.integers(0, 6))]
            + data.draw(st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=3)),
            max_new_tokens=data.draw(st.integers(0, 4)),
            sampling=data.draw(st.sampled_from(SAMPLINGS)),
            seed=data.draw(st.integers(0, 3)),
            adapter=data.draw(st.sampled_from(names)),
        )
        for _ in range(data.draw(st.integers(1, 6)))
    ]
    for request, found in zip(requests, engine.run(requests), strict=True):
        expected = alone(models[request.adapter], request)
        assert (found.tokens, found.reason) == (expected.tokens, expected.reason)
    assert engine.pool.n_free == engine.pool.n_pages


def test_a_text_read_by_one_adapter_is_not_found_by_another(models):
    names = list(models)
    engine = Engine(models[None], page_size=2, adapters={name: model for name, model in models.items() if name})
    texts = {}
    for name in [*names, *reversed(names)]:
        [found] = engine.run([Request([*BEGINNING, 7, 8, 9], max_new_tokens=3, sampling=SAMPLINGS[0], adapter=name)])
        texts.setdefault(name, []).append(found.tokens)
    assert all(first == again for first, again in texts.values())
    assert len({tuple(first) for first, _ in texts.values()}) > 1


def test_the_frozen_weights_are_shared(models):
    frozen = {tensor.data_ptr() for tensor in models[None].parameters()}
    for name, model in models.items():
        own = [each for each in model.parameters() if each.data_ptr() not in frozen]
        assert name is None or sum(each.numel() for each in own) < sum(each.numel() for each in model.parameters()) / 2
        assert {each.data_ptr() for each in model.parameters()} >= frozen, name


def test_a_model_stays_without_the_adapter_beside_it():
    model = decoder(**SHAPES["gpt"])
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    train_a_little(beside(model, LoRAConfig(rank=2)))
    assert model.state_dict().keys() == before.keys()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_what_does_not_fit_is_refused():
    model = decoder(**SHAPES["gpt"])
    engine = Engine(model, adapters=adapted(model, {"one": LoRAConfig(rank=2)}))
    with pytest.raises(ValueError, match=r"adapter = 'two': expected one of the engine's \(one\), or None"):
        engine.add(Request([1], 1, adapter="two"))
    with pytest.raises(ValueError, match=r"adapter 'deep': expected the model's 2 caches .*, found 3"):
        Engine(model, adapters={"deep": decoder(**{**SHAPES["gpt"], "n_layers": 3})})
    engine.readers["one"].model.train()
    with pytest.raises(ValueError, match="expected one in evaluation mode"):
        engine.step()
