"""An endless book of short stories whose entropy is exactly known.

Each story is drawn from the grammar in `data/stories.txt`: a hero, a friend, a place, a plot, an outcome and the reason
for it. Names, pronouns, owners and counts stay consistent. Because the source is known, so is the best loss that any
model can reach: the entropy  H = E[-log p(story)].  A model's loss minus H is its regret, and regret 0 is a perfect
model. Because stories can be read back, a sample is right or wrong, and where it goes wrong is a fact, not an opinion.

    python -m minillm.datasets.stories        # a few stories and the numbers

Read before: `grammar.py`, which does the writing and the reading.
"""

import math
import os
import random
import time
from pathlib import Path
from typing import NamedTuple

from minillm.datasets.grammar import VALUES, Grammar, Page, Reading, Tale

STORIES = Path(__file__).resolve().parents[2] / "data" / "stories.txt"
THE_END = "the end of the story"


class Verdict(NamedTuple):
    """Whether a text is a story. If not, `end` is the offset of the first character that no story continues with."""

    valid: bool
    end: int  # len(text) for a story, and for the beginning of one
    expected: str  # what could have stood at `end`; empty for a story


class World:
    """The stories of one grammar file.

    `n_stories` different stories exist (exactly), each of `min_words` to `max_words` words (guaranteed), with an
    entropy of `nats` per story (exact), of which `n_constraints` words (on average) follow from earlier ones.
    """

    def __init__(self, path: str | os.PathLike = STORIES):
        self.grammar = Grammar(Path(path))
        top = self.top = self.grammar.top
        self.n_stories, self.nats, self.n_constraints = top.count, top.entropy, top.copies
        self.min_words, self.max_words = top.shortest + 1, top.longest + 1

    def tell(self, n_stories: int, seed: int) -> list[Tale]:
        """Stories with all that was chosen in them; those of a larger n begin with those of a smaller."""
        draw = random.Random(seed).random
        tales = []
        for _ in range(n_stories):
            tale = Tale(draw)
            self.top.write(tale)
            tales.append(tale)
        return tales

    def generate(self, n_stories: int, seed: int) -> list[str]:
        """The same stories for the same seed, on every machine; those of a larger n begin with those of a smaller."""
        return ["".join(tale.out) for tale in self.tell(n_stories, seed)]

    def derivations(self, story: str) -> list[Reading]:
        """All ways in which the grammar writes exactly this text: one if it is a story, else none."""
        return [reading for reading in self.read(Page(story)) if reading.end == len(story)]

    def read(self, page: Page) -> list[Reading]:
        return self.top.read(page, [Reading(0, 0.0, {})])

    def log_prob(self, story: str) -> float:
        """The log probability of this text (nats); -inf if it is no story."""
        logprobs = [reading.logprob for reading in self.derivations(story)]
        if not logprobs:
            return -math.inf
        best = max(logprobs)
        return best + math.log(sum(math.exp(logprob - best) for logprob in logprobs))

    def is_valid(self, text: str) -> bool:
        return bool(self.derivations(text))

    def check(self, text: str) -> Verdict:
        """Whether a text is a whole story, or where it stops being one."""
        page = Page(text)
        ends = [reading.end for reading in self.read(page)]
        if len(text) in ends:
            return Verdict(True, len(text), "")
        far, expected = 0, {}
        for start, forms in [*page.misses, *((end, ("",)) for end in ends)]:
            if start + max(map(len, forms)) < far:
                continue
            for form in forms:
                n_equal = len(os.path.commonprefix([form, text[start:start + len(form)]]))
                if n_equal < len(form) or not form:
                    if start + n_equal > far:
                        far, expected = start + n_equal, {}
                    if start + n_equal == far:
                        expected[word_at(form, n_equal)] = True
        return Verdict(False, far, one_of(list(expected)))

    def facts(self, story: str) -> dict[str, str | int]:
        """Who, what, where, how many, why and how it ended, by the names of the grammar.

        Always: hero, hero_is (girl or boy), friend, friend_is, place, plot, outcome, why. Often: thing, color, food, animal,
        spot, and the numbers n, k, and left (n - k) or total (n + k). ValueError if the text is no story.
        """
        derivations = self.derivations(story)
        if not derivations:
            verdict = self.check(story)
            raise ValueError(f"story = {story[:40]!r}...: expected a story of this world, but at offset {verdict.end} only "
                             f"{verdict.expected} may stand; pass a whole story.")
        state = derivations[0].state
        facts = {name: VALUES.get(entry[0], entry[0]) for name, entry in state.items()}
        column = self.grammar.words["hero"].fields.index("child")
        return {**facts, "hero_is": state["hero"][column], "friend_is": state["friend"][column]}

    def entropy(self, n_stories: int, seed: int) -> tuple[float, float]:
        """Nats per story as the mean of -log p over a sample, and its standard error. `nats` is the exact value."""
        costs = [-tale.logprob for tale in self.tell(n_stories, seed)]
        mean = math.fsum(costs) / n_stories
        variance = math.fsum((cost - mean) ** 2 for cost in costs) / max(n_stories - 1, 1)
        return mean, math.sqrt(variance / n_stories)


def word_at(form: str, offset: int) -> str:
    """The word of `form` that the character at `offset` belongs to."""
    if not form:
        return THE_END
    start = offset if form[offset] == " " else form.rfind(" ", 0, offset) + 1
    end = form.find(" ", offset + 1)
    return repr(form[start:end if end > 0 else None].strip() or " ")


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
    print(f"words per story   {n_words:.1f}; seen {min(lengths)} to {max(lengths)}, possible {world.min_words} to {world.max_words}")
    print(f"distinct words    {len(distinct)}")
    print(f"entropy           {world.nats:.2f} nats per story (sampled: {mean:.2f} +- {error:.2f})")
    print(f"                  {world.nats / n_words:.3f} nats per word, {world.nats / n_bytes:.4f} nats per byte")
    print(f"constraints       {world.n_constraints:.1f} words per story follow from earlier ones")
    print(f"speed             {n_bytes * len(stories) / writing / 1e6:.1f} MB/s written, {500 / reading:.0f} stories/s read")


if __name__ == "__main__":
    main()
