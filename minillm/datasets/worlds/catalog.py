"""The worlds of exercises by name. Read before: `exercise`."""

from minillm.datasets.worlds.arithmetic import Arithmetic
from minillm.datasets.worlds.composition import Composition
from minillm.datasets.worlds.dialogue import Dialogue
from minillm.datasets.worlds.exercise import ExerciseWorld
from minillm.datasets.worlds.instructions import Instructions
from minillm.datasets.worlds.logic import Logic
from minillm.datasets.worlds.safety import Safety

EXERCISES: dict[str, type[ExerciseWorld]] = {
    "instructions": Instructions,
    "dialogue": Dialogue,
    "arithmetic": Arithmetic,
    "composition": Composition,
    "logic": Logic,
    "safety": Safety,
}


def world_and_size(name: str, size: int) -> tuple[str, int]:
    """The world that a part of `data.corpus` names, and the number of its exercises: that after the colon, or `size`.

    >>> world_and_size("safety", size=20), world_and_size("safety:500", size=20)
    (('safety', 20), ('safety', 500))

    Raises ValueError for what follows a colon and is not a number above 0.
    """
    world, colon, own = name.partition(":")
    if not colon or world not in EXERCISES:
        return name, size
    if not own.isdecimal() or int(own) == 0:
        raise ValueError(
            f"data.corpus = {name!r}: expected a number of exercises after the colon, as in {world}:500, "
            f"found {own!r}; write one"
        )
    return world, int(own)
