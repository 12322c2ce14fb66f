"""Examples to tune on: conversations with answers, from generated worlds and from files, split into parts.

Exercises of a world are drawn for each part, so that no wording and no fact of a test was trained on. Conversations of
a file are split by their content, as documents are. Several names separated by commas are mixed. Read before: `split`,
`worlds/exercise.py`, `conversation_files`.
"""

import json
from dataclasses import replace
from itertools import chain, islice
from typing import NamedTuple

from minillm.datasets.conversation_files import read_conversations
from minillm.datasets.corpus import DataConfig, existing
from minillm.datasets.split import split
from minillm.datasets.worlds.catalog import EXERCISES, world_and_size
from minillm.datasets.worlds.exercise import Exercise, ExerciseWorld, Part
from minillm.tokenizers.chat import Message


class Example(NamedTuple):
    """A conversation that ends with an answer to learn."""

    messages: list[Message]
    asked: Exercise | None = None  # the exercise that it was made of
    world: ExerciseWorld | None = None  # judges other answers to it


class Examples(NamedTuple):
    """The examples of each part."""

    train: list[Example]
    val: list[Example]
    test: list[Example]


def load_examples(config: DataConfig) -> Examples:
    """Generate or read the examples of `config.corpus`. Raises ValueError for a corpus without conversations."""
    parts = [_load(replace(config, corpus=name.strip())) for name in config.corpus.split(",")]
    return Examples(*(list(chain.from_iterable(each)) for each in zip(*parts, strict=True)))


def _load(config: DataConfig) -> Examples:
    name, n_exercises = world_and_size(config.corpus, config.n_exercises)
    if name in EXERCISES:
        world, held_out = EXERCISES[name](), (config.val_fraction, config.test_fraction)
        sizes = [n_exercises, *(round(n_exercises * share) for share in held_out)]
        parts: tuple[Part, ...] = ("train", "val", "test")
        return Examples(*(_draw(world, part, n, config.seed) for part, n in zip(parts, sizes, strict=True)))
    if not name.endswith((".jsonl", ".ndjson")):
        raise ValueError(
            f"data.corpus = {name!r}: expected conversations: {', '.join(EXERCISES)}, or a .jsonl file; "
            "name one, or train on texts with task.kind = next_token"
        )
    written = [json.dumps(messages, ensure_ascii=False) for messages in read_conversations(existing(name))]
    if len(set(written)) < 2:
        raise ValueError(f"data.corpus = {name!r}: expected at least two different conversations; add some")
    splits = split(written, config.val_fraction, config.test_fraction)
    return Examples(*([Example(json.loads(line)) for line in part] for part in splits))


def _draw(world: ExerciseWorld, part: Part, n: int, seed: int) -> list[Example]:
    drawn = islice(world.exercises(part, seed), n)
    return [Example([*exercise.messages, exercise.answer], exercise, world) for exercise in drawn]
