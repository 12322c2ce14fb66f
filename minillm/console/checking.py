"""Story check: whether a text is a whole, consistent story of the grammar that a run was trained on, and if not, where.

Names, pronouns, owners, counts and reasons must agree from the first word to the last. A parser of the grammar decides,
so the verdict is exact. Read before: `datasets/stories.py`.
"""

from collections.abc import Callable

from minillm.datasets.corpus import WORLDS
from minillm.datasets.stories import Verdict, World

N_BEFORE = 30  # characters shown before the first error


def build_check(corpus: str) -> Callable[[str], str]:
    """A function text -> verdict, for the stories of that corpus. Raises ValueError for a corpus without a grammar."""
    if corpus not in WORLDS:
        raise ValueError(
            f"--check: expected a run of {' or '.join(WORLDS)}, which have a grammar, and this one learned {corpus}; "
            "leave --check out"
        )
    world = World(WORLDS[corpus])
    return lambda text: describe(text, world.check(text))


def describe(text: str, verdict: Verdict) -> str:
    """The verdict as a sentence."""
    if verdict.valid:
        return "check: a whole, consistent story"
    if verdict.end == len(text):
        return f"check: the beginning of a story, not a whole one: it could continue with {verdict.expected}"
    before, found = text[max(0, verdict.end - N_BEFORE) : verdict.end], text[verdict.end : verdict.end + N_BEFORE]
    return (
        f"check: not a story from character {verdict.end} on: after {before!r} expected {verdict.expected}, "
        f"found {found!r}"
    )
