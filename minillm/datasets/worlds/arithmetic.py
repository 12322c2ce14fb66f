"""Arithmetic: sums and word problems of several steps, each step one small operation.

    What is 12 + 7 - 5?                                      <think>12 + 7 = 19. 19 - 5 = 14.</think>14
    Anna had 5 plums. Ben gave her 3 more. How many ...?     <think>5 + 3 = 8.</think>8

Worked steps help models with what takes several steps (scratchpads, Nye et al. 2021; chain of thought, Wei et al.
2022). All numbers are from 0 to 99 and all but the first of a step from 1 to 9, so a small model can learn every single
step, and the steps are what an exercise tests. The key of an exercise is the tuple of all its numbers. Read before:
`steps`; the wording is in `word_problems`.
"""

import operator
import random
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

from minillm.datasets.worlds.answers import WORDS
from minillm.datasets.worlds.builder import Builder
from minillm.datasets.worlds.exercise import Exercise, Part
from minillm.datasets.worlds.steps import StepWorld, Worked, check_sizes
from minillm.datasets.worlds.word_problems import (
    EACH,
    FEWER,
    GAIN,
    HAS,
    HOW_MANY,
    IN_GROUPS,
    LOSS,
    MORE,
    START,
    SUM,
    TOGETHER,
    WHO_HAS,
)
from minillm.datasets.worlds.words import Person, people, story_words

LIMIT = 99  # the greatest number
OPERATIONS: dict[str, Callable[[int, int], int]] = {"+": operator.add, "-": operator.sub, "*": operator.mul}
EQUATION = re.compile(r"(\d{1,2}) ([-+*]) (\d{1,2}) = (\d{1,2})")
ITEMS = ("food", "flower", "block", "loot")  # word classes of the stories
T = TypeVar("T")


class Step(NamedTuple):
    """One operation."""

    left: int
    sign: str
    right: int

    @property
    def result(self) -> int:
        return OPERATIONS[self.sign](self.left, self.right)

    def __str__(self) -> str:
        return f"{self.left} {self.sign} {self.right} = {self.result}"


def parse_step(text: str) -> tuple[Step, int] | None:
    """A written step and the result that it claims, right or wrong; None for what is no step.

    >>> parse_step("12 + 7 = 20"), parse_step("12 + = 19")
    ((Step(left=12, sign='+', right=7), 20), None)
    """
    if not (match := EQUATION.fullmatch(text)):
        return None
    return Step(int(match[1]), match[2], int(match[3])), int(match[4])


class Arithmetic(StepWorld):
    """Sums and word problems of some numbers of steps."""

    name = "arithmetic"

    def __init__(self, sizes: Sequence[int] = range(2, 7), steps: bool = True):
        super().__init__(steps)
        self.sizes = check_sizes(self.name, sizes)
        self.items = [word for name in ITEMS for word in story_words(name)]
        self.kinds = {
            "sum": self._sum,
            "change": self._change,
            "groups": self._groups,
            "compare": self._compare,
            "together": self._together,
        }

    def draw(self, rng: random.Random, part: Part) -> Exercise:
        size, kind = rng.choice(self.sizes), rng.choice(list(self.kinds))
        builder = Builder(rng, part)
        steps, question = self.kinds[kind](builder, size)
        result = steps[-1].result
        written = tuple(map(str, steps))
        truth = Worked(written, frozenset({str(result), WORDS[result], WORDS[result].replace("-", " ")}))
        return builder.finish(kind, question, self.answer(written, str(result)), truth, size)

    def is_step(self, step: str, expected: str) -> bool:
        """Whether a step claims what the expected one does; a sum or product may have its two numbers exchanged."""
        found, right = parse_step(step), parse_step(expected)
        if found is None or right is None or found[1] != found[0].result:
            return False
        left, sign, other = right[0]
        return found[0] in (right[0], Step(other, sign, left))  # an exchanged difference would be below zero: no step

    def _sum(self, builder: Builder, size: int) -> tuple[list[Step], str]:
        steps = drawn(builder, lambda rng: chain(rng, rng.randint(0, LIMIT), size), chain_numbers)
        text = " ".join([str(steps[0].left), *(f"{step.sign} {step.right}" for step in steps)])
        return steps, builder.template(SUM).format(sum=text)

    def _change(self, builder: Builder, size: int) -> tuple[list[Step], str]:
        steps = drawn(builder, lambda rng: chain(rng, rng.randint(2, 30), size), chain_numbers)
        scene = self._scene(builder.rng)
        start = builder.template(START).format(n=steps[0].left, **scene)
        return steps, self._changes(builder, start, steps, scene)

    def _groups(self, builder: Builder, size: int) -> tuple[list[Step], str]:
        def groups(rng: random.Random) -> list[Step]:
            first = Step(rng.randint(2, 9), "*", rng.randint(2, 9))
            return [first, *chain(rng, first.result, size - 1)]

        steps = drawn(builder, groups, chain_numbers)
        scene = self._scene(builder.rng)
        box = builder.rng.choice(EACH)
        start = builder.template(IN_GROUPS).format(k=steps[0].left, n=steps[0].right, box=box, **scene)
        return steps, self._changes(builder, start, steps[1:], scene)

    def _changes(self, builder: Builder, start: str, steps: Sequence[Step], scene: dict[str, str]) -> str:
        changes = [builder.template(GAIN if step.sign == "+" else LOSS).format(n=step.right, **scene) for step in steps]
        return " ".join([start, *changes, builder.template(HOW_MANY).format(**scene)])

    def _compare(self, builder: Builder, size: int) -> tuple[list[Step], str]:
        steps = drawn(builder, lambda rng: chain(rng, rng.randint(2, 30), size), chain_numbers)
        names, items = self._names(builder.rng, size + 1), builder.rng.choice(self.items)
        sentences = [builder.template(HAS).format(name=names[0], n=steps[0].left, items=items)]
        for i, step in enumerate(steps):
            sentences.append(self._relation(builder, step, names[i], names[i + 1], items))
        question = builder.template(WHO_HAS).format(name=names[-1], items=items)
        return steps, " ".join([*sentences, question])

    def _together(self, builder: Builder, size: int) -> tuple[list[Step], str]:
        n_people = (size + 1) // 2 + 1  # a sum for each but the first; the other steps compare two of them

        def amounts(rng: random.Random) -> list[Step | int]:
            related = set(rng.sample(range(1, n_people), size - n_people + 1))
            found: list[Step | int] = [rng.randint(2, 9)]
            for i in range(1, n_people):
                before = value(found[-1])
                n = rng.choice([n for n in range(2, 10) if n != before])
                sign = "+" if n > before else "-"
                found.append(Step(before, sign, abs(n - before)) if i in related else n)
            return found

        found = drawn(builder, amounts, lambda found: [x.right if isinstance(x, Step) else x for x in found])
        names, items = self._names(builder.rng, n_people), builder.rng.choice(self.items)
        sentences, steps = [], [x for x in found if isinstance(x, Step)]
        for i, x in enumerate(found):
            if isinstance(x, Step):
                sentences.append(self._relation(builder, x, names[i - 1], names[i], items))
            else:
                sentences.append(builder.template(HAS).format(name=names[i], n=x, items=items))
        total = value(found[0])
        for x in found[1:]:
            steps.append(Step(total, "+", value(x)))
            total = steps[-1].result
        return steps, " ".join([*sentences, builder.template(TOGETHER).format(items=items)])

    def _relation(self, builder: Builder, step: Step, known: str, name: str, items: str) -> str:
        options = MORE if step.sign == "+" else FEWER
        return builder.template(options).format(name=name, known=known, n=step.right, items=items)

    def _names(self, rng: random.Random, n: int) -> list[str]:
        return [person.name for person in rng.sample(people(), n)]

    def _scene(self, rng: random.Random) -> dict[str, str]:
        hero, friend = rng.sample(people(), 2)
        return scene_words(hero, friend, rng.choice(self.items))


def scene_words(hero: Person, friend: Person, items: str) -> dict[str, str]:
    """The words that a sentence about a person and a friend may use."""
    pronouns = {"he": hero.he, "He": hero.he.capitalize(), "him": hero.him, "his": hero.his}
    return {"name": hero.name, "friend": friend.name, "items": items, **pronouns}


def chain(rng: random.Random, start: int, size: int) -> list[Step]:
    """Random additions and subtractions one after another, from `start` on, each result from 0 to LIMIT."""
    steps: list[Step] = []
    for _ in range(size):
        right = rng.randint(1, 9)
        signs = [sign for sign in "+-" if 0 <= OPERATIONS[sign](start, right) <= LIMIT]
        steps.append(Step(start, rng.choice(signs), right))
        start = steps[-1].result
    return steps


def chain_numbers(steps: Sequence[Step]) -> list[int]:
    """The numbers that the problem of a chain states."""
    return [steps[0].left, *(step.right for step in steps)]


def value(amount: Step | int) -> int:
    """The number of an amount: a stated number, or the result of a comparison."""
    return amount.result if isinstance(amount, Step) else amount


def drawn(
    builder: Builder, make: Callable[[random.Random], list[T]], numbers: Callable[[list[T]], list[int]]
) -> list[T]:
    """A problem drawn by `make`, again and again until the tuple of its numbers belongs to the builder's part."""
    while True:
        found = make(builder.rng)
        if builder.accepts("numbers: " + " ".join(map(str, numbers(found)))):
            return found
