"""Exercises: generated questions with known answers, and the worlds that generate and score them.

A world generates exercises together with their right answers, so every answer has an exact score. Each exercise has
keys: the template of the question, the facts and the numbers that it is made of. Every key belongs to one part of the
data, training, validation or test, and an exercise is made of keys of its own part only. So what is asked in a test was
never seen in training, neither the wording nor the facts. Read before: `tokenizers/chat.py`.
"""

import random
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from statistics import fmean
from typing import Any, Literal, NamedTuple, TypeVar, get_args

from minillm.datasets.split import unit_hash
from minillm.tokenizers.chat import Message, whole_text

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

    def card(self, n: int = 1000, seed: int = 0) -> str:
        """The dataset card, in Markdown: statistics of `n` exercises of each part, and an example of each kind.

        Words of a question are those of the whole conversation; words of an answer include its steps.
        """
        if n < 1:
            raise ValueError(f"exercises = {n}: expected at least 1; count more")
        parts = {part: list(islice(self.exercises(part, seed), n)) for part in get_args(Part)}
        kinds = group((exercise.kind, exercise) for exercise in parts["train"])
        lines = [f"# {self.name}", "", (type(self).__doc__ or "").splitlines()[0], ""]
        lines += [f"Of {n} exercises for training:", "", "| kind | exercises | words of a question | of an answer |"]
        lines.append("|---|---|---|---|")
        for kind, exercises in kinds.items():
            asked = fmean(sum(n_words(message) for message in exercise.messages) for exercise in exercises)
            answered = fmean(n_words(exercise.answer) for exercise in exercises)
            lines.append(f"| {kind} | {len(exercises)} | {asked:.0f} | {answered:.0f} |")
        lines += ["", f"Keys of {n} exercises of each part; no part has a key of another:", ""]
        lines += ["| part | keys |", "|---|---|"]
        for part, exercises in parts.items():
            keys = group((key.partition(":")[0], key) for exercise in exercises for key in exercise.keys)
            counts = ", ".join(f"{name}: {len(set(found))}" for name, found in keys.items())
            lines.append(f"| {part} | {counts} |")
        for kind, exercises in kinds.items():
            turns = [*exercises[0].messages, exercises[0].answer]
            lines += ["", f"## {kind}", "", "\n\n".join(f"**{turn['role']}**: {whole_text(turn)}" for turn in turns)]
        return "\n".join(lines)


def n_words(message: Message) -> int:
    """The number of words of a message, with its steps."""
    return len(whole_text(message).split())


def group(items: Iterable[tuple[str, T]]) -> dict[str, list[T]]:
    """Lists of the values of each name, in the order of the names.

    >>> group([("b", 2), ("a", 1), ("b", 3)])
    {'a': [1], 'b': [2, 3]}
    """
    groups: dict[str, list[T]] = {}
    for name, value in items:
        groups.setdefault(name, []).append(value)
    return dict(sorted(groups.items()))


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
