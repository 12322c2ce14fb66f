"""Penalties and bans: laws over random histories, slow versions in plain Python, and transformers."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from minillm.constants import EMPTY
from minillm.decoding.penalties import (
    BannedTokens,
    FrequencyPenalty,
    LogitBias,
    MinNewTokens,
    NoRepeatNGram,
    OnlyFirst,
    PresencePenalty,
    RepetitionPenalty,
)
from minillm.decoding.transforms import BANNED
from minillm.lessons.sampling import repetition_penalty

law = settings(max_examples=60, deadline=None, derandomize=True)
V = 7

rows = st.lists(st.integers(0, V - 1), max_size=23)
texts = st.one_of(rows, st.lists(st.integers(0, 1), max_size=23))  # two token ids, so n-grams repeat
penalties = st.sampled_from(
    [RepetitionPenalty(1.3), RepetitionPenalty(0.7), PresencePenalty(0.6), PresencePenalty(-1), FrequencyPenalty(0.4)]
    + [NoRepeatNGram(n) for n in (1, 2, 3, 5)]
    + [MinNewTokens(3, 2, (4,)), BannedTokens((1, 5)), OnlyFirst(5), LogitBias(((1, 2.5), (4, -0.5))), LogitBias(())]
)


def batch(texts, gaps=None):
    """Histories (B, T), padded on the left, or with EMPTY at random places if `gaps` (a Random) is given."""
    if gaps is not None:
        texts = [
            [t for token in text for t in [EMPTY] * gaps.randrange(3) + [token]] + [EMPTY] * gaps.randrange(3)
            for text in texts
        ]
    width = max(map(len, texts))
    return torch.tensor([[EMPTY] * (width - len(text)) + list(text) for text in texts], dtype=torch.long).reshape(
        len(texts), width
    )


def random_logits(b, seed):
    """Logits of both signs."""
    return torch.randn(b, V, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 3


def by_hand(transform, x, text):
    """Oracle for one row, in plain Python."""
    match transform:
        case RepetitionPenalty(theta):
            return repetition_penalty(x, text, theta)
        case PresencePenalty(a):
            return [v - a if i in text else v for i, v in enumerate(x)]
        case FrequencyPenalty(a):
            return [v - a * text.count(i) for i, v in enumerate(x)]
        case NoRepeatNGram(n):
            seen = {tuple(text[i : i + n]) for i in range(len(text) - n + 1)}
            return [BANNED if len(text) >= n - 1 and tuple([*text, i][-n:]) in seen else v for i, v in enumerate(x)]
        case MinNewTokens(n, end_id, (length,)):
            return [BANNED if i == end_id and len(text) - length < n else v for i, v in enumerate(x)]
        case LogitBias(biases):
            return [v + dict(biases).get(i, 0) for i, v in enumerate(x)]
        case BannedTokens(ids):
            return [BANNED if i in ids else v for i, v in enumerate(x)]
        case OnlyFirst(size):
            return [v if i < size else BANNED for i, v in enumerate(x)]
    raise AssertionError(transform)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(penalties, st.lists(texts, min_size=1, max_size=3), st.integers(0, 999))
def test_every_penalty_is_its_plain_python_twin(transform, texts, seed):
    logits = random_logits(len(texts), seed)
    before, history = logits.clone(), batch(texts)
    out = transform(logits, history)
    assert torch.equal(logits, before) and torch.equal(history, batch(texts)), "a transform is pure"
    expected = [by_hand(transform, x, text) for x, text in zip(logits.tolist(), texts, strict=True)]
    assert torch.allclose(out, torch.tensor(expected, dtype=torch.float64), atol=1e-14, rtol=0)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(penalties, st.lists(texts, min_size=1, max_size=3), st.integers(0, 999), st.randoms(use_true_random=False))
def test_empty_places_count_for_nothing_wherever_they_are(transform, texts, seed, random):
    logits = random_logits(len(texts), seed)
    assert torch.equal(transform(logits, batch(texts)), transform(logits, batch(texts, gaps=random)))


@law
@given(penalties, texts, st.integers(0, 999), st.sampled_from([torch.float16, torch.bfloat16, torch.float32]))
def test_penalties_are_computed_in_float32_at_least(transform, text, seed, dtype):
    logits = random_logits(1, seed).to(dtype)
    out = transform(logits, batch([text]))
    assert out.dtype == torch.float32
    assert torch.equal(out, transform(logits.float(), batch([text])))


@law
@given(penalties, texts, st.integers(0, 999))
def test_what_is_banned_stays_banned(transform, text, seed):
    logits = random_logits(1, seed)
    logits[0, seed % V] = BANNED
    assert transform(logits, batch([text]))[0, seed % V] == BANNED


@law
@given(st.floats(1, 5), st.integers(0, V - 1), st.integers(1, 4), st.integers(0, 999))
def test_a_repetition_penalty_never_makes_the_seen_token_likelier(theta, token, times, seed):
    logits = random_logits(1, seed)
    logits[0, (token + 1) % V] = 0.0
    out = RepetitionPenalty(theta)(logits, batch([[token] * times]))
    assert out.softmax(-1)[0, token] <= logits.softmax(-1)[0, token] + 1e-15


@law
@given(st.floats(0.2, 5), rows, st.randoms(use_true_random=False), st.integers(0, 999))
def test_a_repetition_penalty_depends_on_the_set_of_tokens(theta, text, random, seed):
    more = text + [random.choice(text) for _ in range(5)] if text else []
    random.shuffle(more)
    logits, penalty = random_logits(1, seed), RepetitionPenalty(theta)
    assert torch.equal(penalty(logits, batch([text])), penalty(logits, batch([more])))


@pytest.mark.parametrize("prompt_lengths", [(1, 4, 9), (5, 5, 5)])
@pytest.mark.parametrize("n", [0, 1, 3])
@pytest.mark.parametrize("stop_ids", [(), (0, 4)])
def test_every_end_is_impossible_for_exactly_the_first_n_new_tokens(n, prompt_lengths, stop_ids):
    transform, ends = MinNewTokens(n, 2, prompt_lengths, stop_ids), [2, *stop_ids]
    logits = random_logits(3, 0)
    for n_new in range(6):
        out = transform(logits, batch([[3] * (length + n_new) for length in prompt_lengths]))
        probs = out.softmax(-1)
        assert ((probs[:, ends] == 0.0) == (n_new < n)).all()
        others = [i for i in range(V) if i not in ends]
        assert torch.equal(out[:, others], logits[:, others]), "no other id changes"


def test_min_new_tokens_follows_its_rows():
    transform = MinNewTokens(2, 0, (1, 4, 9)).for_rows([2, 0, 0])
    assert transform.prompt_lengths == (9, 1, 1)
    alone = MinNewTokens(2, 0, (5,))
    assert alone.for_rows([1, 2]) is alone, "one length holds for all"


def test_transformers_agrees():
    lp = pytest.importorskip("transformers.generation.logits_process")
    g = torch.Generator().manual_seed(0)
    for t in (1, 2, 5, 40):
        history, logits = torch.randint(V, (3, t), generator=g), torch.randn(3, V, generator=g, dtype=torch.float64)
        for theta in (0.8, 1.0, 1.9):
            theirs = lp.RepetitionPenaltyLogitsProcessor(theta)(history, logits)
            assert torch.allclose(RepetitionPenalty(theta)(logits, history), theirs, atol=1e-15)
        for n in (1, 2, 3, 4):
            assert torch.equal(NoRepeatNGram(n)(logits, history), lp.NoRepeatNGramLogitsProcessor(n)(history, logits))
        for n in (0, 1, 7):
            theirs = lp.MinNewTokensLengthLogitsProcessor(prompt_length_to_skip=1, min_new_tokens=n, eos_token_id=4)(
                history, logits
            )
            assert torch.equal(MinNewTokens(n, 4, (1,))(logits, history), theirs)


@pytest.mark.parametrize(
    "make",
    [
        *(lambda: RepetitionPenalty(0), lambda: RepetitionPenalty(math.inf), lambda: PresencePenalty(math.nan)),
        *(lambda: FrequencyPenalty(math.inf), lambda: NoRepeatNGram(0), lambda: BannedTokens((3, -1))),
        *(lambda: LogitBias(((1, math.inf),)), lambda: LogitBias(((-1, 1.0),)), lambda: LogitBias(((1, 1.0),) * 2)),
        *(lambda: OnlyFirst(0), lambda: MinNewTokens(-1, 0, (1,)), lambda: MinNewTokens(1, -1, (1,))),
    ],
)
def test_settings_out_of_range_are_refused(make):
    with pytest.raises(ValueError, match="expected"):
        make()


def test_a_banned_id_that_the_model_does_not_have_is_refused():
    with pytest.raises(ValueError, match="below the 7"):
        BannedTokens((7,))(random_logits(1, 0), batch([[1]]))
    with pytest.raises(ValueError, match="below the 7"):
        LogitBias(((7, 1.0),))(random_logits(1, 0), batch([[1]]))
