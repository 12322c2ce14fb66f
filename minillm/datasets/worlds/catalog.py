"""The worlds of exercises by name. Read before: `exercise`."""

from minillm.datasets.worlds.dialogue import Dialogue
from minillm.datasets.worlds.exercise import ExerciseWorld
from minillm.datasets.worlds.instructions import Instructions

EXERCISES: dict[str, type[ExerciseWorld]] = {"instructions": Instructions, "dialogue": Dialogue}
