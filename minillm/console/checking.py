"""Story check: whether a text is a whole, consistent story of the world that a run has learned, or where it stops being one.

Names, pronouns, owners, counts and reasons must agree from the first word to the last; a parser of the grammar decides,
so the verdict is a fact and no opinion. Read `datasets/stories.py` before.
"""

from collections.abc import Callable

from minillm.datasets.corpus import WORLDS
from minillm.datasets.stories import Verdict, World

N_BEFORE = 30  # characters that are shown before the place where a text stops being a story


def build_check(corpus: str) -> Callable[[str], str]:
    """Text -> a sentence on whether it is a story of that corpus. Raises ValueError for a corpus without a grammar."""
    if corpus not in WORLDS:
        raise ValueError(
            f"--check: expected a run of {' or '.join(WORLDS)}, whose grammar is known, and this one learned {corpus}; leave --check out"
        )
    world = World(WORLDS[corpus])
    return lambda text: describe(text, world.check(text))


def describe(text: str, verdict: Verdict) -> str:
    """A verdict as a sentence."""
    if verdict.valid:
        return "check: a whole, consistent story"
    if verdict.end == len(text):
        return f"check: the beginning of a story, not a whole one: it could go on with {verdict.expected}"
    before, found = text[max(0, verdict.end - N_BEFORE) : verdict.end], text[verdict.end : verdict.end + N_BEFORE]
    return f"check: no story of this world from character {verdict.end} on: after {before!r} expected {verdict.expected}, found {found!r}"
