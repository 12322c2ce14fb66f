"""The ledger of claims: verdicts follow from the spread, and every claim has a lesson and a figure."""

import json
from itertools import product
from pathlib import Path

import pytest

from benchmarks.claims import CLAIMS, Claim, Figure, table
from benchmarks.readme import ROWS
from minillm.lessons.__main__ import ORDER

FIGURES = json.loads((Path(__file__).parents[1] / "benchmarks" / "figures.json").read_text(encoding="utf-8"))


def spread(low: float, high: float) -> dict:
    return {"machine": "an abacus", "figures": {"x": {"low": low, "high": high, "mean": (low + high) / 2, "n": 2}}}


def about(comparison: str, limit: float | Figure) -> Claim:
    return Claim("gpt", "x is large", "nobody", "mine", "x", comparison, limit)


@pytest.mark.parametrize("comparison", [">=", "<="])
def test_a_claim_holds_where_every_pair_of_values_does(comparison):
    """By enumeration of the ends of both spreads."""
    values = [1.0, 2.0, 3.0]
    ranges = [(a, b) for a, b in product(values, values) if a <= b]
    for (low, high), (least, most) in product(ranges, ranges):
        figures = {"mine": spread(low, high), "other": spread(least / 2, most / 2)}
        found = about(comparison, Figure("other", "x", 2.0)).verdict(figures)
        holds = [x >= y if comparison == ">=" else x <= y for x in (low, high) for y in (least, most)]
        assert found == ("held" if all(holds) else "needs scale" if any(holds) else "did not hold")
        if least == most:
            assert found == about(comparison, least).verdict(figures)


def test_every_claim_is_of_a_lesson_and_a_measured_figure():
    shown = {(name, figure) for name, rows in ROWS.items() for _, figure, _ in rows}
    for claim in CLAIMS:
        assert claim.lesson in ORDER and claim.name in ROWS
        limit = [claim.limit[:2]] if isinstance(claim.limit, Figure) else []
        awaited = (
            claim.name not in FIGURES and {(claim.name, claim.figure), *limit} <= shown
        )  # told once it is recorded
        assert claim.is_measured(FIGURES) or awaited, f"{claim.sentence}: {claim.name}, {claim.figure} has no figure"


def test_what_is_not_measured_is_left_out():
    claim = CLAIMS[0]
    without = {name: x for name, x in FIGURES.items() if name != claim.name}
    assert not claim.is_measured(without) and claim.sentence not in table(without) and claim.sentence in table(FIGURES)
