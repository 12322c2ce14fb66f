"""Laws of the learning rate."""

import math
from itertools import pairwise

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from minillm.training.schedule import ScheduleConfig, rate

floors = st.floats(1e-6, 1)
kinds = st.sampled_from(["linear", "cosine", "inverse_sqrt"])


@st.composite
def curves(draw):
    """A schedule with warm-ups of none, some, all and more than all steps, and the rates of all its steps."""
    n = draw(st.integers(1, 60))
    warmup = draw(st.one_of(st.integers(0, n), st.sampled_from([0, n - 1, n, n + 7])))
    config = ScheduleConfig(draw(kinds), warmup, draw(st.one_of(st.sampled_from([0.0, 1.0]), st.floats(0, 1))))
    floor = draw(st.one_of(st.just(1.0), floors))
    return config, floor, [rate(config, step, n, floor) for step in range(n)]


@given(curves())
def test_every_rate_is_above_zero_and_at_most_the_peak(curve):
    config, floor, rates = curve
    assert all(0 < r <= 1 for r in rates)
    assert all(r >= floor for r in rates[min(config.warmup_steps, len(rates) - 1) :])


@given(curves())
def test_rates_rise_in_warm_up_and_fall_after_it(curve):
    config, _, rates = curve
    top = min(config.warmup_steps, len(rates) - 1)
    start = max(top - 1, 0) if config.warmup_steps < len(rates) else top  # includes the peak, if it is reached
    falling = rates[start:]
    assert rates[:top] == sorted(rates[:top])
    assert falling == sorted(falling, reverse=True)


@given(curves())
def test_warm_up_is_a_straight_line_to_the_peak_whatever_the_floor_is(curve):
    config, _, rates = curve
    w, n = config.warmup_steps, len(rates)
    assert rates[: min(w, n - 1)] == [(step + 1) / w for step in range(min(w, n - 1))]


@given(curves(), st.integers(0, 9))
def test_the_last_step_and_all_after_it_run_at_the_floor(curve, later):
    config, floor, rates = curve
    assert rates[-1] == pytest.approx(floor)
    assert rate(config, len(rates) + later, len(rates), floor) == pytest.approx(floor)


@given(curves())
def test_the_curve_has_no_jump_where_it_begins_to_fall(curve):
    config, floor, rates = curve
    n, warmup = len(rates), min(config.warmup_steps, len(rates) - 1)
    if config.kind == "inverse_sqrt":  # its steepest drop is its first
        first = max(warmup, 1)
        largest = (1 - floor) * (1 - (first / (first + 1)) ** 0.5) / (1 - (first / n) ** 0.5) if n > first else 0
        assert all(a - b <= largest + 1e-12 for a, b in pairwise(rates[max(warmup - 1, 0) :]))
        return
    falling = n - warmup if config.kind == "cosine" else min(round(config.decay_fraction * n), n - warmup)
    assume(falling)
    largest = (1 - floor) * (math.pi / 2 if config.kind == "cosine" else 1) / falling
    drops = [a - b for a, b in pairwise(rates[max(warmup - 1, 0) :])]
    assert all(drop <= largest + 1e-12 for drop in drops)


def test_a_cosine_schedule_is_half_a_cosine():
    config = ScheduleConfig("cosine", warmup_steps=2)
    rates = [rate(config, step, 10, 0.1) for step in range(10)]
    assert rates == pytest.approx([0.5, *(0.1 + 0.9 * (1 + math.cos(math.pi * n / 8)) / 2 for n in range(9))])


@pytest.mark.parametrize("warmup", [1, 4, 40])
def test_an_inverse_square_root_schedule_is_the_papers_moved_and_stretched_to_end_at_the_floor(warmup):
    n, floor, config = 100, 0.2, ScheduleConfig("inverse_sqrt", warmup)
    paper = [min(step**-0.5, step * warmup**-1.5) for step in range(1, n + 1)]  # Vaswani et al. 2017, without D^-0.5
    rates = [rate(config, step, n, floor) for step in range(n)]
    assert rates[: warmup - 1] == pytest.approx([p * warmup**0.5 for p in paper[: warmup - 1]])
    falls = [[a - b for a, b in pairwise(curve[warmup - 1 :])] for curve in (rates, paper)]
    slopes = [mine / theirs for mine, theirs in zip(*falls, strict=True)]
    assert slopes == pytest.approx([slopes[0]] * (n - warmup))
    assert (rates[warmup - 1], rates[-1]) == (1, pytest.approx(floor))


def test_a_linear_schedule_is_flat_and_then_a_straight_line():
    config = ScheduleConfig("linear", warmup_steps=2, decay_fraction=0.5)
    rates = [rate(config, step, 10, 0.1) for step in range(10)]
    assert rates == pytest.approx([0.5, 1, 1, 1, 1, 0.82, 0.64, 0.46, 0.28, 0.1])
