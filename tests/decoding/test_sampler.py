"""The sampler: frequencies equal enumerated distributions, and a row's draws do not depend on other rows."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from minillm.constants import EMPTY
from minillm.decoding.presets import PRESETS
from minillm.decoding.sampler import Sampler, SamplingConfig, build_pipeline, describe, invert, seeded
from minillm.decoding.transforms import BANNED, TopK
from tests.decoding.filters import filtered

law = settings(max_examples=60, deadline=None, derandomize=True)
TOP = 1 - 2**-53  # the largest uniform number that a generator gives

PROBS = [0.31, 0.02, 0.23, 0.17, 0.005, 0.125, 0.14]
LOGITS = [math.log(p) for p in PROBS]

SETTINGS = {
    "plain": {},
    "cold": {"temperature": 0.4},
    "hot": {"temperature": 2.5},
    "top_k": {"top_k": 3},
    "top_p": {"top_p": 0.7},
    "min_p": {"min_p": 0.3},
    "typical": {"typical_p": 0.6},
}
COMBINATIONS = [
    *itertools.combinations(SETTINGS, 1),
    *itertools.combinations(list(SETTINGS)[1:], 2),
    ("hot", "top_k", "top_p", "min_p"),
]


def p_value(counts, probs):
    """p-value of Pearson's chi-square test that the counts (V,) were drawn from probs (V,)."""
    expected = counts.sum() * probs
    assert (counts[probs == 0] == 0).all(), "an impossible token was drawn"
    chi2 = ((counts - expected)[probs > 0] ** 2 / expected[probs > 0]).sum()
    degrees = (probs > 0).sum() - 1
    return float(torch.special.gammaincc(degrees / 2, chi2 / 2)) if degrees > 0 else 1.0


def draw(logits, generators):
    """One token a row from softmax(logits), by a sampler without transforms."""
    return Sampler()(logits, torch.full((len(logits), 1), EMPTY), generators)


def frequencies(logits, n, seed=0):
    """Counts (V,) of n draws from logits (V,)."""
    uniforms = torch.rand(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return invert(logits.expand(n, -1), uniforms).bincount(minlength=len(logits))


@pytest.mark.parametrize("names", COMBINATIONS, ids="+".join)
def test_tokens_come_as_often_as_the_enumerated_distribution_says(names):
    wanted = {key: value for name in names for key, value in SETTINGS[name].items()}
    logits = torch.tensor([LOGITS], dtype=torch.float64)
    shaped = Sampler(build_pipeline(SamplingConfig(**wanted))).shape(logits, torch.tensor([[3]]))
    counts = frequencies(shaped[0], 20_000, seed=len(names))
    assert p_value(counts, torch.tensor(filtered(LOGITS, **wanted), dtype=torch.float64)) > 1e-4


def test_the_chi_square_test_notices_a_difference():
    counts = frequencies(torch.tensor(LOGITS, dtype=torch.float64), 20_000)
    assert p_value(counts, torch.tensor(PROBS, dtype=torch.float64)) > 1e-4
    assert p_value(counts, torch.tensor(filtered(LOGITS, temperature=1.1), dtype=torch.float64)) < 1e-4
    assert p_value(torch.tensor([10.0, 30.0, 60.0]), torch.tensor([0.2, 0.3, 0.5])) == pytest.approx(
        math.exp(-3.5), rel=1e-5
    )


def test_a_row_with_its_own_generator_draws_the_distribution_too():
    sampler, generators = Sampler(), seeded(range(40))
    logits, history = torch.tensor([LOGITS]).expand(40, -1), torch.full((40, 1), EMPTY)
    counts = sum(sampler(logits, history, generators).bincount(minlength=7) for _ in range(200))
    assert p_value(counts, torch.tensor(PROBS, dtype=torch.float64)) > 1e-4


def test_the_first_draws_of_neighboring_seeds_are_independent():
    logits = torch.tensor([LOGITS]).expand(8000, -1)
    first = draw(logits, seeded(range(8000)))
    assert p_value(first.bincount(minlength=7), torch.tensor(PROBS, dtype=torch.float64)) > 1e-4
    coins = draw(torch.zeros(8000, 2), seeded(range(8000)))
    pairs = (2 * coins[:-1] + coins[1:]).bincount(minlength=4)
    assert p_value(pairs, torch.full((4,), 0.25, dtype=torch.float64)) > 1e-4


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_a_million_draws_never_hit_a_banned_token(dtype):
    logits = torch.tensor([BANNED, 0.0, BANNED, -9.0, BANNED, 3.0, BANNED], dtype=dtype)
    counts = sum(frequencies(logits, 100_000, seed) for seed in range(10))
    assert counts.sum() == 1_000_000
    assert (counts[::2] == 0).all() and (counts[1::2] > 0).all()


@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    st.lists(st.one_of(st.just(BANNED), st.floats(-800, 800), st.floats(-1, 1)), min_size=1, max_size=30),
    st.one_of(st.sampled_from([0.0, 5e-324, 2**-53, 0.5, TOP]), st.floats(0, TOP)),
)
def test_the_draw_is_the_inverse_of_the_cumulative_distribution(x, u):
    if max(x) == BANNED:
        x[0] = 0.0
    probs = filtered(x)
    token = int(invert(torch.tensor([x], dtype=torch.float64), torch.tensor([u], dtype=torch.float64)))
    assert probs[token] > 0, "an impossible token was drawn"
    assert sum(probs[:token]) <= u + 1e-12 and u <= sum(probs[: token + 1]) + 1e-12


@pytest.mark.parametrize(
    ("v", "first", "last"), [(1, 0, 0), (2, 0, 1), (2, 1, 1), (3, 0, 1), (10, 3, 8), (999, 0, 998), (50_257, 1, 50_000)]
)
def test_the_ends_of_the_unit_interval_are_the_first_and_the_last_possible_token(v, first, last):
    """Also for u = 1, which no generator gives, but rounding may."""
    logits = torch.full((1, v), BANNED)
    logits[0, first : last + 1] = torch.randn(last + 1 - first, generator=torch.Generator().manual_seed(v))
    drawn = [int(invert(logits, torch.tensor([u], dtype=torch.float64))) for u in (0.0, TOP, 1.0)]
    assert drawn == [first, last, last]


def test_a_token_owns_its_interval_without_the_right_end():
    uniforms = torch.tensor([0.0, 0.25, 0.5, 0.75], dtype=torch.float64)
    assert invert(torch.zeros(4, 4), uniforms).tolist() == [0, 1, 2, 3]


def test_half_precision_logits_do_not_make_half_precision_probabilities():
    uniforms = torch.tensor([1 - 1e-9], dtype=torch.float64)
    assert invert(torch.tensor([[0.0, -20.0]], dtype=torch.float16), uniforms).tolist() == [1]  # p = 2e-9


def test_a_sum_that_errs_as_parallel_sums_do_finds_no_impossible_token(monkeypatch):
    logits = torch.tensor([[0.0, BANNED, 0.0, BANNED]], dtype=torch.float64)
    sums = torch.tensor([[0.5 - 2**-54, 0.5 + 2**-53, 1 - 2**-52, 1.0]], dtype=torch.float64)
    monkeypatch.setattr(torch.Tensor, "cumsum", lambda x, dim: sums)
    assert [int(invert(logits, torch.tensor([u], dtype=torch.float64))) for u in (0.0, 0.5, TOP)] == [0, 2, 2]


@law
@given(
    st.lists(st.integers(0, 10**6), min_size=1, max_size=6, unique=True),
    st.randoms(use_true_random=False),
    st.sampled_from([0, 0.8]),
)
def test_a_row_draws_the_same_alone_and_in_any_company(seeds, random, temperature):
    """Sampled or greedy, with the rows in any order, and when other rows leave the batch."""
    sampler = Sampler(build_pipeline(SamplingConfig(temperature=temperature, top_p=0.9, repetition_penalty=1.2)))
    logits = {s: torch.randn(3, 11, generator=torch.Generator().manual_seed(s)) for s in seeds}
    history = {s: torch.tensor([s % 11, EMPTY, 3]) for s in seeds}
    alone = {}
    for s in seeds:
        g = seeded([s])
        alone[s] = [int(sampler(logits[s][i : i + 1], history[s][None], g)) for i in range(3)]
    together, going = {s: [] for s in seeds}, dict(zip(seeds, seeded(seeds), strict=True))
    for i in range(3):
        order = random.sample(sorted(going), len(going))
        tokens = sampler(
            torch.stack([logits[s][i] for s in order]),
            torch.stack([history[s] for s in order]),
            [going[s] for s in order],
        )
        for s, token in zip(order, tokens.tolist(), strict=True):
            together[s].append(token)
        if len(going) > 1:
            del going[random.choice(sorted(going))]
    for s in seeds:
        assert together[s] == alone[s][: len(together[s])]


def test_every_draw_takes_one_uniform_number_greedy_or_not():
    logits = torch.randn(1, 5, generator=torch.Generator().manual_seed(1))
    after = []
    for x in (logits, TopK(1)(logits, logits)):
        generators = seeded([7])
        draw(x, generators)
        after.append(torch.rand((), generator=generators[0]).item())
    once = torch.Generator().manual_seed(7)
    torch.rand((), generator=once, dtype=torch.float64)
    assert after == [torch.rand((), generator=once).item()] * 2


@pytest.mark.parametrize("row", [[BANNED] * 3, [0.0, math.nan, 1.0], [math.inf, 0.0, 0.0]])
@pytest.mark.parametrize(
    "config",
    [
        SamplingConfig(),
        SamplingConfig(temperature=0),
        SamplingConfig(temperature=0.7, top_k=2, top_p=0.5, min_p=0.1, typical_p=0.9),
    ],
)
def test_a_row_without_a_distribution_is_refused(row, config):
    with pytest.raises(ValueError, match="logits"):
        Sampler(build_pipeline(config))(torch.tensor([row]), torch.tensor([[1]]), seeded([0]))


@given(
    st.lists(st.lists(st.integers(-3, 3), min_size=4, max_size=4), min_size=1, max_size=3),
    st.sampled_from(
        [{"temperature": 0, "top_p": 0.9}, {"top_k": 1, "temperature": 0.5}, {"top_p": 0, "typical_p": 0.5}]
    ),
    st.sampled_from([1.0, 1.5]),
    st.floats(0, TOP),
)
def test_greedy_takes_what_a_draw_from_its_distribution_would_and_leaves_the_generators_alone(rows, how, penalty, u):
    logits, history = torch.tensor(rows, dtype=torch.float32), torch.tensor([[0, 2, EMPTY]] * len(rows))
    sampler = Sampler(build_pipeline(SamplingConfig(repetition_penalty=penalty, banned_tokens=(3,), **how)))
    generators, uniforms = seeded(range(len(rows))), torch.full((len(rows),), u, dtype=torch.float64)
    expected = invert(sampler.shape(logits, history), uniforms)
    assert sampler.greedy and torch.equal(sampler(logits, history, generators), expected)
    probs, tokens, possible = sampler.guess(logits, history, uniforms)
    assert torch.equal(tokens, expected) and possible.all()
    assert torch.equal(probs, sampler.distribution(logits, history))
    assert [float(torch.rand((), generator=g)) for g in generators] == [
        float(torch.rand((), generator=g)) for g in seeded(range(len(rows)))
    ]


@pytest.mark.parametrize(
    "how", [{}, {"temperature": 1e-9}, {"top_k": 2}, {"top_p": 1e-9}, {"min_p": 1.0}, {"typical_p": 0.0}], ids=str
)
def test_what_may_leave_several_tokens_is_drawn_from(how):
    sampler, generators = Sampler(build_pipeline(SamplingConfig(**how))), seeded([3])
    assert sampler.decisive is None
    sampler(torch.tensor([LOGITS]), torch.tensor([[1]]), generators)
    assert float(torch.rand((), generator=generators[0])) != float(torch.rand((), generator=seeded([3])[0]))


def test_a_generator_for_every_row_is_demanded():
    with pytest.raises(ValueError, match="1 generators"):
        draw(torch.zeros(2, 3), seeded([0]))


def test_ids_beyond_the_tokenizer_are_never_drawn():
    logits = torch.zeros(1, 13)
    logits[0, 11:] = 50.0  # ids beyond the tokenizer: untrained, with large logits
    for config in (SamplingConfig(), *PRESETS.values()):
        shaped = Sampler(build_pipeline(config, vocab_size=11)).shape(logits, torch.tensor([[1]]))
        assert (shaped.softmax(-1)[0, 11:] == 0.0).all() and shaped.softmax(-1)[0, :11].sum() == pytest.approx(1)


EVERYTHING = SamplingConfig(
    temperature=0.7, top_k=50, top_p=0.9, min_p=0.05, typical_p=0.8, repetition_penalty=1.1, presence_penalty=0.2,
    frequency_penalty=0.3, no_repeat_ngram=3, min_new_tokens=2, banned_tokens=(4, 9),
)  # fmt: skip


def test_the_pipeline_has_one_order_and_prints_it():
    pipeline = build_pipeline(EVERYTHING, vocab_size=1000, end_id=0, prompt_lengths=[3, 5])
    assert describe(pipeline) == (
        "ids below 1000 -> 2 banned -> at least 2 new -> no repeated 3-gram -> repetition penalty 1.1"
        " -> presence penalty 0.2 -> frequency penalty 0.3 -> temperature 0.7"
        " -> top-k 50 -> top-p 0.9 -> min-p 0.05 -> typical 0.8 -> draw"
    )
    assert str(Sampler(pipeline)) == describe(pipeline)


def test_what_would_change_nothing_is_left_out():
    assert build_pipeline(SamplingConfig()) == []
    assert describe([]) == "draw"
    assert (
        describe(build_pipeline(PRESETS["factual"]))
        == "repetition penalty 1.1 -> temperature 0.3 -> top-k 20 -> top-p 0.85 -> draw"
    )


def test_presets_are_what_their_names_promise():
    chosen = {name: (c.temperature, c.top_k, c.top_p, c.repetition_penalty) for name, c in PRESETS.items()}
    assert chosen == {
        "factual": (0.3, 20, 0.85, 1.1),
        "balanced": (0.7, 50, 0.9, 1.15),
        "creative": (1.0, 100, 0.95, 1.2),
    }


@pytest.mark.parametrize(
    "name",
    [
        *("temperature", "top_k", "top_p", "min_p", "typical_p", "repetition_penalty", "presence_penalty"),
        *("frequency_penalty", "no_repeat_ngram", "min_new_tokens", "banned_tokens"),
    ],
)
def test_every_setting_reaches_the_pipeline(name):
    config = SamplingConfig(**{name: getattr(EVERYTHING, name)})
    assert len(build_pipeline(config, end_id=0, prompt_lengths=[1])) == 1


@pytest.mark.parametrize(
    "wrong",
    [
        *({"temperature": -0.1}, {"top_p": 1.5}, {"top_k": -1}, {"repetition_penalty": 0.0}, {"top_k": 2.5}),
        *({"typical_p": math.nan}, {"min_p": 2.0}),
    ],
)
def test_a_setting_out_of_range_is_refused_by_name(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        SamplingConfig(**wrong)


def test_a_sampler_follows_its_rows():
    config = SamplingConfig(min_new_tokens=2, top_k=3)
    of = {lengths: build_pipeline(config, end_id=0, prompt_lengths=lengths) for lengths in ((1, 4, 9), (9, 1))}
    assert Sampler(of[1, 4, 9]).for_rows([2, 0]) == Sampler(of[9, 1])


def test_min_new_tokens_without_an_end_or_lengths_is_refused():
    config = SamplingConfig(min_new_tokens=3)
    with pytest.raises(ValueError, match="end_id"):
        build_pipeline(config, prompt_lengths=[1])
    with pytest.raises(ValueError, match="prompt_lengths"):
        build_pipeline(config, end_id=0)
