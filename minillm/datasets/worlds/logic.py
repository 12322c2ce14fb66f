"""Logic and common sense: what follows from what is said, and what does not.

    All poets are brave. Anna is a poet. Is Anna brave?
    <think>Anna is a poet. All poets are brave. So Anna is brave.</think>yes

Five kinds: syllogisms, valid and invalid; the order of three to five people; comparisons of two of them; and causes and
effects among things, where what a thing is made of decides what happens to it. An answer to a closed question is yes,
no, or "it does not follow", so guessing from the words of the premises does not suffice. Each kind has a file of its
own. Read before: `steps`.
"""

import random

from minillm.datasets.worlds import causes, orders
from minillm.datasets.worlds.builder import Builder
from minillm.datasets.worlds.exercise import Exercise, Part
from minillm.datasets.worlds.proof import DOES_NOT_FOLLOW, Proof
from minillm.datasets.worlds.steps import StepWorld, Worked
from minillm.datasets.worlds.syllogisms import Syllogisms


class Logic(StepWorld):
    """Syllogisms, orders, comparisons, causes and effects."""

    name = "logic"

    def __init__(self, steps: bool = True):
        super().__init__(steps)
        things = causes.Causes()
        self.kinds = {
            "syllogism": Syllogisms().draw,
            "order": orders.extreme,
            "comparison": orders.comparison,
            "cause": things.cause,
            "effect": things.effect,
        }
        self.things = things

    def draw(self, rng: random.Random, part: Part) -> Exercise:
        builder, kind = Builder(rng, part), rng.choice(list(self.kinds))
        proof: Proof = self.kinds[kind](builder)
        accepted = {proof.result, *proof.forms}
        if proof.result == DOES_NOT_FOLLOW:
            accepted |= {"that does not follow", "this does not follow"}
        truth = Worked(tuple(proof.steps), frozenset(form.lower() for form in accepted), tuple(proof.facts))
        return builder.finish(kind, proof.question, self.answer(proof.steps, proof.result), truth, len(proof.steps))

    def document(self, rng: random.Random) -> str:
        return f"{self.things.knowledge(rng)} {super().document(rng)}"
