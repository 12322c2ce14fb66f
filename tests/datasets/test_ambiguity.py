"""Exactly the ambiguous grammars are refused; an accepted one has as many texts as it says."""

import math
import tempfile
from collections import Counter
from contextlib import suppress
from pathlib import Path
from unittest import mock

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from minillm.datasets import ambiguity, grammar_file
from minillm.datasets.grammar import Rule, Tale
from minillm.datasets.stories import STORIES, World


def world_of(text: str, checked: bool = True) -> World:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "small.txt")
        path.write_text(text)
        if checked:
            return World(path)
        with mock.patch.object(grammar_file, "find_ambiguity", lambda top: None):
            return World(path)


class Odometer:
    """Replaces the random numbers, so that all sequences of choices are tried one after another."""

    def __init__(self):
        self.choices, self.sizes, self.at = [], [], 0

    def __call__(self) -> "Odometer":
        return self

    def __mul__(self, n: int) -> int:
        if self.at == len(self.choices):
            self.choices.append(0)
            self.sizes.append(n)
        self.at += 1
        return self.choices[self.at - 1]

    def turn(self) -> bool:
        """Advance to the next sequence; False after the last."""
        while self.choices and self.choices[-1] == self.sizes[-1] - 1:
            del self.choices[-1], self.sizes[-1]
        if self.choices:
            self.choices[-1] += 1
        self.at = 0
        return bool(self.choices)


def every_way(top: Rule) -> list[tuple[str, float]]:
    """All texts with the probability of each way to write them, by trying all choices."""
    odometer, ways = Odometer(), []
    while True:
        tale = Tale(odometer)
        top.write(tale)
        ways.append(("".join(tale.out), math.exp(tale.logprob)))
        if not odometer.turn():
            return ways


words = st.lists(st.sampled_from(["x", "y", "xx", "xy", "yx", "x x"]), min_size=1, max_size=3, unique=True).map(
    ", ".join
)
drawn = ["{c}", "{d}", "{n:c}", "{m:d}", "{m:d.he}", "{k:1..2}", "{j:0..1}", "{:1..2}", "{r}", "{q:r}"]
parts = st.sampled_from(["x", "y", " ", *drawn, "{n}", "{m}", "{m.he}", "{k}", "{t:k+j}", "{t}", "{k-j}", "{p=1}"])
alternatives = st.lists(st.lists(parts, min_size=1, max_size=5).map("".join), min_size=1, max_size=3)


@st.composite
def grammars(draw) -> str:
    story, rule = draw(alternatives), draw(alternatives)
    heroes = draw(
        st.lists(
            st.tuples(st.sampled_from("xyz"), st.sampled_from("xyz")), min_size=1, max_size=3, unique_by=lambda e: e[0]
        )
    )
    lines = ["words c", f"  {draw(words)}", "words d: name | he", *(f"  {a} | {b}" for a, b in heroes)]
    lines += ["rule r", *(f"  - {line.replace('{r}', 'x').replace('{q:r}', 'y')}" for line in rule)]
    return "\n".join([*lines, "rule story", *(f"  - {line}" for line in story), "  - {r}!"])


@settings(max_examples=100)
@given(grammars())
def test_a_grammar_is_refused_exactly_if_two_ways_lead_to_one_text(text):
    world = None
    with suppress(ValueError):
        world = world_of(text, checked=False)
    assume(world is not None and world.n_stories < 3000)
    ways = every_way(world.top)
    texts = Counter(written for written, _ in ways)
    if max(texts.values()) > 1:
        with pytest.raises(ValueError, match=r"small\.txt: text = '.*' .*: expected one way to write it, found two"):
            world_of(text)
    else:
        assert world_of(text).n_stories == len(texts)
        assert world.nats == pytest.approx(-math.fsum(p * math.log(p) for _, p in ways))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("words c\n  x, xx\nrule story\n  - {c}{c}", "xxx"),
        ("rule story\n  - {p=a} hi\n  - {p=b} hi", "hi"),
        ("words h: name | he\n  Ann, Eve | she\nrule story\n  - {:h.he} ran", "she"),
        ("words c\n  x, y\nrule story\n  - {n:c}{c} {n}\n  - {c}{n:c} {n}", r"'\.\.\.\.\.\. [xy]'"),
    ],
)
def test_what_is_written_in_two_ways_is_shown(text, found):
    with pytest.raises(ValueError, match=found):
        world_of(text)


def test_a_large_grammar_is_tried_by_reading_texts_back(monkeypatch):
    text = STORIES.read_text().replace("rule luck\n", "rule luck\n  - It ended well because\n")
    monkeypatch.setattr(ambiguity, "MAX_PAIRS", 10)
    with pytest.raises(ValueError, match="expected one way to write it, found two"):
        world_of(text)
    monkeypatch.setattr(ambiguity, "N_SAMPLES", 0)
    world_of(text)
