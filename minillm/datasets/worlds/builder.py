"""A builder of exercises: an exercise under construction, which draws what belongs to its part and collects the keys.

Read before: `exercise`.
"""

import random
from collections.abc import Sequence
from typing import Any

from minillm.datasets.worlds.exercise import Exercise, Part, choose, part_of
from minillm.tokenizers.chat import Message


class Builder:
    """An exercise under construction."""

    def __init__(self, rng: random.Random, part: Part):
        self.rng, self.part = rng, part
        self.keys: set[str] = set()

    def template(self, options: Sequence[str]) -> str:
        """A random one of the templates of this part."""
        chosen = choose(self.rng, options, self.part)
        self.keys.add(f"template: {chosen}")
        return chosen

    def accepts(self, key: str) -> bool:
        """Whether a key belongs to this part; if so, it becomes a key of the exercise."""
        if part_of(key) != self.part:
            return False
        self.keys.add(key)
        return True

    def finish(self, kind: str, messages: Sequence[Message] | str, answer: Message, truth: Any, size=0) -> Exercise:
        """The exercise; a text alone is one message of the user."""
        if isinstance(messages, str):
            messages = [Message(role="user", content=messages)]
        return Exercise(kind, tuple(messages), answer, frozenset(self.keys), truth, size)
