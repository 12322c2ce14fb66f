"""A text is a whole story, the beginning of one, or none from a place on that is named; a corpus without a grammar is refused."""

import pytest

from minillm.checking import build_check
from minillm.datasets.corpus import WORLDS
from minillm.datasets.stories import World


@pytest.mark.parametrize("name", WORLDS)
def test_a_story_is_whole_a_cut_one_a_beginning_and_a_changed_one_none(name):
    check, stories = build_check(name), World(WORLDS[name]).generate(6, seed=5)
    for story in stories:
        assert check(story) == "check: a whole, consistent story"
        for end in (1, len(story) // 2, len(story) - 1):
            assert check(story[:end]).startswith("check: the beginning of a story, not a whole one: it could go on with ")
        middle = len(story) // 2
        changed = story[:middle] + "#" + story[middle + 1 :]
        said = check(changed)
        assert f"from character {middle} on: after {changed[middle - 30 : middle]!r} expected " in said
        assert said.endswith(f"found {changed[middle : middle + 30]!r}")


def test_one_corpus_is_not_checked_by_the_grammar_of_another():
    one, other = WORLDS
    assert "whole, consistent" not in build_check(one)(World(WORLDS[other]).generate(1, 0)[0])


@pytest.mark.parametrize("corpus", ["shakespeare", "my.txt", "stories,diary"])
def test_a_corpus_without_one_grammar_is_refused(corpus):
    with pytest.raises(ValueError, match=f"--check: expected a run of stories or diary, .* learned {corpus}; leave --check out"):
        build_check(corpus)
