"""Words of the stories' world, for worlds that ask about the same people and things. Read before: `grammar_file`."""

from functools import cache
from typing import NamedTuple

from minillm.datasets.grammar_file import GrammarFile
from minillm.datasets.stories import STORIES


class Person(NamedTuple):
    """A person of the stories."""

    name: str
    he: str
    him: str
    his: str


@cache
def story_words(name: str) -> tuple[str, ...]:
    """The words of a class of `data/stories.txt`, such as "food"."""
    return tuple(entry[0] for entry in _classes()[name])


@cache
def people() -> tuple[Person, ...]:
    """Everybody in the stories, heroes and friends."""
    return tuple(Person(*entry[:4]) for name in ("hero", "friend") for entry in _classes()[name])


@cache
def _classes() -> dict[str, list[list[str]]]:
    return {name: words.entries for name, words in GrammarFile(STORIES).words.items()}
