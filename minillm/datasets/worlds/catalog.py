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
