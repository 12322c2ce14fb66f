"""Exercises: generated questions with known answers, and the worlds that generate and score them.

A world is a source of exercises whose truth it knows, so every answer gets an exact score. Each exercise lists its
keys: the template of the question, the facts and the numbers that it is made of. Every key belongs to one part of the
data, training, validation or test, and an exercise is made of keys of its own part only. So what is asked in a test was
never seen in training, neither the wording nor the facts. Read before: `tokenizers/chat.py`.
"""

import random
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple, TypeVar

from minillm.datasets.split import unit_hash
from minillm.tokenizers.chat import Message

Part = Literal["train", "val", "test"]
T = TypeVar("T")


class Exercise(NamedTuple):
    """A question, its right answer, and what it was made of."""

    kind: str  # what is asked for, e.g. "who"; scores are told apart by it
    messages: tuple[Message, ...]  # the conversation so far; the last message is the user's question
    answer: Message  # a right answer of the assistant; its steps, if it has any, are in "think"
    keys: frozenset[str]  # "template: ...", "fact: ...", "numbers: ...": all belong to the same part
    truth: Any  # what `ExerciseWorld.is_right` needs to judge an answer
    size: int = 0  # number of steps that the answer takes; 0 where there are none to count


class ExerciseWorld(ABC):
    """A source of exercises about one subject."""

    name: str  # as data.corpus names it

    @abstractmethod
    def draw(self, rng: random.Random, part: Part) -> Exercise:
        """A random exercise of one part."""

    @abstractmethod
    def is_right(self, exercise: Exercise, answer: str) -> bool:
        """Whether a whole answer, thoughts included, is right."""

    @abstractmethod
    def document(self, rng: random.Random) -> str:
        """A plain text about the subject, for pre-training; it is made of keys of the training part only."""

    def exercises(self, part: Part, seed: int) -> Iterator[Exercise]:
        """Exercises of one part without end, the same for the same seed on every machine."""
        rng = random.Random(f"{self.name} {part} {seed}")
        while True:
            yield self.draw(rng, part)

    def documents(self, seed: int) -> Iterator[str]:
        """Documents without end, the same for the same seed on every machine."""
        rng = random.Random(f"{self.name} documents {seed}")
        while True:
            yield self.document(rng)


def part_of(key: str, held_out: float = 0.1) -> Part:
    """The part of a key, by its hash: a share of `held_out` each is for validation and for test.

    >>> [part_of(f"fact: {name}") for name in ("Anna", "Ben", "Max", "Flora")]
    ['train', 'train', 'val', 'val']
    """
    u = unit_hash(key)
    return "val" if u < held_out else "test" if u < 2 * held_out else "train"


def choose(rng: random.Random, options: Sequence[T], part: Part) -> T:
    """A random one of the options of a part, such as templates; see `dealt`. Raises ValueError for fewer than ten.

    >>> choose(random.Random(0), "abcdefghij", "test")
    'j'
    """
    chosen = [option for i, option in enumerate(options) if dealt(i) == part]
    if not chosen:
        raise ValueError(f"{len(options)} options: expected at least 10, so that each part has one; write more")
    return rng.choice(chosen)


def dealt(i: int) -> Part:
    """The part of the option at place i of a list: of every ten, the ninth is for validation, the tenth for test."""
    return {8: "val", 9: "test"}.get(i % 10, "train")
