"""The engine: each request gets the completion that it gets alone, in order of arrival, and all pages are freed."""

from collections import Counter, defaultdict
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from minillm.decoding.generate import generate
from minillm.decoding.penalties import LogitBias
from minillm.decoding.sampler import Sampler, SamplingConfig, build_pipeline, seeded
from minillm.decoding.stopping import StopText
from minillm.engine.engine import Engine
from minillm.engine.request import Request
from minillm.lessons import continuous_batching as lesson
from minillm.tokenizers.char import CharTokenizer
from tests.engine.sums import Sums, V
from tests.tiny import SHAPES, VOCAB, decoder

END = 3
SAMPLINGS = [
    SamplingConfig(temperature=0),
    SamplingConfig(),
    SamplingConfig(temperature=0.7, top_k=3, repetition_penalty=1.3),
    SamplingConfig(temperature=0, no_repeat_ngram=2, min_new_tokens=2),
]


def slowly(model, request):
    """Oracle: the completion of a request, one token after the other: (tokens, reason)."""
    text, generators, n = list(request.prompt), seeded([request.seed]), len(request.prompt)
    sampler = Sampler(build_pipeline(request.sampling, end_id=END, prompt_lengths=[n]))
    while len(text) - n < request.max_new_tokens:
        if len(text) == model.context_length:
            return text[n:], "context"
        logits = model.logits_after(text)
        if not sampler.shape(logits, torch.tensor([text])).amax().isfinite():
            return text[n:], "failed"
        token = int(sampler(logits, torch.tensor([text]), generators))
        if token == END:
            return text[n:], "end"
        text.append(token)
    return text[n:], "length"


requests = st.builds(
    lambda max_new_tokens, sampling, **how: Request(
        max_new_tokens=max_new_tokens,
        sampling=replace(sampling, min_new_tokens=min(sampling.min_new_tokens, max_new_tokens)),
        **how,
    ),
    prompt=st.builds(
        lambda known, more: [*known, *more],
        st.sampled_from([[], [1, 1, 2, 1, 2, 2], [1, 1, 2, 4, 0, 1, 2, 2]]),
        st.lists(st.integers(0, V - 1), min_size=1, max_size=5),
    ),
    max_new_tokens=st.integers(0, 6),
    sampling=st.sampled_from(SAMPLINGS),
    seed=st.integers(0, 9),
)
actions = st.one_of(requests, requests, st.integers(0, 5), st.tuples(st.just("cancel"), st.integers(0, 9)))
engines = st.fixed_dictionaries(
    {
        "n_pages": st.integers(2, 14),
        "page_size": st.integers(1, 4),
        "max_running": st.integers(1, 5),
        "chunk": st.integers(1, 9),
        "share_prefixes": st.booleans(),
    }
)


class Served:
    """An engine, its jobs, and the events that it has returned for each."""

    def __init__(self, **how):
        self.model = Sums()
        self.engine = Engine(self.model, end_id=END, **how)
        self.jobs, self.told, self.admitted = [], defaultdict(list), []

    def add(self, request):
        engine, n = self.engine, min(request.max_new_tokens, self.model.context_length - len(request.prompt))
        if n and len(request.prompt) + n - 1 > engine.pool.n_pages * engine.pool.page_size:
            with pytest.raises(ValueError, match=r"new tokens: expected at most \d+ together, for n_pages"):
                engine.add(request)
        else:
            self.jobs.append(engine.add(request))

    def step(self):
        """Run one step; check that the oldest job reads, that no job overtakes another, and that no page is lost."""
        scheduler, pool = self.engine.scheduler, self.engine.pool
        open_jobs = [job for job in self.jobs if job.completion.reason is None]
        before = open_jobs[0].n_read if open_jobs else 0
        for event in self.engine.step():
            self.told[event.row].append(event)
        if open_jobs:
            assert open_jobs[0].completion.reason or open_jobs[0].n_read > before, "the oldest reads in every step"
        self.account(scheduler, pool)

    def account(self, scheduler, pool):
        queue = [job.number for job in (*scheduler.running, *scheduler.waiting)]
        assert queue == sorted(queue), "nobody with memory is younger than one who waits"
        assert queue == [job.number for job in self.jobs if job.completion.reason is None]
        users = Counter(page for job in scheduler.running for page in job.table.pages)
        assert pool.users == [users[page] for page in range(pool.n_pages)]
        assert pool.n_free == pool.n_pages - len(users)

    def finish(self):
        for _ in range(2000):
            if not self.engine.busy:
                break
            self.step()
        assert not self.engine.busy, "it comes to an end"
        assert self.engine.pool.n_free == self.engine.pool.n_pages


def assert_served(script, how):
    """Check each completion and its events against the oracle, and that all pages are free at the end."""
    served = Served(**how)
    for action in script:
        if isinstance(action, Request):
            served.add(action)
        elif isinstance(action, int):
            for _ in range(action):
                served.step()
        elif served.jobs:
            served.engine.cancel(served.jobs[action[1] % len(served.jobs)])
            served.account(served.engine.scheduler, served.engine.pool)
    served.finish()
    for job in served.jobs:
        tokens, reason = slowly(served.model, job.request)
        written = job.completion
        if written.reason == "cancelled":
            assert written.tokens == tokens[: len(written.tokens)]
            assert all(event.reason is None for event in served.told[job.number])
        else:
            assert (written.tokens, written.reason) == (tokens, reason)
            assert [event.reason for event in served.told[job.number]][-1:] == [reason]
        events = [event.token for event in served.told[job.number] if event.token is not None]
        assert events == written.tokens


scripts = partial(given, script=st.lists(actions, min_size=1, max_size=12), how=engines)


@settings(max_examples=70)
@scripts()
def test_everyone_gets_what_it_would_get_alone_and_every_page_comes_back(script, how):
    assert_served(script, how)


@pytest.mark.slow
@settings(max_examples=10_000)
@scripts()
def test_ten_thousand_scripts_lose_nothing(script, how):
    assert_served(script, how)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_a_decoder_writes_the_same_for_strangers_together_as_for_each_alone(shape):
    model, g = decoder(**shape), torch.Generator().manual_seed(4)
    asked = []
    for i in range(7):
        prompt = torch.randint(VOCAB, (int(torch.randint(1, 18, (), generator=g)),), generator=g).tolist()
        asked.append(Request(prompt, 3 + i % 5, SAMPLINGS[i % len(SAMPLINGS)], seed=i, logprobs=i % 2 == 0))
    out = Engine(model, end_id=END, page_size=3, n_pages=9, chunk=7).run(asked)
    for request, completion in zip(asked, out, strict=True):
        sampler = Sampler(build_pipeline(request.sampling, end_id=END, prompt_lengths=[len(request.prompt)]))
        limits = {"max_new_tokens": request.max_new_tokens, "end_id": END}
        [alone] = generate(model, [request.prompt], sampler, generators=seeded([request.seed]), **limits)
        assert (completion.tokens, completion.reason) == (alone.tokens, alone.reason)
        assert completion.logprobs == pytest.approx(alone.logprobs if request.logprobs else [], abs=1e-9)


def test_a_request_gets_its_own_transforms_first_and_the_candidates_that_it_asks_for():
    model, told = decoder(), []
    biases = [(), (LogitBias(((5, 3.0), (END, -100.0))),), (LogitBias(((5, -100.0),)), LogitBias(((7, 1.5),)))]
    asked = [
        Request([1, 4], 6, SamplingConfig(temperature=0.9), seed=2, first=first, n_top=n_top, show=told.append)
        for first in biases
        for n_top in (0, 3, 1, VOCAB + 5)
    ]
    out = Engine(model, end_id=END, page_size=3).run(asked)
    for i, (request, completion) in enumerate(zip(asked, out, strict=True)):
        sampler = Sampler([*request.first, *build_pipeline(request.sampling)])
        how = {"max_new_tokens": 6, "generators": seeded([2]), "end_id": END}
        [alone] = generate(model, [request.prompt], sampler, **how)
        assert completion.tokens == alone.tokens
        events, text = [event for event in told if event.row == i], [*request.prompt]
        for event in events:
            nats = model(torch.tensor([text]))[0][0, -1].log_softmax(-1)
            best = sorted(range(VOCAB), key=lambda token: -nats[token])[: request.n_top]
            assert [token for token, _ in event.top] == best
            assert [x for _, x in event.top] == pytest.approx(nats[best].tolist(), abs=1e-9)
            text.append(event.token)


@settings(max_examples=15)
@given(
    asked=st.lists(
        st.tuples(st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=7), st.integers(1, 5)),
        min_size=1,
        max_size=7,
    ),
    n_places=st.integers(1, 4),
)
def test_every_step_writes_the_tokens_of_that_step_of_the_lesson(asked, n_places):
    model, steps = decoder(), []

    def next_tokens(texts):
        last = (texts >= 0).sum(1) - 1
        return model(texts)[0][torch.arange(len(texts)), last].argmax(-1).tolist()

    expected = lesson.serve(next_tokens, [lesson.Request(prompt, n, END) for prompt, n in asked], n_places)
    engine = Engine(model, end_id=END, max_running=n_places)
    for prompt, n in asked:
        engine.add(Request(prompt, n, SamplingConfig(temperature=0)))
    while engine.busy:
        steps.append({event.row: END if event.token is None else event.token for event in engine.step()})
    assert steps == [dict(step) for step in expected]


def test_uniform_numbers_drawn_at_once_are_those_drawn_one_by_one():
    for n in (1, 7, 16, 257):
        job = Engine(decoder(context_length=300)).add(Request([1], n, seed=n))
        [g] = seeded([n])
        assert job.uniforms == [float(torch.rand((), generator=g, dtype=torch.float64)) for _ in range(n)]


def test_a_second_question_on_a_document_reads_only_what_is_new():
    document = [1, 4, 2, 0, 1, 1, 2, 4, 0]
    for question, n_new in (([2, 4], 2), ([], 1), ([0], 1)):
        model = Sums()
        engine = Engine(model, page_size=3)
        engine.run([Request([*document, 1, 1], 1)])
        model.n_read = 0
        engine.run([Request([*document, *question], 1)])
        assert model.n_read == (n_new if question else 3), "a text that is known whole has its last page read again"


@pytest.mark.parametrize("share_prefixes", [True, False])
@pytest.mark.parametrize("length", [1, 2, 3, 4, 6, 8, 9])
def test_equal_prompts_of_whole_pages_write_the_same_with_and_without_sharing(share_prefixes, length):
    model, request = Sums(), Request([1, 2, 4, 0, 1, 1, 2, 4, 0][:length], 7, SamplingConfig(temperature=0))
    engine = Engine(model, page_size=3, n_pages=9, share_prefixes=share_prefixes)
    for completion in engine.run([request] * 3) + engine.run([request] * 2):
        assert completion.tokens == Engine(Sums(), page_size=1).run([request])[0].tokens


def test_a_preempted_job_goes_on_where_it_stopped():
    asked = [Request([1, 2, 4 - i], 9, SamplingConfig(banned_tokens=(END,)), seed=i) for i in range(3)]
    served, stopped = Served(n_pages=6, page_size=3), set()
    for request in asked:
        served.add(request)
    while served.engine.busy:
        served.step()
        stopped |= {job.number for job in served.engine.scheduler.waiting if job.n_new}
    assert stopped, "memory was too small for all, or this test shows nothing"
    for job in served.jobs:
        assert (job.completion.tokens, job.completion.reason) == slowly(served.model, job.request)


def test_a_request_for_which_nothing_can_be_drawn_fails_alone():
    engine = Engine(Sums())
    fails = Request([1], 4, SamplingConfig(banned_tokens=tuple(range(V))))
    other = Request([2], 4)
    failed, fine = engine.run([fails, other])
    assert (failed.tokens, failed.reason) == ([], "failed")
    assert fine == Engine(Sums()).run([other])[0]


def test_listeners_hear_their_own_events_and_may_cancel_and_add():
    engine, heard, added = Engine(Sums(), page_size=3), [], []

    def listen(event):
        heard.append(event)
        if len(heard) == 2:
            engine.cancel(first)
            added.append(engine.add(Request([2], 2)))

    first, other = engine.add(Request([1], 9, show=listen)), engine.add(Request([1, 4], 6))
    while engine.busy:
        engine.step()
    assert (
        first.completion.reason == "cancelled"
        and [event.token for event in heard] == first.completion.tokens
        and len(heard) == 2
    )
    assert [other.completion, added[0].completion] == Engine(Sums()).run([other.request, added[0].request])
    assert engine.pool.n_free == engine.pool.n_pages


def test_a_listener_that_raises_takes_no_news_from_others():
    engine, heard = Engine(Sums()), []

    def raises(event):
        raise RuntimeError("the line is dead")

    jobs = [engine.add(Request([1], 1, show=raises)), engine.add(Request([2], 1, show=heard.append))]
    with pytest.raises(RuntimeError, match="the line is dead"):
        engine.step()
    assert not heard and engine.busy
    engine.step()
    assert [event.token for event in heard] == jobs[1].completion.tokens


def test_stop_strings_end_their_own_request():
    tokenizer = CharTokenizer("abcd")
    free = Engine(Sums()).run([Request([1], 9), Request([2], 9)])
    text = tokenizer.decode(free[0].tokens)
    watch = StopText(tokenizer, [text[2:4]])
    stopped, other = Engine(Sums()).run([Request([1], 9, stop=watch), Request([2], 9)])
    assert (watch.text, stopped.reason) == (text[: text.index(text[2:4])], "stop")
    assert other == free[1]


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (Request([], 3), "expected at least one token"),
        (Request([1, V], 3), "expected ids below the model's vocab_size = 5"),
        (Request([1] * 17, 3), "expected at most context_length = 16"),
        (
            Request([1] * 8, 6),
            r"prompt of 8 and 6 new tokens: expected at most 13 together, for n_pages = 4 of 3 tokens",
        ),
        (Request([1], -1), "max_new_tokens = -1"),
        (
            Request([1], 3, SamplingConfig(min_new_tokens=2)),
            "min_new_tokens = 2: expected 0, because no token ends the text",
        ),
    ],
)
def test_what_cannot_be_served_is_refused_before_any_work(request_, message):
    model = Sums()
    engine = Engine(model, n_pages=4, page_size=3)
    with pytest.raises(ValueError, match=message):
        engine.add(request_)
    assert not engine.busy and model.n_read == 0
    assert engine.run([Request([1] * 8, 5)])[0].reason == "length"


def test_settings_without_sense_and_models_in_training_are_refused():
    for how in ({"page_size": 0}, {"n_pages": 0}, {"chunk": 0}, {"max_running": 0}):
        with pytest.raises(ValueError, match=f"{next(iter(how))} = 0: expected a number >= 1"):
            Engine(Sums(), **how)
    with pytest.raises(ValueError, match=r"call model.eval\(\)"):
        Engine(decoder().train()).step()


def alone(model, prompt, n_new=4):
    """What `generate` writes greedily for one prompt."""
    sampler = Sampler(build_pipeline(SamplingConfig(temperature=0)))
    return generate(model, [prompt], sampler, max_new_tokens=n_new, generators=seeded([0]))[0].tokens


@pytest.mark.parametrize("chunk", range(1, 15))
@pytest.mark.parametrize("shape", ["llama", "n-gram embeddings"])
def test_prompts_of_one_length_write_what_each_writes_alone_whatever_they_share_and_however_they_are_cut(shape, chunk):
    model, g = decoder(**SHAPES[shape]), torch.Generator().manual_seed(chunk)
    for length, n_shared in ((5, 0), (6, 4), (7, 3)):
        texts = torch.randint(VOCAB, (5, length), generator=g)
        texts[1:4, :n_shared] = texts[0, :n_shared]
        prompts = texts.tolist()
        expected = [alone(model, prompt) for prompt in prompts]
        for page_size in range(1, length + 2):
            engine = Engine(model, page_size=page_size, chunk=chunk)
            first = engine.add(Request(prompts[0], 4, SamplingConfig(temperature=0)))
            engine.step()  # some of its pages may be published when the others arrive
            others = engine.run([Request(prompt, 4, SamplingConfig(temperature=0)) for prompt in prompts[1:]])
            assert [first.completion.tokens, *(completion.tokens for completion in others)] == expected


@settings(max_examples=30)
@given(fails=st.sets(st.integers(1, 14), min_size=1), how=engines)
def test_a_step_in_which_the_model_raises_changes_no_text_and_can_be_repeated(fails, how):
    class Failing(Sums):
        n_calls = 0

        def hidden(self, tokens, state):
            self.n_calls += 1
            if self.n_calls in fails:
                first = SimpleNamespace(lengths=state.lengths, caches=state.caches[:1])  # of two layers
                super().hidden(tokens, first)
                raise RuntimeError("out of memory")
            return super().hidden(tokens, state)

    asked = [Request(prompt, 4, SamplingConfig(temperature=0)) for prompt in ([1, 2, 4, 0], [1, 2, 4, 0, 1], [2])]
    engine = Engine(Failing(), **{**how, "n_pages": how["n_pages"] + 8})
    jobs = [engine.add(request) for request in asked]
    for _ in range(200):
        try:
            engine.step()
        except RuntimeError as error:
            assert str(error) == "out of memory"
    assert [job.completion for job in jobs] == Engine(Sums()).run(asked) and not engine.busy
    assert engine.pool.n_free == engine.pool.n_pages


def test_writers_beside_a_long_prompt_leave_it_its_whole_chunk():
    engine = Engine(Sums(), chunk=3, page_size=2)
    writers = [engine.add(Request([i], 14, SamplingConfig(temperature=0))) for i in range(4)]
    while not all(job.n_new for job in writers):
        engine.step()
    reader = engine.add(Request([1, 2, 4, 0, 1, 1, 2, 4], 2))
    for n in (3, 6, 8):
        before = [job.n_new for job in writers]
        engine.step()
        assert reader.n_read == n
        assert [job.n_new for job in writers] == [n_new + 1 for n_new in before], "and they write on"


@pytest.mark.parametrize("chunk", [1, 2, 3, 5])
def test_all_prompts_together_read_at_most_a_chunk_in_a_step(chunk):
    """Also prompts that were begun before, when two preempted jobs read their texts again in the same step."""
    engine = Engine(Sums(), chunk=chunk, page_size=2, n_pages=9, share_prefixes=False)
    for prompt in ([1, 2, 4, 0, 1, 1], [2, 2, 4, 0, 1], [1, 1, 1, 2, 2, 2, 4]):
        engine.add(Request(prompt, 9, SamplingConfig(temperature=0)))
    turns, seen = engine.scheduler.turns, []

    def counted():
        chosen = turns()
        seen.append(sum(n for job, n in chosen if job.n_unread > 1))
        return chosen

    engine.scheduler.turns = counted
    while engine.busy:
        engine.step()
    assert max(seen) <= chunk and sum(seen) > 9


def test_a_cancelled_job_is_told_nothing_more_even_of_what_has_happened():
    engine, heard = Engine(Sums()), []
    jobs = []

    def cancels(event):
        engine.cancel(jobs[1])

    jobs += [
        engine.add(Request([1], 4, show=cancels)),
        engine.add(Request([2], 4, show=heard.append)),
        engine.add(Request([4], 4)),
    ]
    told = engine.step()
    assert [event.row for event in told] == [0, 2] and not heard, "its first token was drawn in the same step"
    while engine.busy:
        told += engine.step()
    assert not heard and jobs[1].number not in {event.row for event in told}
    assert jobs[1].completion.reason == "cancelled" and jobs[1].table is None
    assert [job.completion for job in jobs[::2]] == Engine(Sums()).run([Request([1], 4), Request([4], 4)])
