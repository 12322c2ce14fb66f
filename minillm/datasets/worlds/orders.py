"""Orders: three to five people compared in pairs; who is first or last, and whether one is before another.

A comparison is transitive: Anna is taller than Ben, Ben is taller than Clara, so Anna is taller than Clara. If Anna is
taller than both Ben and Dan, nothing follows about those two. The premises come in any order and in both directions;
the steps bring them into one. The key of an exercise is the set of its comparisons. Read before: `proof`.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

from minillm.datasets.worlds.builder import Builder
from minillm.datasets.worlds.proof import CLOSED, DOES_NOT_FOLLOW, Proof, closed
from minillm.datasets.worlds.words import people

Pair = tuple[str, str]  # the first is more than the second
Shape = Callable[[list[str]], list[Pair]]  # whom to compare with whom


class Relation(NamedTuple):
    """A comparison of people, with its words in both directions."""

    more: str
    less: str
    most: str
    least: str


RELATIONS = [
    Relation("taller", "shorter", "tallest", "shortest"),
    Relation("older", "younger", "oldest", "youngest"),
    Relation("faster", "slower", "fastest", "slowest"),
    Relation("stronger", "weaker", "strongest", "weakest"),
    Relation("richer", "poorer", "richest", "poorest"),
    Relation("louder", "quieter", "loudest", "quietest"),
]

PREMISE = [
    "{a} is {more} than {b}.",
    "{b} is {less} than {a}.",
    "Compared with {b}, {a} is {more}.",
    "Compared with {a}, {b} is {less}.",
    "Everybody can see that {a} is {more} than {b}.",
    "Everybody can see that {b} is {less} than {a}.",
    "Of {a} and {b}, {a} is the {more} one.",
    "Of {a} and {b}, {b} is the {less} one.",
    "Everybody can see that {a} is the {more} one of {a} and {b}.",
    "Everybody can see that, compared with {b}, {a} is {more}.",
    "It is known that {a} is {more} than {b}.",
    "It is known that {b} is {less} than {a}.",
    "{a} is much {more} than {b}.",
    "{b} is much {less} than {a}.",
    "{a} is a little {more} than {b}.",
    "{b} is a little {less} than {a}.",
    "As we know, {a} is {more} than {b}.",
    "As we know, {b} is {less} than {a}.",
    "As we know, {a} is a little {more} than {b}.",
    "It is known that {b} is much {less} than {a}.",
]

EXTREME = [
    "{premises} Who is the {most}?",
    "{premises} Who is {most}?",
    "{premises} Which of them is the {most}?",
    "{premises} Tell me who is the {most}.",
    "{premises} Who of them is the {most}?",
    "Listen. {premises} Who is the {most}?",
    "{premises} So who is the {most}?",
    "Who is the {most}? {premises}",
    "Listen. {premises} Tell me who is {most}.",
    "{premises} So which of them is the {most}?",
    "{premises} Now, who is {most}?",
    "{premises} Find the {most} of them.",
    "Here is what we know. {premises} Who is the {most}?",
    "{premises} Name the {most}.",
    "{premises} The {most} of them: who is it?",
    "Think about this. {premises} Who is the {most}?",
    "{premises} I want to know who is the {most}.",
    "{premises} Of them all, who is the {most}?",
    "Think about this. {premises} Name the {most} of them.",
    "Here is what we know. {premises} Which of them is the {most}?",
]


def extreme(builder: Builder) -> Proof:
    """A question for the tallest, or the shortest, of a chain of people."""
    relation = builder.rng.choice(RELATIONS)
    names, pairs = drawn(builder, relation, in_a_row)
    asks_most = builder.rng.random() < 0.5
    asked, result = (relation.most, names[0]) if asks_most else (relation.least, names[-1])
    question = builder.template(EXTREME).format(premises=tell(builder, relation, pairs), most=asked)
    steps = [*chain(relation, pairs), f"So {result} is the {asked}"]
    return Proof(question, steps, result, (asks_most, *pairs))


def comparison(builder: Builder) -> Proof:
    """Whether one person is taller than another: by a chain of comparisons, or not decided by any."""
    relation, rng = builder.rng.choice(RELATIONS), builder.rng
    result = rng.choice(["yes", "no", DOES_NOT_FOLLOW])
    if result == DOES_NOT_FOLLOW:
        names, pairs = drawn(builder, relation, with_a_branch)
        first, second = rng.sample([names[-1], rng.choice(names[1:-1])], 2)
        last = f"Nothing is known about {first} and {second}"
    else:
        names, pairs = drawn(builder, relation, in_a_row)
        i = rng.randrange(len(names) - 2)
        high, low = names[i], names[rng.randrange(i + 2, len(names))]
        first, second = (high, low) if result == "yes" else (low, high)
        last = f"So {high} is {relation.more} than {low}"
    one, word, other = rng.choice([(first, relation.more, second), (second, relation.less, first)])
    claim, ask = f"{one} is {word} than {other}", f"is {one} {word} than {other}?"
    question = closed(builder.template(CLOSED), tell(builder, relation, pairs), ask, claim)
    return Proof(question, [*chain(relation, pairs), last], result, ((first, second), *pairs))


def in_a_row(names: list[str]) -> list[Pair]:
    """Everybody is compared with the next."""
    return list(pairwise(names))


def with_a_branch(names: list[str]) -> list[Pair]:
    """The last is less than the first, and not compared with anybody else."""
    return [*pairwise(names[:-1]), (names[0], names[-1])]


def drawn(builder: Builder, relation: Relation, shape: Shape) -> tuple[list[str], list[Pair]]:
    """Three to five people and their comparisons, drawn again until these belong to the builder's part."""
    while True:
        names = [person.name for person in builder.rng.sample(people(), builder.rng.randint(3, 5))]
        pairs = shape(names)
        if builder.accepts(f"fact: {relation.more}: " + ", ".join(sorted(f"{a} {b}" for a, b in pairs))):
            return names, pairs


def tell(builder: Builder, relation: Relation, pairs: list[Pair]) -> str:
    """The premises in random order, each in words of its own."""
    told = builder.rng.sample(pairs, len(pairs))
    words = [builder.template(PREMISE).format(a=a, b=b, more=relation.more, less=relation.less) for a, b in told]
    return " ".join(words)


def chain(relation: Relation, pairs: list[Pair]) -> list[str]:
    return [f"{a} is {relation.more} than {b}" for a, b in pairs]
