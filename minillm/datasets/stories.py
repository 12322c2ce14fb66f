"""An endless book of short stories whose entropy is exactly known.

Each story is drawn from the grammar in `data/stories.txt`: a hero, a friend, a place, a plot, an outcome and the reason
for it. Names, pronouns, owners and counts stay consistent. Because the source is known, so is the best loss that any
model can reach: the entropy  H = E[-log p(story)].  A model's loss minus H is its regret, and regret 0 is a perfect
model. Because stories can be read back, a sample is right or wrong, and where it goes wrong is a fact, not an opinion.

    python -m minillm.datasets.stories        # a few stories and the numbers

Read before: `grammar`, which does the writing and the reading.
"""

import math
import os
import random
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from minillm.datasets.grammar import VALUES, Page, Reading, Tale
from minillm.datasets.grammar_file import GrammarFile
from minillm.system.folders import SHIPPED

STORIES = SHIPPED / "data" / "stories.txt"
DIARY = STORIES.with_name("diary.txt")  # the same, told by the hero
THE_END = "the end of the story"


class Verdict(NamedTuple):
    """Whether a text is a story. If not, `end` is the offset of the first character that no story continues with."""

    valid: bool
    end: int  # len(text) for a story, and for the beginning of one
    expected: str  # what could have stood at `end`; empty for a story


class World:
    """The stories of one grammar file.

    `n_stories` different stories exist (exactly), each of `min_words` to `max_words` words (guaranteed), with an entropy
    of `nats` per story (exact). `n_constraints` words of a story, on average, follow from earlier ones.
    """

    def __init__(self, path: str | os.PathLike = STORIES):
        self.grammar = GrammarFile(Path(path))
        top = self.top = self.grammar.top
        self.n_stories, self.nats, self.n_constraints = top.count, top.entropy, top.copies
        self.min_words, self.max_words = top.shortest + 1, top.longest + 1

    def tales(self, seed: int) -> Iterator[Tale]:
        """Stories without end, each with all that was chosen in it."""
        draw = random.Random(seed).random
        while True:
            tale = Tale(draw)
            self.top.write(tale)
            yield tale

    def generate(self, n_stories: int, seed: int) -> list[str]:
        """The same stories for the same seed, on every machine; those of a larger n begin with those of a smaller."""
        return ["".join(tale.out) for tale in islice(self.tales(seed), n_stories)]

    def derivations(self, story: str) -> list[Reading]:
        """All ways in which the grammar writes exactly this text: one if it is a story, else none."""
        return [reading for reading in self.read(Page(story)) if reading.end == len(story)]

    def read(self, page: Page) -> list[Reading]:
        return self.top.read(page, [Reading(0, 0.0, {})])

    def log_prob(self, story: str) -> float:
        """The log probability of this text (nats); -inf if it is no story. Raises ValueError for a text that is written in two ways."""
        readings = self.derivations(story)
        if len(readings) > 1:
            raise ValueError(
                f"story = {story[:40]!r}...: expected one way to write it, found {len(readings)}, so no probability is known; "
                f"change {self.grammar.name}."
            )
        return readings[0].logprob if readings else -math.inf

    def is_valid(self, text: str) -> bool:
        return bool(self.derivations(text))

    def check(self, text: str) -> Verdict:
        """Whether a text is a whole story, or where it stops being one."""
        page = Page(text)
        ends = [reading.end for reading in self.read(page)]
        if len(text) in ends:
            return Verdict(True, len(text), "")
        misses = [(start, form) for start, forms in page.misses for form in forms] + [(end, "") for end in ends]
        far = max(start + n_equal(form, text, start) for start, form in misses)
        # subtle: a form that the text has whole was no miss; what had to follow it is another miss
        offsets = [
            (form, far - start)
            for start, form in misses
            if far - start < len(form) and text.startswith(form[: far - start], start)
        ]
        expected = list(dict.fromkeys(word_at(form, offset) for form, offset in offsets if offset >= 0))
        return Verdict(False, far, one_of(expected + [THE_END] * (far in ends)))

    def facts(self, story: str) -> dict[str, str | int]:
        """Who, what, where, how many, why and how it ended, by the names of the grammar.

        Always: hero, hero_is (girl or boy), friend, friend_is, place, plot, outcome, why. Often: thing, color, food, animal,
        spot, and the numbers n, k, and left (n - k) or total (n + k). ValueError if the text is no story.
        """
        derivations = self.derivations(story)
        if not derivations:
            verdict = self.check(story)
            raise ValueError(
                f"story = {story[:40]!r}...: expected a story of this world, but at offset {verdict.end} only "
                f"{verdict.expected} may stand; pass a whole story."
            )
        state = derivations[0].state
        facts = {name: VALUES.get(entry[0], entry[0]) for name, entry in state.items()}
        for name, words in self.grammar.remembered.items():
            if name in state and words and "child" in words.fields:
                facts[f"{name}_is"] = state[name][words.fields.index("child")]
        return facts

    def entropy(self, n_stories: int, seed: int) -> tuple[float, float]:
        """Nats per story as the mean of -log p over a sample, and its standard error. `nats` is the exact value."""
        costs = [-tale.logprob for tale in islice(self.tales(seed), n_stories)]
        mean = math.fsum(costs) / n_stories
        variance = math.fsum((cost - mean) ** 2 for cost in costs) / max(n_stories - 1, 1)
        return mean, math.sqrt(variance / n_stories)


def n_equal(form: str, text: str, start: int) -> int:
    """How many characters of `form` the text has from `start` on."""
    if text.startswith(form, start):
        return len(form)
    return next(i for i, char in enumerate(form) if not text.startswith(char, start + i))


def word_at(form: str, offset: int) -> str:
    """The word of `form` that the character at `offset` belongs to, in quotes."""
    start = offset if form[offset] == " " else form.rfind(" ", 0, offset) + 1
    end = form.find(" ", offset + 1)
    return repr(form[start : end if end > 0 else None].strip() or " ")


def one_of(words: list[str], n_shown: int = 6) -> str:
    shown = " or ".join(words[:n_shown])
    return shown if len(words) <= n_shown else f"{shown} or {len(words) - n_shown} others"


def main() -> None:
    world = World()
    start = time.perf_counter()
    stories = world.generate(5000, seed=0)
    writing = time.perf_counter() - start
    start = time.perf_counter()
    assert all(map(world.is_valid, stories[:500]))
    reading = time.perf_counter() - start
    print("\n\n".join(stories[:5]), "\n")
    lengths = [len(story.split()) for story in stories]
    n_words, n_bytes = sum(lengths) / len(stories), sum(map(len, stories)) / len(stories)
    distinct = {word.strip('.,!?":;').removesuffix("'s").lower() for story in stories for word in story.split()}
    mean, error = world.entropy(5000, seed=1)
    print(f"stories           10^{math.log10(world.n_stories):.1f} different ones")
    print(
        f"words per story   {n_words:.1f}; seen {min(lengths)} to {max(lengths)}, possible {world.min_words} to {world.max_words}"
    )
    print(f"distinct words    {len(distinct)}")
    print(f"entropy           {world.nats:.2f} nats per story (sampled: {mean:.2f} +- {error:.2f})")
    print(f"                  {world.nats / n_words:.3f} nats per word, {world.nats / n_bytes:.4f} nats per byte")
    print(f"constraints       {world.n_constraints:.1f} words per story follow from earlier ones")
    print(
        f"speed             {n_bytes * len(stories) / writing / 1e6:.1f} MB/s written, {500 / reading:.0f} stories/s read"
    )


if __name__ == "__main__":
    main()
