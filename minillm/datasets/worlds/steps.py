"""Worlds whose answers take steps: the steps are written before the answer, and each of them can be checked.

The steps stand in the "think" of an answer, each ends with a period, and exactly one sequence of steps is right. So a
reward may be given for each right step (process reward, Lightman et al. 2023) and not for the result alone. Read
before: `exercise`.
"""

import random
from collections.abc import Sequence
from itertools import zip_longest
from typing import NamedTuple

from minillm.datasets.worlds.answers import content
from minillm.datasets.worlds.exercise import Exercise, ExerciseWorld
from minillm.tokenizers.chat import Message

MAX_SIZE = 16  # steps


class Worked(NamedTuple):
    """The truth of an exercise with steps."""

    steps: tuple[str, ...]  # without their periods
    accepted: frozenset[str]  # plain forms of the right content
    facts: tuple = ()  # what the question says, for independent checks


class WrongStep(NamedTuple):
    """The first step that is wrong."""

    place: int  # the number of right steps before it
    step: str | None  # as it was written; None where steps are missing
    expected: str | None  # the right step; None where there are too many


class StepWorld(ExerciseWorld):
    """A source of exercises whose answers take steps; with `steps` false, the answers are direct."""

    def __init__(self, steps: bool = True):
        self.steps = steps

    def is_right(self, exercise: Exercise, answer: str) -> bool:
        """Whether the content is right; the steps before it are not judged, see `check_steps`."""
        return content(answer) in exercise.truth.accepted

    def check_steps(self, exercise: Exercise, think: str) -> WrongStep | None:
        """The first step that is wrong, missing or too many; None if all are right."""
        for place, (step, expected) in enumerate(zip_longest(split_steps(think), exercise.truth.steps)):
            if step is None or expected is None or not self.is_step(step, expected):
                return WrongStep(place, step, expected)
        return None

    def is_step(self, step: str, expected: str) -> bool:
        """Whether a step is a form of the expected one."""
        return step == expected

    def answer(self, steps: Sequence[str], result: str) -> Message:
        """The right answer, with its steps if answers have them here."""
        message = Message(role="assistant", content=result)
        if self.steps:
            message["think"] = join_steps(steps)
        return message

    def explain(self, exercise: Exercise) -> str:
        """A worked exercise as plain text."""
        question, result = exercise.messages[-1]["content"], exercise.answer["content"]
        return f"{question} {join_steps(exercise.truth.steps)} The answer: {result}."

    def document(self, rng: random.Random) -> str:
        return self.explain(self.draw(rng, "train"))


def join_steps(steps: Sequence[str]) -> str:
    """Steps as they are written.

    >>> join_steps(["12 + 7 = 19", "19 - 5 = 14"])
    '12 + 7 = 19. 19 - 5 = 14.'
    """
    return " ".join(f"{step}." for step in steps)


def split_steps(think: str) -> list[str]:
    """The steps of a text, the inverse of `join_steps`; the last one may lack its period.

    >>> split_steps("12 + 7 = 19. 19 - 5 =")
    ['12 + 7 = 19', '19 - 5 =']
    """
    return [step.strip() for step in think.strip().removesuffix(".").split(".")] if think.strip() else []


def check_sizes(name: str, sizes: Sequence[int]) -> tuple[int, ...]:
    """The numbers of steps of a world's exercises. Raises ValueError for none and for one outside 2 to MAX_SIZE."""
    if not sizes or not all(size in range(2, MAX_SIZE + 1) for size in sizes):
        raise ValueError(
            f"{name}.sizes = {list(sizes)}: expected whole numbers from 2 to {MAX_SIZE}; give for example [2, 3, 4]"
        )
    return tuple(sizes)
