"""`generate` equals a slow loop over single rows: with and without a state, in batches or alone, for every stop."""

import functools
import itertools
from dataclasses import replace
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from minillm.datasets.batch import Batch
from minillm.decoding.beam import BeamConfig, beam_search
from minillm.decoding.drafts import PromptLookup
from minillm.decoding.generate import generate, stream
from minillm.decoding.presets import PRESETS
from minillm.decoding.rows import pad_left
from minillm.decoding.sampler import Sampler, SamplingConfig, build_pipeline, seeded
from minillm.decoding.speculative import speculate
from minillm.decoding.stopping import StopText
from minillm.lessons import generation as lesson
from minillm.models.decoder import Decoder, DecoderConfig
from minillm.models.ngram import Ngram, NgramConfig
from minillm.models.rnn import CELLS, RNN, RNNConfig
from minillm.tokenizers.char import CharTokenizer
from tests.decoding.toys import AT_THE_END_OF_A_CONTEXT_OF_12, Markov, Remembers

law = settings(max_examples=40, deadline=None, derandomize=True)
V = 7
GREEDY = Sampler(build_pipeline(SamplingConfig(temperature=0)))

all_prompts = st.lists(st.lists(st.integers(0, V - 1), min_size=1, max_size=12), min_size=1, max_size=5)
samplings = st.sampled_from(
    [
        SamplingConfig(),
        SamplingConfig(temperature=0),
        SamplingConfig(temperature=2, top_k=5, repetition_penalty=1.3),
        SamplingConfig(temperature=2, min_new_tokens=3, frequency_penalty=0.3),
        SamplingConfig(no_repeat_ngram=3, top_p=0.9),
    ]
)


def sampler_for(sampling, prompts, end_id):
    return Sampler(build_pipeline(sampling, end_id=end_id, prompt_lengths=[len(p) for p in prompts]))


@torch.inference_mode()
def slowly(model, prompt, sampling, seed, max_new_tokens, end_id):
    """Oracle: one row, the whole text read again for each token: (tokens, logprobs, reason)."""
    sampler, generators, text, logprobs = sampler_for(sampling, [prompt], end_id), seeded([seed]), list(prompt), []
    for _ in range(max_new_tokens):
        if len(text) == model.context_length:
            return text[len(prompt) :], logprobs, "context"
        logits = model(torch.tensor([text]))[0][:, -1]
        token = int(sampler(logits, torch.tensor([text]), generators))
        logprobs.append(float(logits.log_softmax(-1)[0, token]))
        if token == end_id:
            return text[len(prompt) :], logprobs, "end"
        text.append(token)
    return text[len(prompt) :], logprobs, "length"


@functools.cache
def decoder(positions="rotary"):
    torch.manual_seed(0)
    config = DecoderConfig(
        n_layers=2, d_model=12, n_heads=3, n_kv_heads=1, d_ff=10, context_length=16, positions=positions, init_std=0.6
    )
    return Decoder(config, V).double().eval()


@functools.cache
def ngram():
    model = Ngram(NgramConfig(order=3), V).double()
    text = torch.randint(V, (3, 40), generator=torch.Generator().manual_seed(5))
    model.count(Batch(text[:, :-1], text[:, 1:]))
    return model


@functools.cache
def recurrent(cell):
    torch.manual_seed(0)
    return RNN(RNNConfig(cell=cell, d_hidden=11, init_embed=1.5), V).double().eval()


MODELS = {
    "ngram": ngram(),
    "markov": Markov(torch.randn(V, V, generator=torch.Generator().manual_seed(3), dtype=torch.float64)),
    "remembers": Remembers(V, context_length=12).eval(),
    "rotary": decoder(),
    "learned": decoder("learned"),
    **{cell: recurrent(cell) for cell in CELLS},
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("use_cache", [True, False])
@law
@given(prompts=all_prompts, sampling=samplings, seed=st.integers(0, 99), n=st.integers(0, 12))
def test_a_ragged_batch_is_its_rows_alone_and_slow(name, use_cache, prompts, sampling, seed, n):
    model, seeds = MODELS[name], [seed + i for i in range(len(prompts))]
    sampling = replace(sampling, min_new_tokens=min(sampling.min_new_tokens, n))
    how = {"max_new_tokens": n, "end_id": 2, "use_cache": use_cache, "generators": seeded(seeds)}
    completions = generate(model, prompts, sampler_for(sampling, prompts, 2), **how)
    for prompt, s, completion in zip(prompts, seeds, completions, strict=True):
        tokens, logprobs, reason = slowly(model, prompt, sampling, s, n, end_id=2)
        assert (completion.tokens, completion.reason) == (tokens, reason)
        assert completion.logprobs == pytest.approx(logprobs, abs=1e-9)


@pytest.mark.parametrize("name", MODELS)
@settings(max_examples=15, deadline=None, derandomize=True)
@given(prompts=all_prompts, n=st.integers(0, 9), data=st.data())
def test_a_state_that_has_read_the_beginning_of_each_prompt_reads_on(name, prompts, n, data):
    model = MODELS[name]
    n_read = [data.draw(st.integers(0, len(prompt) - 1)) for prompt in prompts]

    @torch.inference_mode()
    def start(n_rows):
        state = model.start(n_rows)
        begun, width = pad_left([prompt[:k] for prompt, k in zip(prompts, n_read, strict=True)])
        return model(begun, state)[1] if width else state

    how = {"max_new_tokens": n, "end_id": 2}
    written = [
        generate(model, prompts, Sampler(), generators=seeded(range(len(prompts))), **how, **more)
        for more in ({}, {"start": start})
    ]
    for fresh, later in zip(*written, strict=True):
        assert (later.tokens, later.reason) == (fresh.tokens, fresh.reason)


def test_a_state_that_has_read_all_of_a_prompt_is_refused():
    def start(n_rows):
        return decoder()(torch.tensor([[1, 2], [3, -1]]), decoder().start(n_rows))[1]

    with pytest.raises(ValueError, match="expected a state that has not read the last token of its prompt"):
        generate(decoder(), [[1, 2, 4], [3]], Sampler(), max_new_tokens=2, generators=seeded([0, 1]), start=start)


@pytest.mark.parametrize("name", MODELS)
@settings(max_examples=15, deadline=None, derandomize=True)
@given(prompts=all_prompts, seed=st.integers(0, 99), n=st.integers(0, 12), is_greedy=st.booleans())
def test_a_ragged_batch_writes_what_the_lesson_writes_after_each_prompt(name, prompts, seed, n, is_greedy):
    model, seeds = MODELS[name], [seed + i for i in range(len(prompts))]
    how = {"max_new_tokens": n, "end_id": 2, "generators": seeded(seeds)}
    completions = generate(model, prompts, GREEDY if is_greedy else Sampler(), **how)
    for prompt, generator, completion in zip(prompts, seeded(seeds), completions, strict=True):
        choose = lesson.greedy if is_greedy else partial(lesson.draw, generator=generator)
        n_most = min(n, (model.context_length or 99) - len(prompt))
        with torch.inference_mode():
            new = lesson.generate(lambda text: model(torch.tensor([text]))[0][0, -1], prompt, choose, n_most, end_id=2)
        assert completion.tokens == new


@law
@given(all_prompts, st.randoms(use_true_random=False), samplings)
def test_a_row_writes_the_same_in_any_company_and_order(prompts, random, sampling):
    """A row's seed determines its text, whatever other rows are in the batch and whenever they end."""
    rows = [(prompt, 100 + i) for i, prompt in enumerate(prompts)]
    chosen = random.sample(rows, random.randint(1, len(rows)))
    written = []
    for batch in (rows, chosen):
        texts, seeds = zip(*batch, strict=True)
        sampler = sampler_for(sampling, texts, 1)
        out = generate(MODELS["remembers"], texts, sampler, max_new_tokens=8, generators=seeded(seeds), end_id=1)
        written.append(dict(zip(seeds, out, strict=True)))
    for _, seed in chosen:
        assert written[1][seed].tokens == written[0][seed].tokens


def test_one_generation_leaves_no_trace_on_the_next():
    model = Remembers(V).eval()
    a, b = [[1, 2, 3], [4]], [[5], [6, 0], [1]]

    def run(prompts):
        return generate(model, prompts, Sampler(), max_new_tokens=9, generators=seeded(range(len(prompts))))

    fresh = run(b)
    run(a)
    assert run(b) == fresh


@pytest.mark.parametrize("end_id", range(V))
def test_the_end_token_truncates_for_every_choice_of_it_and_every_budget(end_id):
    """Generate without END, then make a token of that text END."""
    model, prompts = Remembers(V).eval(), [[1], [2, 3], [4, 5, 6]]
    free = generate(model, prompts, GREEDY, max_new_tokens=10, generators=seeded([0] * 3))
    for n in range(11):
        out = generate(model, prompts, GREEDY, max_new_tokens=n, generators=seeded([0] * 3), end_id=end_id)
        for row, completion in enumerate(out):
            text = free[row].tokens[:n]
            ends = end_id in text
            place = text.index(end_id) if ends else n
            assert completion.tokens == text[:place]
            assert completion.reason == ("end" if ends else "length")
            assert completion.logprobs == free[row].logprobs[: place + ends], "the end's own is the last"


@pytest.mark.parametrize(("length", "n", "written", "reason"), AT_THE_END_OF_A_CONTEXT_OF_12)
def test_a_row_never_outgrows_the_context(length, n, written, reason):
    model = Remembers(V, context_length=12).eval()
    for use_cache in (True, False):
        out = generate(
            model, [[1] * length, [2]], GREEDY, max_new_tokens=n, generators=seeded([0, 0]), use_cache=use_cache
        )
        assert (len(out[0].tokens), out[0].reason) == (written, reason)
        assert (len(out[1].tokens), out[1].reason) == (n, "length")


def test_a_context_without_limit_goes_on():
    out = generate(MODELS["markov"], [[1] * 300], Sampler(), max_new_tokens=300, generators=seeded([0]))
    assert len(out[0].tokens) == 300


@law
@given(
    st.lists(st.text("abc", min_size=1, max_size=3), min_size=1, max_size=3),
    st.lists(st.text("abc", min_size=1, max_size=4), min_size=1, max_size=3),
    st.integers(0, 20),
    st.integers(0, 99),
)
def test_stop_strings_end_their_row_only(prompts, strings, n, seed):
    tokenizer = CharTokenizer("abc")
    model = Markov(torch.zeros(4, 4, dtype=torch.float64))
    tokens, seeds = [tokenizer.encode(p) for p in prompts], [seed + i for i in range(len(prompts))]
    free = generate(model, tokens, Sampler(), max_new_tokens=n, generators=seeded(seeds), end_id=3)
    stops = [StopText(tokenizer, strings) for _ in prompts]
    out = generate(model, tokens, Sampler(), max_new_tokens=n, generators=seeded(seeds), end_id=3, stops=stops)
    for whole, completion, stop in zip(free, out, stops, strict=True):
        text = tokenizer.decode(whole.tokens)
        found = [text.find(s) for s in strings if s in text]
        assert stop.text == text[: min(found, default=n)]
        assert completion.reason == ("stop" if found else whole.reason)
        assert completion.tokens == whole.tokens[: len(completion.tokens)]
        if not found:
            assert completion == whole


def test_events_come_as_tokens_are_drawn():
    model, prompts = Remembers(V, context_length=9).eval(), [[1, 2], [3] * 9, [4]]
    how = {"max_new_tokens": 5, "end_id": 2}
    steps = list(stream(model, prompts, Sampler(), generators=seeded([5, 6, 7]), **how))
    assert [(e.row, e.token, e.reason) for e in steps[0]] == [(1, None, "context")]
    collected = generate(model, prompts, Sampler(), generators=seeded([5, 6, 7]), **how)
    for row, completion in enumerate(collected):
        events = [e for e in itertools.chain(*steps) if e.row == row]
        assert [e.token for e in events if e.token is not None] == completion.tokens
        assert [e.reason for e in events] == [None] * (len(events) - 1) + [completion.reason]


def test_every_token_is_read_once_and_rows_that_ended_are_not_read():
    model = Remembers(V).eval()
    out = generate(
        model, [[1, 2, 3], [4], [5, 6]], Sampler(), max_new_tokens=12, generators=seeded([21, 22, 23]), end_id=0
    )
    lengths = [len(c.logprobs) for c in out]
    assert len(set(lengths)) == 3, "rows end at different steps, or this test shows nothing"
    assert model.calls == [(3, 3)] + [(sum(n > step for n in lengths), 1) for step in range(1, max(lengths))]
    assert model.calls[-1][0] == 1


def test_nothing_is_read_where_nothing_may_be_written():
    model = Remembers(V).eval()
    out = generate(model, [[1], [2]], GREEDY, max_new_tokens=0, generators=seeded([0, 0]))
    assert [(c.tokens, c.logprobs, c.reason) for c in out] == [([], [], "length")] * 2
    assert generate(model, [], GREEDY, max_new_tokens=5, generators=[]) == []
    assert model.calls == []


def test_the_model_is_in_eval_mode_meanwhile_and_as_it_was_afterwards():
    model = Remembers(V).train()
    frozen = torch.nn.Sequential(model, torch.nn.Dropout().eval())
    quiet = generate(model.eval(), [[1]], GREEDY, max_new_tokens=9, generators=seeded([0]))
    assert generate(model.train(), [[1]], GREEDY, max_new_tokens=9, generators=seeded([0])) == quiet, "no dropout"
    assert model.training and model.dropout.training and not frozen[1].training
    model.dropout.eval()
    events = stream(model, [[1]], GREEDY, max_new_tokens=9, generators=seeded([0]))
    next(events)
    assert not model.training
    assert torch.is_grad_enabled() and not torch.is_inference_mode_enabled(), "the caller's mode is the caller's"
    events.close()
    assert model.training and not model.dropout.training, "also when nobody wants the rest"


def test_the_model_is_as_it_was_after_an_error():
    model = Remembers(V).train()
    banned = Sampler(build_pipeline(SamplingConfig(banned_tokens=tuple(range(V)))))
    with pytest.raises(ValueError, match="banned"):
        generate(model, [[1]], banned, max_new_tokens=3, generators=seeded([0]))
    assert model.training


def test_the_first_state_may_be_chosen():
    model, made = Remembers(V).eval(), []

    def start(batch_size):
        made.append((batch_size, torch.is_inference_mode_enabled()))
        return model.start(batch_size)

    generate(model, [[1], [2, 3]], GREEDY, max_new_tokens=3, generators=seeded([0, 0]), start=start)
    assert made == [(2, True)]
    with pytest.raises(ValueError, match="use_cache"):
        generate(model, [[1]], GREEDY, max_new_tokens=3, generators=seeded([0]), start=start, use_cache=False)


@pytest.mark.parametrize(
    ("prompts", "changed", "message"),
    [
        ([[1], []], {}, "prompt 1 = .*END"),
        ([[1] * 13], {}, "prompt 0 has 13 tokens: expected at most context_length = 12"),
        ([[1, V]], {}, "vocab_size = 7"),
        ([[-1, 2]], {}, "vocab_size = 7"),
        ([[1]], {"max_new_tokens": -1}, "max_new_tokens"),
        ([[1]], {"end_id": V}, "end_id"),
        ([[1]], {"end_id": -1}, "end_id"),
        ([[1]], {"generators": seeded([1, 2])}, "2 generators"),
        ([[1]], {"stops": []}, "0 stops"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_read(prompts, changed, message):
    model = Remembers(V, context_length=12)
    how = {"max_new_tokens": 3, "generators": seeded(range(len(prompts)))} | changed
    with pytest.raises(ValueError, match=message):
        stream(model, prompts, GREEDY, **how)
    assert model.calls == []


WRITERS = {
    "generate": generate,
    "speculate": partial(speculate, drafter=PromptLookup(V)),
    "beams": lambda model, prompts, sampler, generators, **how: beam_search(
        model, prompts, BeamConfig(2), sampler, **how
    ),
}


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
@settings(max_examples=12, deadline=None, derandomize=True)
@given(st.integers(0, 4), st.integers(0, 4))
def test_more_tokens_at_least_than_at_most_are_refused_by_everybody_who_writes(write, least, most):
    model = Remembers(V, context_length=12).eval()
    sampler = Sampler(build_pipeline(SamplingConfig(min_new_tokens=least), end_id=2, prompt_lengths=[1]))
    ask = partial(write, model, [[1]], sampler, max_new_tokens=most, end_id=2, generators=seeded([0]))
    if least <= most:
        ask()
        return
    with pytest.raises(
        ValueError, match=f"min_new_tokens = {least}: expected at most max_new_tokens = {most}; lower it"
    ):
        ask()
    assert model.calls == []


def test_a_decoder_in_float32_writes_what_it_writes_without_a_cache():
    torch.manual_seed(1)
    model = Decoder(DecoderConfig(n_layers=2, d_model=24, n_heads=2, context_length=64, init_std=0.3), 97)
    prompts = [[1, 2, 3], [4], list(range(40)), [9] * 17]
    sampler = Sampler(build_pipeline(PRESETS["creative"], vocab_size=90))
    how = {"max_new_tokens": 30, "end_id": 0}
    cached, read_again = (
        generate(model, prompts, sampler, generators=seeded(range(4)), use_cache=c, **how) for c in (True, False)
    )
    assert [c.tokens for c in cached] == [c.tokens for c in read_again]
    assert all(token < 90 for c in cached for token in c.tokens)
    assert cached[2].reason == "context" or len(cached[2].tokens) < 24
