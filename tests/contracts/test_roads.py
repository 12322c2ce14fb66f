"""All ways of decoding agree: with any cache, draft, sharing or batching, greedy decoding in float64 gives one text.

The reference reads the whole text anew for every token and takes the largest logit. A way that a model cannot take
raises an error. Reads may be ragged in any form: EMPTY may be first, last and in the middle, and rows may end level.
"""

from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from minillm.cache.build_cache import CacheConfig, build_cache
from minillm.cache.paged import PagedCache
from minillm.cache.quantized import QuantizedCache
from minillm.datasets.batch import Batch
from minillm.decoding.beam import BeamConfig, beam_search
from minillm.decoding.drafts import ModelDrafter, PromptLookup
from minillm.decoding.generate import generate
from minillm.decoding.sampler import Sampler, SamplingConfig, build_pipeline, seeded
from minillm.decoding.speculative import speculate
from minillm.engine.engine import Engine
from minillm.engine.request import Request
from minillm.engine.scheduler import Scheduler
from minillm.models.encoder_decoder import EncoderDecoder, EncoderDecoderConfig
from minillm.models.ngram import Ngram, NgramConfig
from minillm.models.rnn import RNN, RNNConfig
from tests.adapters.models import KINDS, adapted
from tests.ragged import scattered
from tests.tiny import SHAPES, VOCAB, decoder, tokens

END, N_NEW = 2, 9
GREEDY = SamplingConfig(temperature=0)
PROMPTS = [[5, 1, 7, 7, 3, 1, 7], [4], [9, 9, 8, 11, 3]]
STRANGERS = [[6, 6, 1, 3, 5], [5, 1, 7, 7, 3], [20], [17, 3, 3, 3, 3, 3, 3, 3]]


def table() -> Ngram:
    model = Ngram(NgramConfig(order=3), VOCAB).double()
    text = tokens(4, 40, seed=3)
    model.count(Batch(text[:, :-1], text[:, 1:]))
    return model


def recurrent(cell: str) -> RNN:
    torch.manual_seed(1)
    return RNN(RNNConfig(cell=cell, n_layers=2, d_hidden=11, init_embed=1.5), VOCAB).double().eval()


def translator() -> EncoderDecoder:
    torch.manual_seed(2)
    sizes = {"n_layers": 2, "d_model": 12, "n_heads": 3, "d_ff": 17, "context_length": 32}
    model = EncoderDecoder(EncoderDecoderConfig(**sizes), VOCAB).double().eval()
    for parameter in model.parameters():
        parameter.data *= 2
    return model


MODELS = {
    "decoder": decoder(),
    "grouped": decoder(**SHAPES["llama"]),
    "value embeddings": decoder(**SHAPES["value embeddings"]),
    "n-gram embeddings": decoder(**SHAPES["n-gram embeddings"]),
    "window": decoder(**SHAPES["window"]),
    "experts": decoder(**SHAPES["experts"]),
    "lstm": recurrent("lstm"),
    "n-gram": table(),
    "encoder-decoder": translator(),
    "a correction": adapted(KINDS["lora"], lambda: decoder(**SHAPES["experts"])),
    "a prefix": adapted(KINDS["prefix"], lambda: decoder(**SHAPES["llama"])),
    "a soft prompt": adapted(KINDS["soft prompt"], lambda: decoder(**SHAPES["value embeddings"])),
}
DRAFTS = {
    "a table": ModelDrafter(table()),
    "a GRU": ModelDrafter(recurrent("gru")),
    "another decoder": ModelDrafter(decoder(seed=9, **SHAPES["normed queries"])),
    "the target itself": None,
    "the prompt": PromptLookup(VOCAB),
}


def sources(n: int) -> torch.Tensor:
    """What the translator translates: every row the same, so that rows may come and go."""
    return torch.tensor([[3, 8, 5, END]]).expand(n, -1)


def memory(model, n: int, **how):
    """What a state of n rows starts from; None: the model alone."""
    if isinstance(model, EncoderDecoder):
        return partial(model.start, source=sources(n), **how)
    return partial(model.start, **how) if how else None


@torch.inference_mode()
def slowly(model, prompt: list[int]) -> list[int]:
    """The reference."""
    text, more = list(prompt), {"source": sources(1)} if isinstance(model, EncoderDecoder) else {}
    while len(text) < len(prompt) + N_NEW:
        token = int(model(torch.tensor([text]), **more)[0][0, -1].argmax())
        if token == END:
            break
        text.append(token)
    return text[len(prompt) :]


def by_generate(model, prompts, write=generate, **how):
    how = {"max_new_tokens": N_NEW, "generators": seeded(range(len(prompts))), "end_id": END, **how}
    return [c.tokens for c in write(model, prompts, Sampler(build_pipeline(GREEDY)), **how)]


def one_by_one(model, prompts, **how):
    return [by_generate(model, [prompt], start=memory(model, 1, **how))[0] for prompt in prompts]


def in_a_batch(model, prompts, **how):
    return by_generate(model, prompts, start=memory(model, len(prompts), **how))


def without_a_state(model, prompts):
    return by_generate(model, prompts, use_cache=False)


def by_one_beam(model, prompts):
    how = {"max_new_tokens": N_NEW, "end_id": END, "start": memory(model, len(prompts))}
    return [found[0].tokens for found in beam_search(model, prompts, BeamConfig(beams=1, length_penalty=0.0), **how)]


def with_a_draft(drafter, model, prompts):
    write = partial(speculate, drafter=drafter or ModelDrafter(model, 1.0, memory(model, len(prompts))))
    return by_generate(model, prompts, write, start=memory(model, len(prompts)))


def served(model, prompts, strangers=(), **how):
    """By the engine, which also serves strangers that came before, between and after."""
    engine = Engine(model, end_id=END, **how)
    ask = partial(Request, max_new_tokens=N_NEW, sampling=GREEDY)
    jobs = []
    for i, prompt in enumerate(prompts):
        if strangers:
            engine.add(Request(strangers[i], max_new_tokens=7, sampling=SamplingConfig(), seed=i))
            engine.step()
        jobs.append(engine.add(ask(prompt)))
    for stranger in strangers[len(prompts) :]:
        engine.add(ask(stranger))
    while engine.busy:
        engine.step()
    return [job.completion.tokens for job in jobs]


def asked_again(model, prompts, page_size=2, **how):
    """The second time every full page of the prompts is known."""
    engine = Engine(model, end_id=END, page_size=page_size, **how)
    requests = [Request(prompt, max_new_tokens=N_NEW, sampling=GREEDY) for prompt in prompts]
    engine.run(requests)
    return [completion.tokens for completion in engine.run(requests)]


ROADS = {
    "no state": without_a_state,
    "one by one": one_by_one,
    "a ragged batch": in_a_batch,
    "one beam": by_one_beam,
    **{f"a draft of {name}": partial(with_a_draft, drafter) for name, drafter in DRAFTS.items()},
    "pages": partial(in_a_batch, cache=partial(PagedCache, n_pages=67, page_size=3)),
    "a rounded cache, nothing rounded yet": partial(in_a_batch, cache=partial(QuantizedCache, bits=8)),
    "heavy hitters, with room for all": partial(in_a_batch, cache=build_cache(CacheConfig("h2o", 40))),
    "a compressed prompt, with room for all": partial(in_a_batch, cache=build_cache(CacheConfig("snapkv", 40))),
    "the engine": partial(served),
    "the engine, among strangers": partial(served, strangers=STRANGERS),
    "the engine, in chunks": partial(served, strangers=STRANGERS, chunk=2),
    "the engine, short of memory": partial(served, strangers=STRANGERS, n_pages=7, page_size=3),
    "a known beginning": partial(asked_again),
}
ENGINES = [road for road, take in ROADS.items() if isinstance(take, partial) and take.func in (served, asked_again)]
PAGED_ONLY = "expected a decoder, since the engine needs a paged KV cache"


def refusal(name: str, road: str) -> str | None:
    """What is said where a model cannot take a road; None where it can."""
    if road in ENGINES:
        return PAGED_ONLY if name in ("lstm", "n-gram", "encoder-decoder") else None
    if road == "no state":
        return "source" if name == "encoder-decoder" else None
    if name == "n-gram embeddings" and ("room for all" in road or "rounded" in road):
        return "keeps all tokens as they are"
    needs_keys = road == "pages" or "room for all" in road or "rounded" in road
    return "unexpected keyword argument 'cache'" if needs_keys and name in ("lstm", "n-gram") else None


@pytest.fixture(scope="module")
def expected():
    return {name: [slowly(model, prompt) for prompt in PROMPTS] for name, model in MODELS.items()}


@pytest.mark.parametrize("road", ROADS)
@pytest.mark.parametrize("name", MODELS)
def test_every_road_gives_the_same_tokens_or_says_why_not(name, road, expected):
    said = refusal(name, road)
    if said is None:
        assert ROADS[road](MODELS[name], PROMPTS) == expected[name]
    else:
        with pytest.raises((ValueError, TypeError), match=said):
            ROADS[road](MODELS[name], PROMPTS)


@st.composite
def level_prompts(draw):
    """Prompts of one length, mostly with a common beginning, so that rows with more and less to read end together."""
    length = draw(st.integers(1, 9))
    texts = st.lists(st.integers(0, VOCAB - 1), min_size=length, max_size=length)
    first, shared = draw(texts), st.integers(0, length)
    return [first, *(first[:n] + draw(texts)[n:] for n in draw(st.lists(shared, min_size=6, max_size=6)))]


@pytest.mark.parametrize("road", ROADS)
@settings(max_examples=20)
@given(prompts=level_prompts(), data=st.data())
def test_every_road_gives_the_same_tokens_however_ragged_its_reads_are(road, prompts, data):
    name = data.draw(st.sampled_from([name for name in MODELS if refusal(name, road) is None]))
    (prompts, strangers), model, how = (prompts[:3], prompts[3:]), MODELS[name], {}
    if road in ENGINES:  # its reads are as ragged as pages that are known and a chunk for all readers make them
        how["chunk"] = data.draw(st.integers(1, 2 * len(prompts[0]) + 1))
        how |= {} if "n_pages" in ROADS[road].keywords else {"page_size": data.draw(st.integers(1, 5))}
        how |= {"strangers": strangers} if "strangers" in ROADS[road].keywords else {}
    else:
        model = scattered(model, data.draw(st.integers(0, 999)))
    assert ROADS[road](model, prompts, **how) == [slowly(MODELS[name], prompt) for prompt in prompts]


def test_the_texts_are_not_all_alike(expected):
    assert len({str(text) for texts in expected.values() for text in texts}) > 12
    assert any(len(text) < N_NEW for texts in expected.values() for text in texts), "one ends by itself"


def test_memory_was_really_short(monkeypatch):
    stopped = []
    monkeypatch.setattr(
        Scheduler, "_stop", lambda self, job, stop=Scheduler._stop: (stopped.append(job.n_new), stop(self, job))
    )
    ROADS["the engine, short of memory"](MODELS["decoder"], PROMPTS)
    assert any(stopped), "somebody had written something, lost its pages and went on"
