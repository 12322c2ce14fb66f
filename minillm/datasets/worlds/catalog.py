"""The worlds by name, as data.corpus names them."""

from minillm.datasets.worlds.exercise import ExerciseWorld

EXERCISES: dict[str, type[ExerciseWorld]] = {}
