"""Generated short stories whose entropy is exactly known.

Each story is drawn from the grammar in `data/stories.txt`: a hero, a friend, a place, a plot, an outcome and the reason
for it. Names, pronouns, owners and counts stay consistent. Because the source is known, so is the least loss that any
model can reach: the entropy  H = E[-log p(story)]  (Shannon 1948). A model's loss minus H is its regret; a perfect
model has regret 0. Stories can be parsed, so whether a sample is valid, and where it goes wrong, is certain.

    python -m minillm.datasets.stories        # a few stories and the numbers

Read before: `grammar`, which generates and parses.
"""

import math
import os
import random
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from minillm.datasets.grammar import Parse, Reading, Tale
from minillm.datasets.grammar_file import GrammarFile
from minillm.datasets.grammar_words import VALUES
from minillm.system.folders import SHIPPED

STORIES = SHIPPED / "data" / "stories.txt"
DIARY = STORIES.with_name("diary.txt")  # the same stories in the first person
THE_END = "the end of the story"


class Verdict(NamedTuple):
    """Whether a text is a story. If not, `end` is the offset of the first character that no story continues with."""

    valid: bool
    end: int  # len(text) for a story, and for the beginning of one
    expected: str  # the words that stories have at `end`; empty for a story


class World:
    """The stories of one grammar file.

    `n_stories` is the exact number of different stories, each of `min_words` to `max_words` words. `nats` is the exact
    entropy of a story. `n_constraints` is the mean number of words in a story that earlier words determine.
    """

    def __init__(self, path: str | os.PathLike = STORIES):
        self.grammar = GrammarFile(Path(path))
        top = self.top = self.grammar.top
        self.n_stories, self.nats, self.n_constraints = top.count, top.entropy, top.copies
        self.min_words, self.max_words = top.shortest + 1, top.longest + 1

    def tales(self, seed: int) -> Iterator[Tale]:
        """Generate stories without end, each with its memory and its log probability."""
        draw = random.Random(seed).random
        while True:
            tale = Tale(draw)
            self.top.write(tale)
            yield tale

    def generate(self, n_stories: int, seed: int) -> list[str]:
        """Generate stories, the same for the same seed on every machine; more stories begin with the same ones."""
        return ["".join(tale.out) for tale in islice(self.tales(seed), n_stories)]

    def derivations(self, story: str) -> list[Reading]:
        """All derivations of exactly this text: one if it is a story, else none."""
        return [reading for reading in self.read(Parse(story)) if reading.end == len(story)]

    def read(self, parse: Parse) -> list[Reading]:
        """All partial parses that end at some offset of the text with a whole story."""
        return self.top.read(parse, [Reading(0, 0.0, {})])

    def log_prob(self, story: str) -> float:
        """Log probability of a text (nats); -inf if it is not a story. Raises ValueError for two derivations."""
        readings = self.derivations(story)
        if len(readings) > 1:
            raise ValueError(
                f"story = {story[:40]!r}...: expected one way to write it, found {len(readings)}, so its probability "
                f"is unknown; change {self.grammar.name}."
            )
        return readings[0].logprob if readings else -math.inf

    def is_valid(self, text: str) -> bool:
        return bool(self.derivations(text))

    def check(self, text: str) -> Verdict:
        """Decide whether a text is a whole story; if not, find where it stops being one."""
        parse = Parse(text)
        ends = [reading.end for reading in self.read(parse)]
        if len(text) in ends:
            return Verdict(True, len(text), "")
        misses = [(start, form) for start, forms in parse.misses for form in forms] + [(end, "") for end in ends]
        end = max(start + n_matching(form, text, start) for start, form in misses)
        # subtle: a form that the text contains whole did not fail; the form after it did, and is another miss
        offsets = [
            (form, end - start)
            for start, form in misses
            if end - start < len(form) and text.startswith(form[: end - start], start)
        ]
        expected = list(dict.fromkeys(word_at(form, offset) for form, offset in offsets if offset >= 0))
        return Verdict(False, end, one_of(expected + [THE_END] * (end in ends)))

    def facts(self, story: str) -> dict[str, str | int]:
        """The facts of a story by their names in the grammar: who, what, where, how many, why, and how it ended.

        Always: hero, hero_is (girl or boy), friend, friend_is, place, plot, outcome, why. Often: thing, color, food,
        animal, spot, and the numbers n, k, and left (n - k) or total (n + k). Raises ValueError if the text is not a
        story.
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
        """Mean of -log p over sampled stories (nats), and its standard error. `nats` is the exact value."""
        costs = [-tale.logprob for tale in islice(self.tales(seed), n_stories)]
        mean = math.fsum(costs) / n_stories
        variance = math.fsum((cost - mean) ** 2 for cost in costs) / max(n_stories - 1, 1)
        return mean, math.sqrt(variance / n_stories)


def n_matching(form: str, text: str, start: int) -> int:
    """Number of leading characters of `form` that the text has at `start`.

    >>> n_matching("red ball", "a red box", 2)
    5
    """
    if text.startswith(form, start):
        return len(form)
    return next(i for i, char in enumerate(form) if not text.startswith(char, start + i))


def word_at(form: str, offset: int) -> str:
    """The word of `form` at the character `offset`, in quotes."""
    start = offset if form[offset] == " " else form.rfind(" ", 0, offset) + 1
    end = form.find(" ", offset + 1)
    return repr(form[start : end if end > 0 else None].strip() or " ")


def one_of(words: list[str], n_shown: int = 6) -> str:
    """Join alternatives by "or", at most `n_shown` of them.

    >>> one_of(["a", "b", "c", "d"], n_shown=2)
    'a or b or 2 others'
    """
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
    seen, possible = f"{min(lengths)} to {max(lengths)}", f"{world.min_words} to {world.max_words}"
    print(f"words per story   {n_words:.1f}; seen {seen}, possible {possible}")
    print(f"distinct words    {len(distinct)}")
    print(f"entropy           {world.nats:.2f} nats per story (sampled: {mean:.2f} +- {error:.2f})")
    print(f"                  {world.nats / n_words:.3f} nats per word, {world.nats / n_bytes:.4f} nats per byte")
    print(f"constraints       {world.n_constraints:.1f} words per story follow from earlier ones")
    megabytes = n_bytes * len(stories) / 1e6
    print(f"speed             {megabytes / writing:.1f} MB/s generated, {500 / reading:.0f} stories/s parsed")


if __name__ == "__main__":
    main()
