"""Best of N returns the best text for any order of the candidates, and counts equal texts once."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minillm.decoding.best_of import BestOfConfig, mean_logprob, overlap, rank
from minillm.decoding.generate import generate
from minillm.decoding.rows import Completion
from minillm.decoding.sampler import Sampler, seeded
from tests.decoding.toys import Remembers

logprobs = st.floats(-20, 0)
completions = st.lists(st.tuples(st.integers(0, 2), logprobs), max_size=6).map(
    lambda drawn: Completion([token for token, _ in drawn], [logprob for _, logprob in drawn], "length")
)
configs = st.builds(BestOfConfig, same_overlap=st.sampled_from([0.3, 0.7, 1.0]), same_n=st.integers(1, 3))


@given(st.lists(completions, min_size=1, max_size=7), configs, st.randoms(use_true_random=False))
def test_the_winner_scores_highest_and_the_order_of_the_texts_changes_nothing(texts, config, random):
    ranked = rank(texts, config)
    assert ranked[0].score == max(map(mean_logprob, texts))
    assert [r.score for r in ranked] == sorted((r.score for r in ranked), reverse=True)
    shuffled = random.sample(texts, len(texts))
    assert [(texts[r.index].tokens, r.score) for r in ranked] == [
        (shuffled[r.index].tokens, r.score) for r in rank(shuffled, config)
    ]


@given(st.lists(completions, min_size=1, max_size=7), configs)
def test_what_is_kept_differs_and_what_is_left_out_is_like_a_better_one(texts, config):
    ranked = rank(texts, config)
    kept = [texts[r.index].tokens for r in ranked]
    for i, a in enumerate(kept):
        assert all(overlap(a, b, config.same_n) < config.same_overlap for b in kept[:i])
    for i in set(range(len(texts))) - {r.index for r in ranked}:
        alike = [
            r for r in ranked if overlap(texts[i].tokens, texts[r.index].tokens, config.same_n) >= config.same_overlap
        ]
        assert any(r.score >= mean_logprob(texts[i]) for r in alike)


@given(st.lists(st.integers(0, 3), max_size=8), st.lists(st.integers(0, 3), max_size=8), st.integers(1, 4))
def test_overlap_is_symmetric_between_0_and_1_and_1_for_equals(a, b, n):
    assert overlap(a, b, n) == overlap(b, a, n) and 0 <= overlap(a, b, n) <= 1 and overlap(a, a, n) == 1


def test_overlap_of_two_sentences_that_one_can_count():
    assert overlap([1, 2, 3, 4], [1, 2, 3, 5], 2) == 2 / 4
    assert overlap([1, 2], [1, 3], 3) == 0 and overlap([], [1], 1) == 0


def test_any_scorer_may_judge():
    texts = [Completion([token] * n, [-1.0] * n, "end") for token, n in ((1, 2), (2, 5), (3, 4))]
    config = BestOfConfig()
    assert [r.index for r in rank(texts, config, score=lambda completion: len(completion.tokens))] == [1, 2, 0]
    assert rank(texts, config, score=lambda completion: -len(completion.tokens))[0] == (0, -2)
    with pytest.raises(ValueError, match="score = nan of completion 0: expected a number"):
        rank(texts, config, score=lambda completion: math.nan)


def test_the_score_is_the_mean_over_what_was_drawn_end_included():
    assert mean_logprob(Completion([5, 6], [-1.0, -2.0, -6.0], "end")) == -3
    assert mean_logprob(Completion([], [], "context")) == -math.inf


def test_more_texts_are_never_worse():
    model, sampler = Remembers(7), Sampler([])
    texts = generate(model, [[1]] * 16, sampler, max_new_tokens=5, generators=seeded(range(16)))
    best = [rank(texts[:n], BestOfConfig())[0].score for n in range(1, 17)]
    assert best == sorted(best) and best[0] < best[-1]
