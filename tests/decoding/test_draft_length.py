"""Draft length: the best one for given counts and costs; the clock never affects the text."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minillm.decoding.draft_length import (
    CHECK,
    MOST,
    TIMED,
    Cost,
    Counted,
    Fixed,
    Measured,
    Tally,
    best_length,
    expected_speed_up,
    expected_tokens,
    lengths_for,
)

law = settings(max_examples=50, deadline=None, derandomize=True)
costs = st.builds(Cost, st.floats(0, 2), st.floats(0, 2))


@law
@given(st.floats(0, 1), st.integers(0, MOST))
def test_expected_tokens_are_a_sum_of_powers(a, k):
    assert expected_tokens(a, k) == pytest.approx(sum(a**i for i in range(k + 1)), rel=1e-6)


def test_the_speed_up_that_the_paper_predicts():
    """Leviathan et al. 2023, theorem 3.8, by hand: (1 - 0.8^6) / (0.2 (0.05 x 5 + 1))."""
    assert expected_speed_up(0.8, 5, Cost(0.05)) == pytest.approx(0.737856 / 0.25)
    assert expected_speed_up(1.0, 3, Cost(0.0)) == 4 and expected_speed_up(0.0, 3, Cost(0.5)) == 0.4
    assert expected_speed_up(1.0, 3, Cost(0.25, 0.25)) == 2 and expected_speed_up(0.3, 0, Cost(0.5, 0.5)) == 1


@law
@given(st.integers(0, 60), st.integers(0, 60), costs)
def test_drafts_grow_with_acceptance_and_shrink_with_cost(accepted, rejected, cost):
    def k(accepted, cost):
        n = accepted + rejected
        return best_length(Tally(n_tested=n, n_accepted=accepted, n_drafted=n, n_calls=n, n_tokens=n), cost)

    assert 0 <= k(accepted, cost) <= MOST
    assert k(accepted, cost) <= k(accepted + 1, cost) + 1, "one more may be a trial"
    assert k(accepted, cost) + 1 >= k(accepted, Cost(cost.token + 0.1, cost.call))


def written(rule, a, cost, n, chance):
    """Simulate a text of n tokens with acceptance probability a: its tally and its speed-up over plain decoding."""
    tally, time = Tally(), 0.0
    while tally.n_tokens < n:
        k = rule.choose(tally)
        accepted = next((i for i in range(k) if chance.random() >= a), k)
        tally.add_call(k, accepted)
        tally.n_tokens += accepted + 1
        calls = 1 + (cost.call + cost.token * k if k else 0)
        rule.told(k, 0.013 * calls * (1 + 0.1 * chance.random()))
        time += calls
    return tally, tally.n_tokens / time


RULES = {"counted": Counted, "measured": lambda cost: Measured(Cost(0.1))}


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.floats(0, 1), st.floats(0, 2), st.floats(0, 0.5), st.integers(0, 2**31))
def test_drafting_costs_little_where_it_does_not_pay_and_gains_where_it_does(rule, a, token, call, seed):
    """With the true cost given, or measured by a clock with errors of up to a tenth."""
    cost = Cost(token, call)
    tally, speed_up = written(rule(cost), a, cost, 1000, random.Random(seed))
    best = max(expected_speed_up(a, k, cost) for k in range(MOST + 1))
    assert speed_up > 0.9
    assert speed_up > 0.7 * best or best < 1.5
    if expected_speed_up(1.0, MOST, cost) < 0.8:
        assert tally.n_drafted <= sum(TIMED), "not even a perfect draft pays"


@law
@given(costs)
def test_a_clock_that_does_not_err_tells_the_costs_exactly(cost):
    rule = Measured(Cost(9.0))
    for _ in TIMED:
        k = rule.choose(Tally())
        rule.told(k, 7.0 * (1 + (cost.call + cost.token * k if k else 0)))
    assert rule.cost() == pytest.approx(cost, abs=1e-9)


def test_a_clock_starts_anew_for_fewer_rows():
    rule = Measured(Cost(0.3))
    written(rule, 1.0, Cost(0.1, 0.1), 90, random.Random(0))
    assert rule.choose(Tally()) > 0 and rule.cost() != Cost(0.3)
    rule.restart()
    assert rule.choose(Tally()) == 0 and rule.cost() == Cost(0.3)


def test_only_greedy_text_is_judged_by_a_clock_and_a_number_that_was_asked_for_is_kept():
    assert lengths_for(3, 0.5, True) == lengths_for(3, 0.5, False) == Fixed(3)
    assert lengths_for(0, 0.5, False) == Counted(Cost(0.5, CHECK)) and isinstance(lengths_for(0, 0.5, True), Measured)
    rule = lengths_for(0, 0.2, False)
    before = rule.choose(Tally())
    for k in (0, 1, 2, 0, 5):
        rule.told(k, 1e9 * k)
    rule.restart()
    assert rule.choose(Tally()) == before > 0
