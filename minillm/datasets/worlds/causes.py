"""Causes and effects: what happens to things by what they are made of.

    Anna's vase fell on the stones. What happened: did it tear, or did it break?
    <think>A vase is made of glass. Glass breaks when it falls on stones. So it broke.</think>it broke

A fact is a thing and an event, such as a vase and a fall. The facts of the test are not in training, but both halves
are: the vase stood in the rain, and a bottle, of glass too, fell. So a right answer is inferred and not remembered.
Read before: `proof`.
"""

import random
from typing import NamedTuple

from minillm.datasets.grammar_words import with_article
from minillm.datasets.worlds.builder import Builder
from minillm.datasets.worlds.exercise import Part, part_of
from minillm.datasets.worlds.proof import Proof
from minillm.datasets.worlds.words import people

MATERIALS = {
    "glass": ["vase", "bottle", "mirror", "jar", "lamp", "lantern", "spyglass", "marble"],
    "clay": ["pot", "teapot", "mug", "bowl", "teacup", "jug"],
    "paper": ["letter", "book", "map", "ticket", "postcard", "notebook", "diary", "atlas", "comic", "kite"],
    "wool": ["scarf", "sweater", "sock", "glove", "cap", "blanket", "carpet", "coat", "teddy"],
    "iron": ["key", "bell", "hammer", "horseshoe", "shovel", "spade", "rake", "hook", "chain"],
    "wood": ["broom", "pole", "plank", "stick", "ladder", "chair", "bench", "table", "cart", "flute"],
}
BREAK, TEAR, BURN, RUST, WET, HOT, NOTHING = range(7)
OUTCOMES = ["it broke", "it tore", "it burned", "it rusted", "it got wet", "it got hot", "it stayed whole"]
ASKED = ["did it break", "did it tear", "did it burn", "did it rust", "did it get wet", "did it get hot"]
ASKED.append("did it stay whole")
RULES = ["breaks", "tears", "burns", "rusts", "gets wet", "gets hot", "stays whole"]


class Event(NamedTuple):
    """An event that happens to a thing, and its outcome for each material."""

    told: str  # of "it"
    rule: str  # when it happens to things of some material
    outcome: dict[str, int]
    wording: list[str]


EVENTS = [
    Event(
        "fell on the stones",
        "when it falls on stones",
        {"glass": BREAK, "clay": BREAK, "paper": NOTHING, "wool": NOTHING, "iron": NOTHING, "wood": NOTHING},
        [
            "{Its} fell on the stones.",
            "{name} dropped {its} on the stones.",
            "{Its} slipped and fell on hard stones.",
            "Down on the stones fell {its}.",
            "Somebody threw {its} on the stones.",
            "A cat pushed {its}, and it fell on the stones.",
            "{Its} fell down on some stones.",
            "{Its} fell off the wall on the stones.",
            "{Its} slipped and fell down on the stones.",
            "Somebody dropped {its} on hard stones.",
        ],
    ),
    Event(
        "lay in the rain",
        "when it lies in the rain",
        {"glass": WET, "clay": WET, "paper": WET, "wool": WET, "iron": RUST, "wood": WET},
        [
            "{Its} lay in the rain.",
            "{name} left {its} in the rain.",
            "For many days {its} lay in the rain.",
            "{Its} stood in the rain for days.",
            "Somebody forgot {its} in the rain.",
            "All week the rain fell on {its}.",
            "Out in the rain lay {its}.",
            "It rained for days on {its}.",
            "All week {its} lay in the rain.",
            "Somebody left {its} in the rain for days.",
        ],
    ),
    Event(
        "fell into the fire",
        "when it falls into a fire",
        {"glass": HOT, "clay": HOT, "paper": BURN, "wool": BURN, "iron": HOT, "wood": BURN},
        [
            "{Its} fell into the fire.",
            "{name} dropped {its} into the fire.",
            "{Its} lay in the fire.",
            "Into the fire fell {its}.",
            "Somebody threw {its} into the fire.",
            "A cat pushed {its} into the fire.",
            "{Its} slipped into the fire.",
            "{Its} was left in the fire.",
            "{Its} slipped and fell into the fire.",
            "Somebody dropped {its} into the fire.",
        ],
    ),
    Event(
        "was pulled by two dogs",
        "when two dogs pull it",
        {"glass": NOTHING, "clay": NOTHING, "paper": TEAR, "wool": TEAR, "iron": NOTHING, "wood": NOTHING},
        [
            "{Its} was pulled by two dogs.",
            "Two dogs pulled at {its}.",
            "Two dogs both wanted {its} and pulled.",
            "Two dogs pulled {its} from both sides.",
            "{Its} was found by two dogs, and both pulled.",
            "One dog pulled {its} this way, one dog that way.",
            "Two strong dogs pulled at {its}.",
            "Two dogs played with {its} and pulled hard.",
            "Two strong dogs pulled {its} from both sides.",
            "Two dogs wanted {its}, and both pulled hard.",
        ],
    ),
    Event(
        "lay in the hot sun",
        "when it lies in the hot sun",
        {"glass": HOT, "clay": HOT, "paper": NOTHING, "wool": NOTHING, "iron": HOT, "wood": NOTHING},
        [
            "{Its} lay in the hot sun.",
            "{name} left {its} in the hot sun.",
            "For many hours {its} lay in the hot sun.",
            "{Its} stood in the hot sun for hours.",
            "Somebody forgot {its} in the hot sun.",
            "All day the hot sun shone on {its}.",
            "Out in the hot sun lay {its}.",
            "The hot sun shone for hours on {its}.",
            "All day {its} lay in the hot sun.",
            "Somebody left {its} in the hot sun for hours.",
        ],
    ),
]

EFFECT = [
    "{event} What happened: {one}, or {two}?",
    "{event} What happened then? {One}, or {two}?",
    "{event} Tell me what happened: {one} or {two}?",
    "{event} What do you think: {one}, or {two}?",
    "{event} {One}, or {two}?",
    "Listen. {event} {One}, or {two}?",
    "{event} And then, {one}, or {two}?",
    "{event} What came of it: {one}, or {two}?",
    "Listen. {event} What do you think: {one}, or {two}?",
    "{event} What happened then: {one} or {two}?",
    "{event} Choose: {one}, or {two}?",
    "One day this happened. {event} {One}, or {two}?",
    "{event} So {one}, or {two}?",
    "{event} After that, {one}, or {two}?",
    "{event} What followed: {one}, or {two}?",
    "{event} I want to know: {one} or {two}?",
    "{event} Now, {one}, or {two}?",
    "One day this happened. {event} Choose: {one} or {two}?",
    "{event} What do you think happened: {one}, or {two}?",
    "One day this happened. {event} And then, {one}, or {two}?",
]

CAUSE = [
    '{event} {other} Then {name} said, "{outcome}." Why?',
    '{event} {other} Then {name} called, "{outcome}!" Why?',
    '{event} {other} "{outcome}," said {name}. What was the reason?',
    '{event} {other} Why did {name} say, "{outcome}"?',
    '{event} {other} {name} looked at one of the two and said, "{outcome}." Why?',
    '{event} {other} In the end {name} said, "{outcome}." Tell me why.',
    '{event} {other} "{outcome}!" cried {name}. Why?',
    '{event} {other} Of one of the two {name} said, "{outcome}." What was the reason?',
    '{event} {other} In the end {name} called, "{outcome}!" Why?',
    '{event} {other} "{outcome}!" said {name}. Tell me why.',
    'Listen. {event} {other} "{outcome}," said {name}. Why?',
    'One day this happened. {event} {other} {name} said, "{outcome}." Why?',
    '{event} {other} What made {name} say, "{outcome}"?',
    '{event} {other} "{outcome}!" called {name}. What had happened?',
    '{event} {other} After that {name} cried, "{outcome}!" Why?',
    '{event} {other} Why did {name} cry, "{outcome}"?',
    '{event} {other} {name} came to look and said, "{outcome}." What had happened?',
    '{event} {other} "{outcome}," said {name} of one of the two. Why?',
    'Listen. {event} {other} What made {name} cry, "{outcome}"?',
    'One day this happened. {event} {other} "{outcome}!" called {name}. Why?',
]


class Case(NamedTuple):
    """A thing of some material, and what happens to it."""

    thing: str
    material: str
    event: Event

    @property
    def key(self) -> str:
        return f"fact: {self.thing} {self.event.told}"

    @property
    def outcome(self) -> int:
        return self.event.outcome[self.material]

    @property
    def steps(self) -> list[str]:
        return [f"{with_article(self.thing).capitalize()} is made of {self.material}", self.rule]

    @property
    def rule(self) -> str:
        return f"{self.material.capitalize()} {RULES[self.outcome]} {self.event.rule}"


class Causes:
    """A source of questions about what happened to a thing, and why."""

    def __init__(self):
        self.cases: dict[Part, list[Case]] = {"train": [], "val": [], "test": []}
        for material, things in MATERIALS.items():
            for case in (Case(thing, material, event) for thing in things for event in EVENTS):
                self.cases[part_of(case.key)].append(case)

    def effect(self, builder: Builder) -> Proof:
        """Which of two effects an event has."""
        rng, case = builder.rng, self._case(builder)
        others = sorted({BREAK, TEAR, BURN, RUST, WET, HOT, NOTHING} - {case.outcome})
        one, two = rng.sample([ASKED[case.outcome], ASKED[rng.choice(others)]], 2)
        event = self._tell(builder, case, rng.choice(people()).name)
        question = builder.template(EFFECT).format(event=event, one=one, two=two, One=one[0].upper() + one[1:])
        result = OUTCOMES[case.outcome]
        return Proof(question, [*case.steps, f"So {result}"], result, (case,), (f"the {case.thing}{result[2:]}",))

    def cause(self, builder: Builder) -> Proof:
        """Which of two events explains an effect."""
        rng, case, other = builder.rng, self._case(builder), self._case(builder)
        while case.outcome == NOTHING or other.outcome == case.outcome or other.thing == case.thing:
            builder.keys -= {case.key, other.key}
            case, other = self._case(builder), self._case(builder)
        name = rng.choice(people()).name
        first, second = rng.sample([self._tell(builder, case, name), self._tell(builder, other, name)], 2)
        outcome = OUTCOMES[case.outcome]
        told = outcome[0].upper() + outcome[1:]
        question = builder.template(CAUSE).format(event=first, other=second, name=name, outcome=told)
        result = f"the {case.thing} {case.event.told}"
        forms = (f"because {result}",)
        return Proof(question, [*case.steps, f"So {outcome}"], result, (case, other), forms)

    def knowledge(self, rng: random.Random) -> str:
        """The facts about a thing of the training part, as a text."""
        case = rng.choice(self.cases["train"])
        return (
            f"{case.steps[0]}. {case.rule}. If {with_article(case.thing)} {case.event.told}, {OUTCOMES[case.outcome]}."
        )

    def _case(self, builder: Builder) -> Case:
        case = builder.rng.choice(self.cases[builder.part])
        builder.keys.add(case.key)
        return case

    def _tell(self, builder: Builder, case: Case, name: str) -> str:
        its = f"{name}'s {case.thing}"
        text = builder.template(case.event.wording)
        if "{name}" in text:
            return text.format(name=name, its=f"the {case.thing}")
        return text.format(its=its, Its=its)
