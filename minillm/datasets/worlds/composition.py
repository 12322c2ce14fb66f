"""Composition: operations applied one after another, where the order matters and no shortcut is known.

    On a shelf stand coin, key, mug, bell, sock. Swap the first and the second. Reverse them all. What is the order now?
    <think>key coin mug bell sock. sock bell mug coin key.</think>sock bell mug coin key

A transformer of fixed depth computes only so much before its first token. The product of many permutations of five
things is beyond it (it is complete for NC1, Barrington 1989), but written states, one after each operation, make each
step easy (Li et al. 2024, arXiv 2402.12875). The same holds for the chained digits, of which only the last digit is
kept. The key of an exercise is its sequence of operations. Read before: `steps`.
"""

import random
from collections.abc import Sequence
from typing import NamedTuple

from minillm.datasets.worlds.answers import WORDS
from minillm.datasets.worlds.builder import Builder
from minillm.datasets.worlds.exercise import Exercise, Part
from minillm.datasets.worlds.operations import (
    ADD,
    DIGITS,
    DOUBLE,
    ITEM,
    MINUS_FROM_9,
    ORDER,
    PLACE,
    RESULT,
    REVERSE,
    SHELF,
    SWAP,
    TO_END,
    TO_FRONT,
    TRIPLE,
)
from minillm.datasets.worlds.steps import StepWorld, Worked, check_sizes
from minillm.datasets.worlds.words import story_words

PLACES = ["first", "second", "third", "fourth", "fifth"]


class Permutation(NamedTuple):
    """A permutation of five places: the thing at place `source[i]` moves to place i."""

    name: str
    wording: list[str]
    source: tuple[int, ...]
    slots: dict[str, str]  # what its wording is filled with

    def apply(self, things: Sequence[str]) -> tuple[str, ...]:
        return tuple(things[i] for i in self.source)


class DigitMap(NamedTuple):
    """An operation on digits: x becomes the last digit of `factor` x + `shift`."""

    name: str
    wording: list[str]
    factor: int
    shift: int
    slots: dict[str, str]  # what its wording is filled with

    def apply(self, digit: int) -> int:
        return (self.factor * digit + self.shift) % 10


def swap(i: int, j: int) -> Permutation:
    source = list(range(5))
    source[i], source[j] = j, i
    return Permutation(f"swap {i + 1} {j + 1}", SWAP, tuple(source), {"a": PLACES[i], "b": PLACES[j]})


SWAPS = [swap(i, j) for j in range(5) for i in range(j)]
MOVES = [
    Permutation("first to end", TO_END, (1, 2, 3, 4, 0), {}),
    Permutation("last to front", TO_FRONT, (4, 0, 1, 2, 3), {}),
    Permutation("reverse", REVERSE, (4, 3, 2, 1, 0), {}),
]
ADDITIONS = [DigitMap(f"add {k}", ADD, 1, k, {"k": str(k)}) for k in range(1, 10)]
PRODUCTS = [
    DigitMap("double", DOUBLE, 2, 0, {}),
    DigitMap("triple", TRIPLE, 3, 0, {}),
    DigitMap("from 9", MINUS_FROM_9, -1, 9, {}),
]


class Composition(StepWorld):
    """Permutations of five things and chained operations on digits; without `steps`, the answers are direct."""

    name = "composition"

    def __init__(self, sizes: Sequence[int] = range(2, 9), steps: bool = True):
        super().__init__(steps)
        self.sizes = check_sizes(self.name, sizes)
        self.things = story_words("find")
        self.kinds = ("order", "place", "item", "digit")

    def draw(self, rng: random.Random, part: Part) -> Exercise:
        builder = Builder(rng, part)
        size, kind = rng.choice(self.sizes), rng.choice(self.kinds)
        if kind == "digit":
            return self._digit(builder, size)
        start, operations = rng.sample(self.things, 5), drawn(builder, SWAPS, MOVES, size)
        states = states_after(tuple(start), operations)
        place, final = rng.randrange(5), states[-1]
        frame = {"order": ORDER, "place": PLACE, "item": ITEM}[kind]
        question = builder.template(frame).format(thing=final[place], place=PLACES[place])
        result, accepted = answer_forms(kind, final, place)
        shelf = builder.template(SHELF).format(things=", ".join(start))
        text = " ".join([shelf, *spoken(builder, operations), question])
        return self._finish(builder, kind, text, [" ".join(state) for state in states], result, accepted, operations)

    def _digit(self, builder: Builder, size: int) -> Exercise:
        operations, start = drawn(builder, ADDITIONS, PRODUCTS, size), builder.rng.randrange(10)
        digits = [str(digit) for digit in states_after(start, operations)]
        begin = builder.template(DIGITS).format(n=start)
        text = " ".join([begin, *spoken(builder, operations), builder.template(RESULT)])
        accepted = {digits[-1], WORDS[int(digits[-1])]}
        return self._finish(builder, "digit", text, digits, digits[-1], accepted, (start, *operations))

    def _finish(
        self, builder: Builder, kind: str, text: str, steps: list[str], result: str, accepted: set[str], facts: Sequence
    ) -> Exercise:
        truth = Worked(tuple(steps), frozenset(accepted), tuple(facts))
        return builder.finish(kind, text, self.answer(steps, result), truth, len(steps))


def answer_forms(kind: str, final: Sequence[str], place: int) -> tuple[str, set[str]]:
    """The answer about the final order, and its plain forms."""
    if kind == "order":
        return " ".join(final), {" ".join(final), ", ".join(final)}
    if kind == "place":
        return PLACES[place], {PLACES[place], f"the {PLACES[place]}", str(place + 1)}
    return final[place], {final[place], f"the {final[place]}"}


def states_after(state, operations: Sequence) -> list:
    """The states after each of the operations, from a row of things or a digit on."""
    states = []
    for operation in operations:
        state = operation.apply(state)
        states.append(state)
    return states


def spoken(builder: Builder, operations: Sequence) -> list[str]:
    """A sentence for each operation."""
    return [builder.template(operation.wording).format(**operation.slots) for operation in operations]


def drawn(builder: Builder, common: Sequence, rare: Sequence, size: int) -> list:
    """Operations, three of five from the first list, drawn again until their sequence belongs to the builder's part."""
    while True:
        found = [builder.rng.choice(common if builder.rng.random() < 0.6 else rare) for _ in range(size)]
        if builder.accepts("numbers: " + ", ".join(operation.name for operation in found)):
            return found
