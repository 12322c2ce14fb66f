"""Summaries: two sentences that say who did what and where, whom they met, and how it ended.

A summary is a fixed form filled with facts, so two summaries of one form are equal exactly if their facts are. The
other forms say the same in other words; whether two of them agree must be decided from the facts. Read before:
`story_questions`.
"""

import random
from collections.abc import Mapping
from typing import NamedTuple

from minillm.datasets.grammar_words import with_article
from minillm.datasets.worlds.exercise import Part, part_of
from minillm.datasets.worlds.story import Stories, fact
from minillm.datasets.worlds.story_questions import fill

AGREE = "They agree."
DID = {  # what the hero of each plot did, and the fact that is its object
    "lost": ("lost {a_thing}", "thing"),
    "broken": ("broke {a_thing}", "thing"),
    "trade": ("traded away {a_thing}", "thing"),
    "owner": ("found {a_thing}", "thing"),
    "market": ("sold {food}", "food"),
    "share": ("had {food}", "food"),
    "garden": ("planted {flower}", "flower"),
    "rescue": ("found {a_animal}", "animal"),
    "race": ("raced to the {goal}", "goal"),
    "contest": ("made {a_craft}", "craft"),
    "map": ("found a map", ""),
    "fog": ("followed {a_animal}", "animal"),
    "tower": ("built a tower of {block}", "block"),
    "party": ("gave a party with {food}", "food"),
}
FORMS = [  # {did} is what the hero did; the first form is that of a summary
    "{hero} {did} {place_at} and met {friend}. It ended {well}.",
    "{hero} met {friend} {place_at} and {did}. It ended {well}.",
    "{friend} met {hero}, who {did} {place_at}. It ended {well}.",
    "{Place_at} {hero} met {friend} and {did}. It ended {well}.",
    "It ended {well} when {hero} {did} {place_at} and met {friend}.",
    "{hero} was {place_at}. {hero} met {friend} and {did}. It ended {well}.",
    "It ended {well}. {hero} met {friend} {place_at} and {did}.",
    "{friend} was {place_at} and met {hero}, who {did}. It ended {well}.",
]


class Difference(NamedTuple):
    """A fact that was changed: what it is called, and all facts after the change."""

    name: str
    facts: dict[str, str]


def summary(facts: Mapping[str, str], form: str = FORMS[0]) -> str:
    """The facts of a story in two sentences."""
    did, _ = DID[facts["plot"]]
    return fill(form, {**facts, "did": fill(did, facts)})


def changed(rng: random.Random, stories: Stories, facts: Mapping[str, str], part: Part) -> Difference:
    """Change one fact of a summary, such that its facts stay in their part of the data."""
    _, thing = DID[facts["plot"]]
    while True:
        name = rng.choice(["hero", "friend", "place", "ending"] + [thing] * bool(thing))
        if name == "ending":
            return Difference(name, {**facts, "well": "badly" if facts["well"] == "well" else "well"})
        others = [{**facts, name: word} for word in stories.words[name] if word != facts[name]]
        allowed = [new for new in others if part_of(key_of_summary(new)) == part]
        if allowed:  # else change another fact
            break
    new = rng.choice(allowed)
    if name == "place":
        new["place_at"] = stories.place_at(new["place"])
    new[f"a_{name}"] = with_article(new[name])
    return Difference(name if name in ("hero", "friend", "place") else "thing", new)


def key_of_summary(facts: Mapping[str, str]) -> str:
    """The key of a summary, that of the stories which it may be of."""
    return fact(facts["hero"], facts["friend"], facts["place"])
