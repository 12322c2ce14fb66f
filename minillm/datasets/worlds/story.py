"""Stories with their facts: what the exercises about stories ask for.

A story is generated in sections: its opening, ..., and last its ending, the only section in which a story that ends
well differs from one that ends badly. What the generator remembers are its facts; a few more, such as the house of the
hero, are read from the text. A story belongs to the part of the data of its hero, friend and place together, so the
three of a test story never meet in training. Read before: `stories`, `exercise`.
"""

import random
import re
from collections.abc import Mapping
from typing import NamedTuple

from minillm.datasets.grammar import Note, Rule, Tale
from minillm.datasets.grammar_words import with_article
from minillm.datasets.stories import World
from minillm.datasets.worlds.exercise import Part, part_of

LISTED = ("thing", "find", "vessel", "tool", "craft", "block", "loot", "food", "animal", "bug")  # classes of objects
COMPARISON = re.compile(r"as quiet as an? \w+ \w+")  # an animal in it is not in the story
WORD = re.compile(r"[A-Za-z]+")
IN_OPENING = (  # facts that are read from the text, by the names of the groups
    re.compile(r"\ban? (?P<trait>\w+) (?:girl|boy)\b"),
    re.compile(r"\b(?:[Ii]n|from) an? (?P<homelook>\w+) (?P<home>\w+)"),
    re.compile(r"near the (?P<landmark>\w+)"),
)
IN_STORY = (
    re.compile(r"carrying an? (?P<find_look>\w+) (?P<find>\w+)\."),
    re.compile(r"came an? (?P<friend_trait>\w+) (?:girl|boy) called"),
    re.compile(r"dressed like (?P<costume>an? \w+ \w+)\."),
    re.compile(r"was fond of (?P<fond>\w+)\."),
    re.compile(r"(?:They found|in the ground were) \w+ (?!boxes)(?P<loot>\w+)\."),
)
WITH_ARTICLE = ("thing", "animal", "craft", "tool", "home", "find")


class Story(NamedTuple):
    """A story: its sections in order, and what the generator remembers of it, each with its forms."""

    sections: tuple[str, ...]
    state: dict[str, list[str]]

    @property
    def text(self) -> str:
        return " ".join(self.sections)

    @property
    def beginning(self) -> str:
        """All but the ending: what precedes the outcome."""
        return " ".join(self.sections[:-1])

    @property
    def key(self) -> str:
        """The facts that decide to which part of the data it belongs."""
        return key_of(self.state)


def fact(*values: str) -> str:
    """The key of a combination of facts.

    >>> fact("Anna", "garden")
    'fact: Anna + garden'
    """
    return "fact: " + " + ".join(values)


def key_of(state: Mapping[str, list[str]]) -> str:
    """The key of a story that is remembered so."""
    return fact(*(state[name][0] for name in ("hero", "friend", "place")))


class Stories:
    """A source of stories with their facts."""

    def __init__(self):
        self.world = World()
        grammar = self.world.grammar
        self.opening = grammar.rules["opening"]
        self.plots = grammar.rules["tale"].alternatives
        self.endings = {
            (noted(nodes[0]), noted(ending[0])): ending for nodes in self.plots for ending in nodes[-1].alternatives
        }
        self.words = {name: [entry[0] for entry in words.entries] for name, words in grammar.words.items()}
        self.listed = {word for name in LISTED for word in self.words[name]}
        self.at = {name: grammar.words[name].fields.index("at") for name in ("place", "spot")}
        self.pronouns = {name: grammar.words["hero"].fields.index(name) for name in ("he", "his", "child")}

    def draw(self, rng: random.Random, part: Part) -> Story:
        """Draw a story of a part of the data; each of them is as probable as in the world of stories."""
        while True:
            tale, sections = Tale(rng.random), []
            for node in (self.opening, *rng.choice(self.plots)):
                start = len(tale.out)
                node.write(tale)
                if isinstance(node, Rule):  # else a space, or the name of the plot
                    sections.append("".join(tale.out[start:]))
                if "friend" in tale.state and part_of(key_of(tale.state)) != part:
                    break  # the friend is the last fact of the key, so the rest need not be written
            else:
                return Story(tuple(sections), tale.state)

    def with_ending(self, rng: random.Random, story: Story, outcome: str) -> Story:
        """The same story with another ending: its outcome is `outcome`, "good" or "bad"."""
        tale = Tale(rng.random)
        tale.state = dict(story.state)
        for node in self.endings[story.state["plot"][0], outcome]:
            node.write(tale)
        return Story((*story.sections[:-1], "".join(tale.out)), tale.state)

    def place_at(self, place: str) -> str:
        """A place with its preposition, such as "in the garden"."""
        entries = self.world.grammar.words["place"].entries
        return next(entry[self.at["place"]] for entry in entries if entry[0] == place)

    def facts(self, story: Story) -> dict[str, str]:
        """The facts of a story by their names, to be filled into questions and answers.

        As `World.facts`, with numbers as words, and: home, homelook, landmark, trait, find, friend_trait, costume,
        fond and loot, where the story tells them; place_at ("in the garden"); he, his and child of the hero; a_thing
        and others with their article; well ("well" or "badly"); winner.
        """
        state = story.state
        facts = {name: forms[0] for name, forms in state.items()}
        for name, column in self.at.items():
            if name in state:
                facts[f"{name}_at"] = state[name][column]
        for name, column in self.pronouns.items():
            facts[name], facts[f"friend_{name}"] = state["hero"][column], state["friend"][column]
        text = story.text
        for pattern, where in (*((p, story.sections[0]) for p in IN_OPENING), *((p, text) for p in IN_STORY)):
            if found := pattern.search(where):
                facts |= found.groupdict()
        facts |= {f"a_{name}": with_article(facts[name]) for name in WITH_ARTICLE if name in facts}
        good = facts["outcome"] == "good"
        return facts | {"well": "well" if good else "badly", "winner": facts["hero" if good else "friend"]}

    def objects(self, text: str) -> list[str]:
        """The things, foods and animals that a text names, each once, in order; not what is only compared or imagined.

        >>> Stories().objects("The park was as quiet as a hungry ant. The fox had a kite and apples. The fox ran.")
        ['fox', 'kite', 'apples']
        """
        words = WORD.findall(COMPARISON.sub("", text))
        return list(dict.fromkeys(word for word in words if word in self.listed))


def noted(node: Note) -> str:
    """The fact that a node of the grammar notes: the name of a plot, or an outcome."""
    return node.entry[0]
