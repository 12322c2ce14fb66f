"""Speculative decoding is lossless: equal to a slow version and to plain decoding, for every way to stop."""

import itertools
import math
import random
from contextlib import contextmanager
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from minillm.cache.build_cache import FORGETFUL
from minillm.constants import EMPTY
from minillm.decoding.draft_length import MOST, Tally
from minillm.decoding.drafts import Draft, ModelDrafter, PromptLookup
from minillm.decoding.generate import generate
from minillm.decoding.sampler import Sampler, SamplingConfig, build_pipeline, pass_at, seeded
from minillm.decoding.speculative import left_over, speculate, stream, verify
from minillm.decoding.stopping import StopText
from minillm.lessons import speculative_decoding as lesson
from minillm.models.encoder_decoder import EncoderDecoder, EncoderDecoderConfig
from minillm.tokenizers.char import CharTokenizer
from tests import tiny
from tests.decoding.test_generate import MODELS, all_prompts, sampler_for, samplings
from tests.decoding.toys import Markov, Remembers, distribution, possible_texts

law = settings(max_examples=10, deadline=None, derandomize=True)
V = 7
GREEDY = Sampler(build_pipeline(SamplingConfig(temperature=0)))
OTHER = Markov(torch.randn(V, V, generator=torch.Generator().manual_seed(8), dtype=torch.float64))
CLOSE = Markov(MODELS["markov"].table + 0.7 * OTHER.table)  # a draft that is sometimes accepted


def translator(seed=0):
    torch.manual_seed(seed)
    model = (
        EncoderDecoder(EncoderDecoderConfig(n_layers=1, d_model=12, n_heads=3, d_ff=10, context_length=12), V)
        .double()
        .eval()
    )
    model.embed.weight.data *= 4
    return model


class Says:
    """A drafter that always draws from the same q (V,), but reports `told` as its distribution."""

    context_length, cost = None, 0.1

    def __init__(self, q, told=None):
        self.q = torch.tensor(q, dtype=torch.float64)
        self.told, self.vocab_size = self.q if told is None else torch.tensor(told, dtype=torch.float64), len(q)

    @contextmanager
    def begin(self, batch_size):
        yield self

    def propose(self, texts, lengths, wanted, sampler, uniforms):
        tokens = pass_at(self.q.expand(uniforms.numel(), -1), uniforms.flatten()).view(uniforms.shape)
        there = torch.arange(uniforms.shape[1]) < wanted[:, None]
        return Draft(tokens.where(there, EMPTY), self.told * there[..., None])

    def back(self, texts, lengths):
        pass

    def reorder(self, rows):
        pass


def slowly(target, draft, prompt, sampler, generator, max_new_tokens, k, end_id):
    """The new tokens of the lesson, up to END."""
    models = [lambda text, model=model: distribution(model, text, sampler) for model in (target, draft)]
    calls = lesson.speculate(*models, prompt, max_new_tokens, k, generator)
    return list(itertools.takewhile(lambda token: token != end_id, itertools.chain.from_iterable(calls)))


def outcomes(completions):
    return [(c.tokens, c.reason) for c in completions]


@pytest.mark.parametrize("target", MODELS)
@settings(max_examples=8, deadline=None, derandomize=True)
@given(
    prompts=all_prompts,
    draft=st.sampled_from(["ngram", "markov", "rotary", "lstm"]),
    sampling=samplings,
    seed=st.integers(0, 99),
    k=st.integers(1, 5),
)
def test_a_ragged_batch_is_the_slow_one_row_by_row(target, draft, prompts, sampling, seed, k):
    """Every model as target and every kind of state as draft: the same uniform numbers give the same tokens."""
    prompts, seeds = [p[:7] for p in prompts[:3]], [seed + i for i in range(len(prompts[:3]))]
    drafter, how = ModelDrafter(MODELS[draft]), {"max_new_tokens": 5, "end_id": 2}
    out = speculate(
        MODELS[target],
        prompts,
        sampler_for(sampling, prompts, 2),
        drafter=drafter,
        n_draft=k,
        generators=seeded(seeds),
        **how,
    )
    for prompt, s, completion in zip(prompts, seeds, out, strict=True):
        sampler = sampler_for(sampling, [prompt], 2)
        with torch.inference_mode():
            expected = slowly(MODELS[target], MODELS[draft], prompt, sampler, seeded([s])[0], 5, k, 2)
        assert completion.tokens == expected


DRAFTERS = {name: ModelDrafter(MODELS[name]) for name in ("ngram", "markov", "rotary", "lstm", "gru")} | {
    "prompt": PromptLookup(V),
    "close": ModelDrafter(CLOSE),
    "always 3": Says([0, 0, 0, 1, 0, 0, 0]),
    "uniform": Says([1 / V] * V),
}


@pytest.mark.parametrize("target", MODELS)
@law
@given(
    prompts=all_prompts,
    name=st.sampled_from(list(DRAFTERS)),
    n=st.integers(0, 12),
    k=st.sampled_from([0, 0, 1, 3, MOST]),
)
def test_greedy_texts_are_the_plain_ones_with_every_drafter(target, prompts, name, n, k):
    """Tokens, reasons and logprobs, for adaptive or fixed drafts, ragged prompts, END, and every limit."""
    model, prompts = MODELS[target], [p[:4] for p in prompts] if DRAFTERS[name].context_length else prompts
    how = {"max_new_tokens": n, "end_id": 2, "generators": seeded([0] * len(prompts))}
    plain = generate(model, prompts, GREEDY, **how)
    ours = speculate(model, prompts, GREEDY, drafter=DRAFTERS[name], n_draft=k, **how)
    assert outcomes(ours) == outcomes(plain)
    assert [x for c in ours for x in c.logprobs] == pytest.approx([x for c in plain for x in c.logprobs], abs=1e-9)


@pytest.mark.parametrize("shape", ["experts", "window", "alibi", "value embeddings"])
def test_greedy_texts_of_every_kind_of_decoder_are_the_plain_ones(shape):
    model, draft = tiny.decoder(**tiny.SHAPES[shape]), tiny.decoder(seed=3, **tiny.SHAPES["llama"])
    prompts = [[1, 2, 3], [4], [5, 6, 7, 8, 5, 6], list(range(11))]
    sampler, how = (
        Sampler(build_pipeline(SamplingConfig(temperature=0, repetition_penalty=1.3))),
        {"max_new_tokens": 20, "end_id": 0},
    )
    plain = generate(model, prompts, sampler, generators=seeded(range(4)), **how)
    for drafter in (ModelDrafter(draft), ModelDrafter(model), PromptLookup(tiny.VOCAB)):
        assert outcomes(
            speculate(model, prompts, sampler, drafter=drafter, generators=seeded(range(4)), **how)
        ) == outcomes(plain)


def p_value(counts, probs):
    """p-value of Pearson's chi-square test; outcomes expected less than 5 times are merged."""
    n = sum(counts.values())
    assert set(counts) <= set(probs), "an impossible text was written"
    bins = [(counts.get(text, 0), n * p) for text, p in probs.items() if n * p >= 5]
    rest = (n - sum(c for c, _ in bins), n - sum(e for _, e in bins))
    bins += [rest] if rest[1] > 1 else []
    chi2 = torch.tensor(sum((c - e) ** 2 / e for c, e in bins), dtype=torch.float64)
    return float(torch.special.gammaincc(torch.tensor((len(bins) - 1) / 2, dtype=torch.float64), chi2 / 2))


SMALL = Markov(torch.randn(5, 5, generator=torch.Generator().manual_seed(4), dtype=torch.float64))
UNLIKE = Markov(torch.randn(5, 5, generator=torch.Generator().manual_seed(9), dtype=torch.float64))
ADVERSARIES = {
    "another model": ModelDrafter(UNLIKE),
    "the target itself": ModelDrafter(SMALL),
    "the text": PromptLookup(5),
    "point mass": Says([0, 0, 1, 0, 0]),
    "uniform": Says([0.2] * 5),
    "banned tokens alone": Says([0.5, 0, 0, 0, 0.5]),
    "one that is never drawn": Says([0, 0.3, 0, 0.3, 0.4]),
}
TRANSFORMS = {
    "plain": {},
    "cut": {"temperature": 0.7, "top_k": 3, "top_p": 0.9},
    "bans": {"banned_tokens": (0, 4)},
    "penalties": {
        "repetition_penalty": 1.8,
        "frequency_penalty": 0.5,
        "no_repeat_ngram": 2,
        "min_new_tokens": 2,
        "min_p": 0.05,
    },
}


def frequencies(drafter, sampler, n, k=2, prompt=(3, 1), end_id=1, max_new_tokens=4):
    """The count of each text in n rows; END is shown in the text."""
    out = speculate(
        SMALL,
        [prompt] * n,
        sampler,
        drafter=drafter,
        max_new_tokens=max_new_tokens,
        end_id=end_id,
        generators=seeded(range(n)),
        n_draft=k,
    )
    counts = {}
    for completion in out:
        text = (*completion.tokens, *([end_id] if completion.reason == "end" else []))
        counts[text] = counts.get(text, 0) + 1
    return counts


@pytest.mark.parametrize("transforms", TRANSFORMS)
@pytest.mark.parametrize("name", ADVERSARIES)
def test_texts_of_four_tokens_are_as_frequent_as_in_plain_sampling(name, transforms):
    """Whole texts, so tokens at every place with their histories; END (id 1) ends some texts early."""
    sampler = Sampler(build_pipeline(SamplingConfig(**TRANSFORMS[transforms]), end_id=1, prompt_lengths=[2]))
    counts = frequencies(ADVERSARIES[name], sampler, 1000)
    assert p_value(counts, possible_texts(SMALL, (3, 1), sampler, 4, 1)) > 1e-4


def test_a_drafter_that_lies_about_its_distribution_is_noticed_by_that_test():
    lies = Says([0, 0, 1, 0, 0], told=[0.1, 0.1, 0.6, 0.1, 0.1])
    assert p_value(frequencies(lies, Sampler(), 1000), possible_texts(SMALL, (3, 1), Sampler(), 4, 1)) < 1e-6


@st.composite
def distributions(draw, n=V):
    weights = draw(st.lists(st.sampled_from([0.0, 0.0, 1.0, 2.0, 5.0, 1e-9]), min_size=n, max_size=n).filter(any))
    return torch.tensor(weights, dtype=torch.float64) / sum(weights)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(distributions(), distributions())
def test_acceptance_and_residual_make_up_the_target_exactly(p, q):
    """The share of uniform numbers that gives each token, counted on a grid, so without randomness."""
    n = 1000
    grid, highest = (torch.arange(n, dtype=torch.float64) + 0.5) / n, torch.full((n,), 1 - 2**-53, dtype=torch.float64)
    mass = torch.zeros(V, dtype=torch.float64)
    for token in q.nonzero()[:, 0]:
        draft = Draft(token.expand(n, 1), q.expand(n, 1, V))
        accepted, _ = verify(p.expand(n, 2, V), draft, torch.stack([grid, highest], 1))
        n_accepted, last = verify(p.expand(n, 2, V), draft, torch.stack([highest, grid], 1))
        mass[token] += q[token] * accepted.sum() / n
        assert (n_accepted == (p[token] >= q[token])).all() or accepted.sum() in (n - 1, n), (
            "what has more of p is never rejected"
        )
        mass += q[token] * (1 - accepted.sum() / n) * last.bincount(minlength=V) / n * (n_accepted == 0).all()
    assert (mass - p).abs().max() < 3 / n


@law
@given(distributions(), distributions())
def test_what_is_left_over_is_what_the_draft_has_too_little_of_and_all_of_an_equal_target(p, q):
    assert torch.equal(left_over(p, p), p)
    assert torch.equal(left_over(torch.stack([p, p]), torch.stack([q, p]))[1], p), "each row for itself"
    more = (p - q).clamp(min=0)
    assert torch.equal(left_over(p, q), more if more.any() else p)


def verdict(p, q, tokens, uniforms):
    p, q, u = (torch.tensor([x], dtype=torch.float64) for x in (p, q, uniforms))
    n, last = verify(p, Draft(torch.tensor([tokens]), q), u)
    return int(n), int(last)


def test_verdicts_by_hand():
    top = 1 - 2**-53
    half, zero = [0.5, 0.5, 0.0], [0.0] * 3
    assert verdict([half, half, [0, 0, 1.0]], [half, half], [1, 0], [top, top, 0.3]) == (2, 2), (
        "p = q is never rejected; then the bonus"
    )
    assert verdict([half, half, half], [[0, 0, 1.0], half], [2, 0], [0.0, 0.0, 0.4]) == (0, 0), (
        "disjoint: never accepted, even by u = 0"
    )
    assert verdict([[0.6, 0.4, 0]] * 2, [[0.75, 0.25, 0]], [0], [0.81, 0.0]) == (0, 1), (
        "0.81 > 0.6 / 0.75, and only token 1 is left"
    )
    assert verdict([[0.6, 0.4, 0]] * 2, [[0.75, 0.25, 0]], [0], [0.79, 0.7]) == (1, 1)
    assert verdict([half, half], [zero], [EMPTY], [0.0, 0.6]) == (0, 1), "without a draft it is a draw"
    assert verdict([[0.2, 0.3, 0.5]] * 2, [[1.0, 0, 0]], [0], [0.5, 0.37]) == (0, 1), (
        "0.3 of 0.8 left: not softmax, which would give 2"
    )
    assert verdict([half, [0, 0, 1.0], half], [half, half], [0, 1], [0.9, 0.9, 0.5]) == (1, 2), (
        "what is left is of the rejected place"
    )


def test_a_place_without_a_distribution_matters_only_where_it_is_reached():
    nothing = [math.nan] * 2
    assert verdict([[1.0, 0.0], nothing], [[0.0, 1.0]], [1], [0.5, 0.5]) == (0, 0)
    with pytest.raises(ValueError, match="every token is banned"):
        verdict([[1.0, 0.0], nothing], [[1.0, 0.0]], [0], [0.5, 0.5])


@law
@given(all_prompts, st.randoms(use_true_random=False), samplings, st.sampled_from([0, 3]))
def test_a_row_writes_the_same_in_any_company_and_order(prompts, random, sampling, k):
    """Each row may have its own draft length, and other rows may end before it."""
    rows = [(prompt, 100 + i) for i, prompt in enumerate(prompts)]
    chosen, written = random.sample(rows, random.randint(1, len(rows))), []
    for batch in (rows, chosen):
        texts, seeds = zip(*batch, strict=True)
        how = {"max_new_tokens": 9, "end_id": 1, "generators": seeded(seeds), "n_draft": k}
        out = speculate(MODELS["markov"], texts, sampler_for(sampling, texts, 1), drafter=ModelDrafter(CLOSE), **how)
        written.append(dict(zip(seeds, out, strict=True)))
    assert all(written[1][seed].tokens == written[0][seed].tokens for _, seed in chosen)


@pytest.mark.parametrize("end_id", range(V))
def test_an_end_inside_a_draft_truncates_for_every_choice_of_it_and_every_budget(end_id):
    """Generate without END, then make a token of that text END. The draft is the target, so all is accepted."""
    model, prompts = Remembers(V).eval(), [[1], [2, 3], [4, 5, 6]]
    free = generate(model, prompts, GREEDY, max_new_tokens=10, generators=seeded([0] * 3))
    for n in (0, 1, 4, 5, 6, 10):
        how = {
            "max_new_tokens": n,
            "end_id": end_id,
            "n_draft": 4,
            "drafter": ModelDrafter(model),
            "generators": seeded([0] * 3),
        }
        for whole, completion in zip(free, speculate(model, prompts, GREEDY, **how), strict=True):
            text = whole.tokens[:n]
            place = text.index(end_id) if end_id in text else n
            assert (completion.tokens, completion.reason) == (text[:place], "end" if end_id in text else "length")
            assert completion.logprobs == pytest.approx(whole.logprobs[: place + (end_id in text)])


@law
@given(st.lists(st.text("abc", min_size=1, max_size=4), min_size=1, max_size=3), st.integers(0, 20), st.integers(1, 9))
def test_stop_strings_inside_a_draft_end_their_row_only(strings, n, k):
    tokenizer, model = CharTokenizer("abc"), Remembers(4).eval()
    prompts, shown = [[0, 1], [2], [1, 1, 0]], []
    for write, more in ((generate, {}), (speculate, {"drafter": ModelDrafter(model), "n_draft": k})):
        stops = [StopText(tokenizer, strings) for _ in prompts]
        out = write(model, prompts, GREEDY, max_new_tokens=n, generators=seeded([0] * 3), end_id=3, stops=stops, **more)
        shown.append((outcomes(out), [stop.text for stop in stops]))
    assert shown[0] == shown[1]


@pytest.mark.parametrize("k", [1, 2, 3, 7, MOST])
@pytest.mark.parametrize("name", ["remembers", "rotary", "lstm", "ngram"])
def test_a_draft_that_is_the_target_is_always_accepted(name, k):
    """So neither state lost a token or kept a rejected one; each call gives k + 1 tokens."""
    model, tallies = MODELS[name], [Tally(), Tally()]
    how = {"max_new_tokens": 11, "generators": seeded([3, 4]), "n_draft": k, "tallies": tallies}
    sampler = sampler_for(SamplingConfig(temperature=1.4, repetition_penalty=1.2, top_p=0.95), [[1], [1]], None)
    speculate(model, [[1], [2]], sampler, drafter=ModelDrafter(model), **how)
    assert all(tally.acceptance == 1 and tally.n_tested == tally.n_drafted for tally in tallies)
    assert all((tally.n_calls, tally.n_tokens) == (math.ceil(11 / (k + 1)), 11) for tally in tallies)


@pytest.mark.parametrize("name", ["remembers", "rotary", "lstm", "ngram"])
@pytest.mark.parametrize(
    "penalties",
    [
        {"repetition_penalty": 3.0},
        {"presence_penalty": 2.0},
        {"frequency_penalty": 1.5},
        {"no_repeat_ngram": 2},
        {"banned_tokens": (1, 4, 5)},
    ],
    ids=lambda penalties: next(iter(penalties)),
)
def test_a_greedy_draft_obeys_the_penalties_of_the_target(name, penalties):
    """So the target as its own draft is always accepted, although penalties change the argmax in all these texts."""
    model, tallies, how = MODELS[name], [Tally(), Tally()], {"max_new_tokens": 11, "end_id": None}
    sampler = Sampler(build_pipeline(SamplingConfig(temperature=0, **penalties)))
    told = {"tallies": tallies, "n_draft": 4, "drafter": ModelDrafter(model)}
    ours = speculate(model, [[1], [2]], sampler, generators=seeded([0, 0]), **how, **told)
    plain = [generate(model, [[1], [2]], shaped, generators=seeded([0, 0]), **how) for shaped in (sampler, GREEDY)]
    assert outcomes(ours) == outcomes(plain[0]) != outcomes(plain[1])
    assert all(tally.acceptance == 1 and tally.n_tested == tally.n_drafted > 0 for tally in tallies)


def test_drafts_are_verified_in_one_call_of_the_target():
    model = Remembers(V).eval()
    how = {"drafter": ModelDrafter(MODELS["remembers"]), "max_new_tokens": 9, "generators": seeded([0]), "n_draft": 3}
    news = list(stream(model, [[1, 2, 3]], GREEDY, **how))
    assert model.calls == [(1, 6), (1, 4), (1, 1)] and [len(events) for events in news] == [4, 4, 1]


@settings(max_examples=12, deadline=None, derandomize=True)
@given(
    st.sampled_from(list(DRAFTERS)),
    samplings,
    st.integers(0, 2**31),
    st.sampled_from(["remembers", "lstm", "ngram", "rotary"]),
)
def test_no_token_depends_on_a_clock(name, sampling, seed, target):
    """For any times: greedy text equals plain decoding; for sampled text even the number of drafts is the same."""
    noise, prompts, results = random.Random(seed), [[1], [2, 3], [4, 5, 6]], []
    for clock in (lambda: 0.0, lambda: noise.random() * 1e3, itertools.count(1e9, -1).__next__):
        tallies, sampler = [Tally() for _ in prompts], sampler_for(sampling, prompts, 2)
        how = {
            "max_new_tokens": 9 if DRAFTERS[name].context_length else 40,
            "drafter": DRAFTERS[name],
            "tallies": tallies,
        }
        out = speculate(MODELS[target], prompts, sampler, generators=seeded([seed, 1, 2]), clock=clock, **how)
        results.append((outcomes(out), None if sampler.greedy else tallies))
    assert results[0] == results[1] == results[2]


@pytest.mark.parametrize("slow", ["draft", "target"])
def test_greedy_drafting_is_left_off_where_the_draft_is_slow_and_goes_on_where_the_target_is(slow):
    """The clock advances with each call of a model; every drafted token is accepted."""
    target, draft, tally = Remembers(V).eval(), Remembers(V).eval(), Tally()
    ticks = {"draft": (0.01, 1.0), "target": (1.0, 0.01)}[slow]
    how = {"max_new_tokens": 90, "generators": seeded([0]), "tallies": [tally], "drafter": ModelDrafter(draft)}
    speculate(target, [[1]], GREEDY, clock=lambda: ticks[0] * len(target.calls) + ticks[1] * len(draft.calls), **how)
    assert tally.acceptance == 1
    assert tally.n_plain > 70 if slow == "draft" else tally.n_plain < 5 and tally.n_calls < 20


def test_tallies_add_up():
    tallies = [Tally(), Tally(), Tally()]
    how = {"max_new_tokens": 30, "generators": seeded([0, 1, 2]), "tallies": tallies}
    out = speculate(MODELS["markov"], [[1], [2, 3], [4]], Sampler(), drafter=ModelDrafter(CLOSE), **how)
    whole = sum(tallies, Tally())
    assert whole.n_tokens == sum(len(c.tokens) for c in out) == whole.n_accepted + whole.n_calls
    assert whole.n_accepted <= whole.n_tested <= whole.n_accepted + whole.n_calls
    assert (
        0 < whole.acceptance < 1 < whole.tokens_per_call == 90 / whole.n_calls
        and whole.mean_length == whole.n_drafted / whole.n_calls
    )


class NoWayBack(Remembers):
    """A model with a state that can neither take tokens back nor be copied."""

    def start(self, batch_size):
        state = super().start(batch_size)
        state.rollback = "none"
        return state


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"drafter": PromptLookup(8)}, "draft of vocab_size = 8: expected 7"),
        ({"drafter": ModelDrafter(Remembers(V, context_length=5))}, "draft of context_length = 5: expected at least 6"),
        ({"n_draft": MOST + 1}, "n_draft = 17"),
        ({"n_draft": -1}, "n_draft = -1"),
        ({"use_cache": False}, "use_cache = false"),
        ({"tallies": []}, "0 tallies"),
        ({"tallies": [Tally(1)]}, "expected a new one"),
        ({"prompts": [[]]}, "prompt 0"),
        ({"max_new_tokens": -1}, "max_new_tokens"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_read(changed, message):
    model = Remembers(V, context_length=12)
    how = {"prompts": [[1, 2, 3]], "drafter": PromptLookup(V), "max_new_tokens": 3, "generators": seeded([0])} | changed
    with pytest.raises(ValueError, match=message):
        stream(model, sampler=GREEDY, **how)
    assert model.calls == []


@pytest.mark.parametrize("which", ["target", "draft"])
def test_a_state_without_a_way_back_is_refused_before_anything_is_read(which):
    bad, good = NoWayBack(V).train(), Remembers(V).train()
    model, draft = (bad, good) if which == "target" else (good, bad)
    with pytest.raises(ValueError, match="Reading of rollback = none: expected one that can take tokens back"):
        speculate(model, [[1]], GREEDY, drafter=ModelDrafter(draft), max_new_tokens=3, generators=seeded([0]))
    assert bad.calls == good.calls == [] and bad.training and good.training


@pytest.mark.parametrize("name", FORGETFUL)
def test_a_draft_beside_a_cache_that_forgets_is_refused_before_any_row_is_told_or_read(name):
    model, called = tiny.decoder(**tiny.SHAPES["llama"]), []
    model.register_forward_hook(lambda *_: called.append(1))
    how = {
        "max_new_tokens": 3,
        "generators": seeded([0, 1]),
        "start": partial(model.start, cache=partial(FORGETFUL[name], 12)),
    }
    news = stream(model, [[1], list(range(23)) + [0] * 9], GREEDY, drafter=ModelDrafter(tiny.decoder(seed=1)), **how)
    with pytest.raises(ValueError, match=r"rollback = none.*contiguous"):
        next(news)
    assert not called


@law
@given(
    st.lists(st.sampled_from([1, 7, 11, 12]), min_size=1, max_size=5),
    st.integers(0, 6),
    st.integers(0, 4),
    st.booleans(),
)
def test_a_translator_writes_with_a_draft_what_it_writes_alone_where_some_prompts_fill_the_context(
    sizes, n, k, other_draft
):
    """The state is made for all prompts and their sources, also for rows that may add no token."""
    model = translator()
    draft = translator(seed=1) if other_draft else model
    prompts, sources = (
        [[2] * size for size in sizes],
        torch.randint(V, (len(sizes), 5), generator=torch.Generator().manual_seed(n)),
    )
    how = {"max_new_tokens": n, "end_id": 3, "generators": seeded(range(len(sizes)))}
    how["start"] = partial(model.start, source=sources)
    drafter = ModelDrafter(draft, start=partial(draft.start, source=sources))
    ours = speculate(model, prompts, GREEDY, drafter=drafter, n_draft=k, **how)
    assert outcomes(ours) == outcomes(generate(model, prompts, GREEDY, **how))


def test_both_models_are_in_eval_mode_meanwhile_and_as_they_were_afterwards():
    model, draft = Remembers(V).train(), Remembers(V, seed=1).train()
    how = {"max_new_tokens": 9, "generators": seeded([0])}
    plain = generate(model, [[1]], GREEDY, **how)
    assert outcomes(speculate(model, [[1]], GREEDY, drafter=ModelDrafter(draft), **how)) == outcomes(plain), (
        "no dropout"
    )
    assert all(module.training for m in (model, draft) for module in m.modules())


def test_nothing_is_read_where_nothing_may_be_written():
    model = Remembers(V).eval()
    how = {"drafter": ModelDrafter(model), "generators": seeded([0])}
    assert outcomes(speculate(model, [[1]], GREEDY, max_new_tokens=0, **how)) == [([], "length")]
    assert speculate(model, [], GREEDY, drafter=PromptLookup(V), max_new_tokens=5, generators=[]) == []
    assert model.calls == []


def test_columns_in_which_no_row_has_a_guess_are_not_read():
    class Silent(PromptLookup):
        """Drafts nothing."""

        def propose(self, texts, lengths, wanted, sampler, uniforms):
            draft = super().propose(texts, lengths, wanted, sampler, uniforms)
            return Draft(torch.full_like(draft.tokens, EMPTY), torch.zeros_like(draft.probs))

    model = Remembers(V)
    speculate(model, [[1, 2], [3]], GREEDY, max_new_tokens=5, drafter=Silent(V), n_draft=3, generators=seeded([0, 1]))
    assert model.calls == [(2, 2), *[(2, 1)] * 4]
