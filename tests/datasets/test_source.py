"""The source's own loss is that of the stories kept: no model beats it, and the best model reaches it."""

import math
import tempfile
from functools import cache
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from minillm.datasets.cleaning import CleaningConfig, clean
from minillm.datasets.source import find_source
from minillm.datasets.stories import World

GRAMMAR = """
words hero
  Ann, Mia, Rosalind, Tom, Bartholomew
words thing
  kite, drum, wheelbarrow, egg, boat, trampoline, cup
words mood
  sad, glad, unhappy, merry, unbelievably proud
rule story
  - {hero} has {a thing}. {hero} is {mood}.
  - {thing}! {thing}? {mood}.
"""


@cache
def small_world() -> World:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "small.txt")
        path.write_text(GRAMMAR)
        return World(path)


@pytest.fixture
def world() -> World:
    return small_world()


@cache
def probabilities() -> dict[str, float]:
    """Every story and its probability, from enough draws to see all."""
    stories = set(small_world().generate(40_000, seed=9))
    assert len(stories) == small_world().n_stories
    return {story: math.exp(small_world().log_prob(story)) for story in stories}


def singly(**changes) -> CleaningConfig:
    return CleaningConfig(**{"min_chars": 0, "max_symbols": 1.0, "duplicates": False, "near_duplicates": 0.0} | changes)


@settings(max_examples=25)
@given(st.integers(0, 30), st.integers(15, 70), st.floats(0.05, 1), st.integers(0, 2**32))
def test_the_source_of_what_was_kept_is_the_conditional_distribution(least, most, symbols, seed):
    world, config = small_world(), singly(min_chars=least, max_chars=most, max_symbols=symbols)
    written = world.generate(1000, seed)
    kept, report = clean(written, config)
    assume(len(kept) > 30)
    source, remark = find_source(world, written, kept, report)
    share = math.fsum(probabilities()[story] for story in clean(list(probabilities()), config)[0])  # by brute force
    true = -math.fsum(math.log(probabilities()[story] / share) for story in kept[:101])
    n = len(kept[:101])
    tolerance = 5 * source.error + 0.01  # 0.01: ten of 1000 stories could be removed
    assert abs(source.nats(kept[:101]) - true) <= n * tolerance
    assert (source.error == 0) == (remark == "") == (len(kept) == 1000)
    assert source.error == pytest.approx(math.sqrt(max(0, 1 - share) / share / 1000), rel=0.5, abs=0.01)


def test_without_cleaning_the_source_is_the_world(world):
    written = world.generate(50, seed=1)
    source, remark = find_source(world, written, written, None)
    assert source.nats(written) == pytest.approx(-math.fsum(map(world.log_prob, written))) and (
        source.error,
        remark,
    ) == (0, "")
    assert find_source(None, written, written, None) == (None, "")


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (singly(duplicates=True), "cleaning removed stories that resemble others"),
        (singly(near_duplicates=0.5, n_words=1), "cleaning removed stories that resemble others"),
        (singly(max_chars=35, near_duplicates=0.5), "cleaning removed stories that resemble others"),
    ],
)
def test_nothing_is_claimed_where_stories_were_compared(world, config, reason):
    written = world.generate(400, seed=1)
    source, remark = find_source(world, written, *clean(written, config))
    assert source is None and reason in remark and "no leak is detected" in remark


def test_rules_that_compare_and_remove_nothing_change_nothing(world):
    written = list(dict.fromkeys(world.generate(400, seed=1)))
    kept, report = clean(written, singly(duplicates=True))
    assert find_source(world, written, kept, report)[0].nats(kept) == find_source(world, written, written, None)[
        0
    ].nats(written)


def test_nothing_is_claimed_of_a_story_that_is_cut_or_rewritten(world):
    [story] = written = world.generate(1, seed=1)
    source, remark = find_source(world, written, written, None)
    assert source is None and "the only story is cut in two" in remark
    written = [f"{story} ", *world.generate(3, seed=2)]
    source, remark = find_source(world, written, *clean(written, singly()))
    assert source is None and f"cleaning changed stories ({story[:40]!r}" in remark


@pytest.mark.parametrize(
    ("config", "story"),
    [
        (singly(mask_phones=True), "Ann has a kite. Ann is sad.\n555-123-4567"),
        (singly(mask_emails=True), "ann@example.com has a kite."),
        (singly(mask_ips=True), "10.0.0.1"),
        (singly(line_copies=1, line_words=1), "Ann has a kite. Ann is sad.\nAnn has a kite. Ann is sad."),
    ],
)
def test_nothing_is_claimed_where_a_rule_changes_texts(world, config, story):
    written = [story, *world.generate(30, seed=2), "Ann has a kite. Ann is sad."]
    assert find_source(world, written, written, None)[0] is not None
    source, remark = find_source(world, written, *clean(written, config))
    assert source is None and "cleaning changed stories (" in remark and "no leak is detected" in remark


def test_a_story_that_is_changed_into_another_one_is_noticed(world):
    """The kept stories alone do not show it."""
    written = ["Ann has a kite. Ann is sad.", "Ann has a kite. Ann is sad. ", *world.generate(3, seed=2)]
    kept, report = clean(written, singly())
    assert set(kept) <= set(written)
    source, remark = find_source(world, written, kept, report)
    assert source is None and "cleaning changed stories" in remark


def test_rules_for_single_documents_select_stories(world):
    written = world.generate(400, seed=1)
    kept, report = clean(written, singly(min_words=8))
    assert 0 < len(kept) < 400
    source, _ = find_source(world, written, kept, report)
    assert source.log_share == math.log(len(kept) / 400)
