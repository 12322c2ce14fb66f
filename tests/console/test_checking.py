"""The verdict on a story: whole, a beginning, or invalid from a given character on."""

import pytest

from minillm.console.checking import build_check
from minillm.datasets.corpus import DataConfig, load_corpus


@pytest.fixture(scope="module")
def check():
    return build_check("stories")


@pytest.mark.parametrize("i", range(3))
def test_each_verdict_is_about_the_last_character_too(check, i):
    story = load_corpus(DataConfig(corpus="stories", n_stories=3)).documents[i]
    assert check(story) == "check: a whole, consistent story"
    for n in (0, 1, len(story) // 2, len(story) - 1):
        assert check(story[:n]).startswith("check: the beginning of a story")
        assert check(story[:n] + "#").startswith(f"check: not a story from character {n} on: ")
