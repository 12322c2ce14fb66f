"""Temperature, top-k, top-p, min-p and typical: laws, the lesson on sampling, and transformers as a second oracle."""

import itertools
import math
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from minillm.decoding.penalties import (
    BannedTokens,
    FrequencyPenalty,
    MinNewTokens,
    NoRepeatNGram,
    OnlyFirst,
    PresencePenalty,
    RepetitionPenalty,
)
from minillm.decoding.transforms import BANNED, MinP, Temperature, TopK, TopP, Typical
from tests.decoding.filters import filtered

LN2 = math.log(2)

fractions = st.one_of(st.sampled_from([0.0, 1.0, 0.5, 0.25, 1e-9, 1 - 1e-9]), st.floats(0, 1))
temperatures = st.one_of(st.sampled_from([0.0, 1.0, 5e-324, 1e-40, 1e3]), st.floats(0, 10))
counts = st.integers(0, 20)
law = settings(max_examples=60, deadline=None, derandomize=True)


def apply(transform, logits):
    return transform(logits, torch.empty(len(logits), 0, dtype=torch.long))


def probs_of(transforms, logits):
    for transform in transforms:
        logits = apply(transform, logits)
    return logits.double().softmax(-1)


def kept(logits):
    """The ids that are kept, for a single row."""
    return set((logits[0] > BANNED).nonzero().squeeze(-1).tolist())


@st.composite
def batches(draw, ties=True):
    """Logits (B, V) of any dtype: normal, scaled, sometimes rounded so that many tie, sometimes with bans."""
    b, v = draw(st.integers(1, 3)), draw(st.integers(1, 17))
    g = torch.Generator().manual_seed(draw(st.integers(0, 2**32 - 1)))
    x = torch.randn(b, v, generator=g, dtype=torch.float64) * draw(st.sampled_from([0.1, 1.0, 30.0]))
    if ties and draw(st.booleans()):
        x = x.round()
    if ties and draw(st.booleans()):
        banned = torch.rand(b, v, generator=g) < 0.4
        banned[torch.arange(b), torch.randint(v, (b,), generator=g)] = False
        x = x.masked_fill(banned, BANNED)
    return x.to(draw(st.sampled_from([torch.float64, torch.float32, torch.float16, torch.bfloat16]))) if ties else x


@st.composite
def any_transform(draw):
    return draw(
        st.sampled_from(
            [
                Temperature(draw(temperatures)),
                TopK(draw(counts)),
                TopP(draw(fractions)),
                MinP(draw(fractions)),
                Typical(draw(fractions)),
            ]
        )
    )


@law
@given(batches(), st.lists(any_transform(), max_size=5))
def test_any_chain_leaves_a_distribution(logits, chain):
    before = logits.clone()
    probs = probs_of(chain, logits)
    assert probs.isfinite().all()
    assert torch.allclose(probs.sum(-1), torch.ones(len(logits), dtype=torch.float64))
    assert torch.equal(logits, before), "a transform is pure"


@law
@given(batches(), temperatures, counts, fractions, fractions)
def test_a_most_probable_token_survives(logits, t, k, p, min_p):
    """Not for typical: see below."""
    probs = probs_of([Temperature(t), TopK(k), TopP(p), MinP(min_p)], logits)
    best = logits.argmax(-1)
    assert (probs.gather(1, best[:, None]).squeeze(1) == probs.amax(-1)).all()


def test_the_most_probable_token_may_be_too_predictable_to_be_typical():
    logits = torch.tensor([[0.5] + [0.5 / 400] * 400], dtype=torch.float64).log()
    logits[0, 1:] += torch.linspace(0, 1, 400)
    assert 0 not in kept(apply(Typical(0.3), logits))


@law
@given(batches(), st.sampled_from([Temperature(0), TopK(1), TopP(0)]))
def test_the_extremes_mean_greedy_and_ties_go_to_the_lowest_id(logits, transform):
    alive = apply(transform, logits) > BANNED
    assert (alive.sum(-1) == 1).all()
    assert torch.equal(alive.byte().argmax(-1), logits.double().argmax(-1))
    assert all(
        row.index(max(row)) == i for row, i in zip(logits.tolist(), alive.byte().argmax(-1).tolist(), strict=True)
    )


@pytest.mark.parametrize("t", [5e-324, 1e-300, 1e-40, 1e39, 1e300])
def test_no_temperature_is_too_extreme(t):
    logits = torch.tensor([[2.0, -3.0, 60000.0, BANNED]], dtype=torch.float16)
    probs = probs_of([Temperature(t)], logits)[0]
    expected = [0, 0, 1, 0] if t < 1 else [1 / 3, 1 / 3, 1 / 3, 0]
    assert torch.allclose(probs, torch.tensor(expected, dtype=torch.float64), atol=1e-7)


def test_min_p_1_keeps_all_that_tie_with_the_most_probable():
    assert kept(apply(MinP(1), torch.tensor([[2.0, 3.0, 3.0, 1.0]]))) == {1, 2}


@law
@given(batches(), st.integers(0, 5))
def test_the_other_extremes_are_the_identity(logits, more):
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    for transform in (TopK(0), TopK(logits.shape[1] + more), TopP(1), MinP(0), Typical(1)):
        assert torch.equal(apply(transform, logits), wide)


@law
@given(batches(), any_transform())
def test_what_survives_is_computed_in_float32_at_least(logits, transform):
    out = apply(transform, logits)
    assert out.dtype == (torch.float64 if logits.dtype == torch.float64 else torch.float32)
    wide = apply(transform, logits.to(out.dtype))
    assert torch.equal(out, wide)


@law
@given(batches(ties=False), any_transform(), st.randoms(use_true_random=False))
def test_the_names_of_tokens_do_not_matter(logits, transform, random):
    order = random.sample(range(logits.shape[1]), logits.shape[1])
    assert torch.equal(apply(transform, logits[:, order]), apply(transform, logits)[:, order])


@law
@given(batches(ties=False), any_transform(), st.floats(-300, 300))
def test_a_constant_added_to_all_logits_changes_nothing(logits, transform, constant):
    # temperatures near 0 amplify the rounding error of the sum itself
    if isinstance(transform, Temperature) and 0 < transform.t < 0.01:
        transform = Temperature(0.01)
    moved, still = probs_of([transform], logits + constant), probs_of([transform], logits)
    assert torch.allclose(moved, still, atol=1e-9)
    assert torch.equal(moved > 0, still > 0) or isinstance(transform, Temperature)


@law
@given(batches(), any_transform())
def test_a_row_does_not_see_its_neighbors(logits, transform):
    together = apply(transform, logits)
    for i in range(len(logits)):
        assert torch.equal(apply(transform, logits[i : i + 1]), together[i : i + 1])


@law
@given(batches(), st.integers(1, 20))
def test_top_k_leaves_exactly_k(logits, k):
    alive = apply(TopK(k), logits) > BANNED
    assert torch.equal(alive.sum(-1), (logits > BANNED).sum(-1).clamp(max=k))
    for x, survivors in zip(logits.tolist(), alive.tolist(), strict=True):
        ranked = sorted(range(len(x)), key=lambda i: (-x[i], i))
        assert {i for i in range(len(x)) if survivors[i]} <= set(ranked[:k])


@law
@given(batches(), fractions)
def test_top_p_is_the_smallest_set_of_most_probable_tokens_that_reaches_p(logits, p):
    probs = logits.double().softmax(-1)
    alive = apply(TopP(p), logits) > BANNED
    for q, survivors in zip(probs, alive, strict=True):
        mass, least = q[survivors].sum(), q[survivors].min()
        assert mass >= p - 1e-11
        assert p == 1 or survivors.sum() == 1 or mass - least < p
        assert (q[~survivors] <= least).all()


HALVES = [[-LN2, -2 * LN2, -3 * LN2, -3 * LN2]]  # 1/2, 1/4, 1/8, 1/8


@pytest.mark.parametrize(
    ("logits", "p", "expected"),
    [
        (HALVES, 0.5, {0}),  # reached exactly: no token more
        (HALVES, 0.5 + 1e-9, {0, 1}),
        (HALVES, 0.75, {0, 1}),
        (HALVES, 0.875, {0, 1, 2}),  # of two that tie, the lower id
        (HALVES, 0.875 + 1e-9, {0, 1, 2, 3}),
        ([[0.0] * 4], 0.5, {0, 1}),
        ([[0.0] * 10], 0.8, set(range(8))),  # 0.1 eight times sums to 0.7999999999999999
        ([[math.log(q) for q in (0.1, 0.2, 0.3, 0.4)]], 0.6, {2, 3}),  # the token that crosses p is in
        ([[math.log(q) for q in (0.1, 0.2, 0.3, 0.4)]], 0.7, {2, 3}),
    ],
)
def test_top_p_where_the_mass_is_exactly_p(logits, p, expected):
    assert kept(apply(TopP(p), torch.tensor(logits, dtype=torch.float64))) == expected


@pytest.mark.parametrize(
    ("p", "expected"), [(0.25, {1}), (0.25 + 1e-9, {0, 1}), (0.75, {0, 1}), (0.875, {0, 1, 2}), (0, {1})]
)
def test_typical_where_the_mass_is_exactly_p(p, expected):
    # entropy 1.75 ln 2; surprisals 1, 2, 3, 3 ln 2: the second token is the most typical, then the first
    assert kept(apply(Typical(p), torch.tensor(HALVES, dtype=torch.float64))) == expected


@pytest.mark.parametrize(
    ("min_p", "expected"), [(0.25, {0, 1, 2, 3}), (0.25 + 1e-9, {0, 1}), (0.5, {0, 1}), (0.5 + 1e-9, {0})]
)
def test_min_p_where_a_token_is_exactly_at_the_threshold(min_p, expected):
    assert kept(apply(MinP(min_p), torch.tensor(HALVES, dtype=torch.float64))) == expected


@settings(max_examples=150, deadline=None, derandomize=True)
@given(batches(), temperatures, counts, fractions, fractions)
def test_the_filters_are_those_of_the_lesson(logits, t, k, p, min_p):
    logits = logits.double()
    ours = probs_of([Temperature(t), TopK(k), TopP(p), MinP(min_p)], logits)
    for x, q in zip(logits.tolist(), ours.tolist(), strict=True):
        theirs = filtered(x, t or 0, k, p, min_p)
        assert [v > 0 for v in q] == [v > 0 for v in theirs]
        assert sum(abs(a - b) for a, b in zip(q, theirs, strict=True)) / 2 < 1e-12


@settings(max_examples=150, deadline=None, derandomize=True)
@given(batches(ties=False), st.floats(0.1, 3), counts, st.floats(0, 1))
def test_typical_is_that_of_the_lesson_too(logits, t, k, p):
    ours = probs_of([Temperature(t), TopK(k), Typical(p)], logits)
    for x, q in zip(logits.tolist(), ours.tolist(), strict=True):
        theirs = filtered(x, t, k, typical_p=p)
        assert sum(abs(a - b) for a, b in zip(q, theirs, strict=True)) / 2 < 1e-12


GOLDEN = [[math.log(q) for q in (0.4, 0.3, 0.2, 0.1)]]


@pytest.mark.parametrize(
    ("first", "second", "in_order", "swapped"),
    [
        (Temperature(2), TopP(0.65), {0, 1, 2}, {0, 1}),
        (Temperature(0.5), MinP(0.3), {0, 1}, {0, 1, 2}),
        (TopK(3), TopP(0.75), {0, 1}, {0, 1, 2}),
        (TopP(0.75), MinP(0.4), {0, 1, 2}, {0, 1}),
        (MinP(0.4), Typical(0.5), {0, 1}, {1, 2}),
    ],
)
def test_the_order_of_steps_is_not_a_matter_of_taste(first, second, in_order, swapped):
    logits = torch.tensor(GOLDEN, dtype=torch.float64)
    assert kept(apply(second, apply(first, logits))) == in_order
    assert kept(apply(first, apply(second, logits))) == swapped


def test_transformers_agrees_where_nothing_ties():
    lp = pytest.importorskip("transformers.generation.logits_process")
    logits = torch.randn(13, 101, generator=torch.Generator().manual_seed(5), dtype=torch.float64) * 3
    pairs = [(Temperature(t), lp.TemperatureLogitsWarper(t)) for t in (0.3, 1.7)]
    pairs += [(TopK(k), lp.TopKLogitsWarper(k)) for k in (1, 7, 100, 500)]
    pairs += [(TopP(p), lp.TopPLogitsWarper(p)) for p in (0.0, 0.01, 0.35, 0.9, 0.999)]
    pairs += [(MinP(p), lp.MinPLogitsWarper(p)) for p in (0.0, 0.02, 0.4, 1.0)]
    pairs += [(Typical(p), lp.TypicalLogitsWarper(p)) for p in (0.01, 0.35, 0.9, 0.999)]
    for (ours, theirs), (after, their_after) in itertools.product(pairs, pairs):
        a, b = apply(after, apply(ours, logits)), their_after(None, theirs(None, logits))
        assert torch.allclose(a.softmax(-1), b.softmax(-1), atol=1e-14), (ours, after)
        assert torch.equal(a > BANNED, b > BANNED), (ours, after)


def test_transformers_keeps_every_token_that_ties_and_we_keep_k():
    lp = pytest.importorskip("transformers.generation.logits_process")
    logits = torch.tensor([[1.0, 3.0, 3.0, 3.0, 0.0]])
    assert kept(lp.TopKLogitsWarper(2)(None, logits)) == {1, 2, 3}
    assert kept(apply(TopK(2), logits)) == {1, 2}


def test_transformers_cuts_the_lower_ids_where_top_p_meets_a_tie_and_we_cut_the_higher():
    lp = pytest.importorskip("transformers.generation.logits_process")
    logits = torch.zeros(1, 4)
    assert kept(lp.TopPLogitsWarper(0.5)(None, logits)) == {2, 3}
    assert kept(apply(TopP(0.5), logits)) == {0, 1}


def test_transformers_errs_by_a_token_where_rounding_hides_that_the_mass_is_exactly_p():
    lp = pytest.importorskip("transformers.generation.logits_process")
    logits = torch.zeros(1, 10, dtype=torch.float64)
    assert {p for p in range(1, 10) if len(kept(apply(TopP(p / 10), logits))) != p} == set()
    assert {p for p in range(1, 10) if len(kept(lp.TopPLogitsWarper(p / 10)(None, logits))) != p} != set()


EVERY = [
    *(
        Temperature(0),
        Temperature(2),
        TopK(2),
        TopK(0),
        TopP(0.5),
        TopP(1),
        MinP(0.1),
        MinP(0),
        Typical(0.5),
        Typical(1),
    ),
    *(
        RepetitionPenalty(1.2),
        PresencePenalty(0.3),
        FrequencyPenalty(0.3),
        NoRepeatNGram(1),
        BannedTokens((1,)),
        OnlyFirst(3),
    ),
    MinNewTokens(2, 0, (1,)),
]


@pytest.mark.parametrize("transform", EVERY, ids=str)
@law
@given(st.lists(st.integers(1, 4), max_size=4), st.lists(st.integers(1, 4), max_size=3))
def test_logits_and_histories_of_other_shapes_are_refused_in_a_sentence(transform, shape, history):
    """Only logits (B, V) with a history (B, T) are accepted; every other shape raises a clear error."""
    shape = [*shape[:-1], 5] if shape else []
    logits = torch.zeros(shape)
    tokens = torch.zeros(history, dtype=torch.long)
    if len(shape) == 2 and len(history) == 2 and shape[0] == history[0]:
        assert transform(logits, tokens).shape == logits.shape
        return
    what = (
        f"history of shape {tuple(history)}: expected (B, T)"
        if len(shape) == 2
        else f"logits of shape {tuple(shape)}: expected (B, V)"
    )
    with pytest.raises(ValueError, match=re.escape(what)):
        transform(logits, tokens)


def test_lengths_of_prompts_that_are_not_those_of_the_rows_are_refused():
    with pytest.raises(ValueError, match="3 prompt_lengths: expected one, or 2"):
        apply(MinNewTokens(2, 0, (1, 1, 1)), torch.zeros(2, 5))


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("scale", [0.5, 2.0, 5.0])
def test_top_p_of_a_large_vocabulary_in_float32_keeps_the_set_of_float64(p, scale):
    """A float32 sum of 50,000 probabilities has an error larger than the smallest of them."""
    logits = torch.randn(1, 50_000, generator=torch.Generator().manual_seed(3)) * scale
    wide = logits.double()[0]
    values = wide.tolist()
    order = sorted(range(50_000), key=lambda i: (-values[i], i))
    weights = (wide[order] - wide.max()).exp().tolist()
    sums, whole = itertools.accumulate(weights), math.fsum(weights)
    n = next(i for i, s in enumerate(sums, start=1) if s / whole >= p - 1e-12)
    assert kept(apply(TopP(p), logits)) == set(order[:n])


@law
@given(batches(), st.data())
def test_a_token_that_is_exactly_min_p_as_probable_as_the_best_is_kept(logits, data):
    """For every dtype: with min_p equal to its ratio a token is kept; with a slightly larger min_p it is cut."""
    below = (logits.double() - logits.double().amax(-1, keepdim=True))[0]
    token = data.draw(st.sampled_from([i for i, x in enumerate(below.tolist()) if x > -700]))
    min_p = min(1.0, math.exp(below[token]))
    assert token in kept(apply(MinP(min_p), logits))
    assert token not in kept(apply(MinP(min(1.0, min_p * (1 + 1e-9))), logits)) or min_p > 1 - 1e-8


@pytest.mark.parametrize(
    "make",
    [
        *(lambda: Temperature(-1), lambda: Temperature(math.nan), lambda: Temperature(math.inf), lambda: TopK(-1)),
        *(lambda: TopP(1.1), lambda: TopP(math.nan), lambda: MinP(-0.1), lambda: Typical(2)),
    ],
)
def test_settings_out_of_range_are_refused(make):
    with pytest.raises(ValueError, match="expected"):
        make()


def test_steps_read_like_settings():
    assert [str(t) for t in (Temperature(0.7), TopK(50), TopP(0.9), MinP(0.05), Typical(0.2))] == [
        "temperature 0.7",
        "top-k 50",
        "top-p 0.9",
        "min-p 0.05",
        "typical 0.2",
    ]
