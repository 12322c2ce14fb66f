"""Unfamiliar texts are distinguished from texts like the training text; the usual level comes from held-out text."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minillm.console.reading import build_novelty
from minillm.datasets.corpus import DataConfig
from minillm.datasets.masking import MASK
from minillm.datasets.stories import World
from minillm.evaluation.novelty import N_SHOWN, USUAL, Novelty, most_usual, pairs, words
from minillm.runs.config import RunConfig
from minillm.text.cloze import EXAMPLE


@pytest.fixture(scope="module")
def novelty():
    return build_novelty(RunConfig(data=DataConfig(n_stories=1000)))


def passages(n: int) -> list[str]:
    """A few sentences of stories that are not in the training text."""
    stories = [story.split(". ") for story in World().generate(n, seed=123)]
    return [". ".join(story[2:4]) + "." for story in stories]


def test_passages_of_new_stories_are_not_novel_and_the_same_words_in_another_order_are(novelty):
    found = passages(200)
    assert sum(bool(novelty.remark(text)) for text in found) <= 0.05 * len(found)
    draw = random.Random(0)
    shuffled = [" ".join(draw.sample(text.split(), len(text.split()))) for text in found]
    assert sum(bool(novelty.remark(text)) for text in shuffled) > 0.95 * len(found)


def test_texts_of_another_world_are_novel_for_their_words_or_else_for_their_pairs(novelty):
    assert '1 of its 5 words never occur there ("mat")' in novelty.remark(f"The {MASK} sat on the mat")
    assert "pairs of neighboring words never occur there" in novelty.remark("Everything went well and he was happy.")
    assert novelty.remark(EXAMPLE) == ""


@given(st.lists(st.booleans(), max_size=40), st.integers(1, 12))
def test_what_is_usual_holds_for_99_of_100_passages_and_is_the_least_that_does(new, n):
    found = [sum(new[i : i + n]) for i in range(len(new) - n + 1)]
    most = most_usual(new, n)
    if found:
        assert sum(count <= most for count in found) >= USUAL * len(found)
        assert most == 0 or sum(count <= most - 1 for count in found) < USUAL * len(found)
    else:
        assert most >= n * sum(new) / max(len(new), 1) > most - 1


def test_a_blank_is_no_word_and_has_no_neighbors():
    novelty = Novelty(["a b c d e"], ["a b c d e"])
    assert novelty.remark(f"a b {MASK} d e") == "" == novelty.remark(f"b {MASK} e") == novelty.remark(MASK)
    assert "pairs" in novelty.remark("b e") and "words" in novelty.remark(f"x {MASK}")


def test_held_out_text_decides_how_much_is_usual_and_some_of_what_is_new_is_named():
    train, rare = ["a b c d"], ["a x b y c z d w"]
    assert "2 of its 4 words" in Novelty(train, ["a b c d"]).remark("a x b y")
    assert "words" not in Novelty(train, rare).remark("a x b y")
    remark = Novelty(train, train).remark("h i j k l m n")
    assert remark.count('"') == 2 * N_SHOWN and ", ...)" in remark


def test_words_keep_their_apostrophes_and_marks_stand_alone():
    assert words("Anna's cat, they said!") == ["Anna's", "cat", ",", "they", "said", "!"]
    assert pairs("a b. c") == [("a", "b"), ("b", "."), (".", "c")]
