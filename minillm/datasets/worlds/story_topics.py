"""Topics of a story and predicates that several of them have, with different answers.

    predicate: What was {x} like?     topics: the hut (tiny), the fossil (rusty)

So "And the fossil?" has an answer only after a question, and "What was it like?" only after a topic. Read before:
`story_questions`.
"""

import random
import re
from collections.abc import Mapping
from typing import NamedTuple

from minillm.datasets.grammar_words import with_article
from minillm.datasets.worlds.answers import normal
from minillm.datasets.worlds.story import COMPARISON, Stories, Story
from minillm.datasets.worlds.story_questions import Question, fill, other_than, questions

DESCRIBED = ("home", "find", "vessel", "animal")  # classes of words that have one adjective in a story
DESCRIPTION = re.compile(r"\b[Aa]n? (\w+) (\w+)\b")
COUNTED = {  # plot, or plot and outcome: what both hero and friend have a number of
    "contest": ("How many hours did {x} work?", "how many hours {x} worked", "n", "left"),
    "share good": ("How many {food} did {x} have in the end?", "how many {food} {x} had in the end", "left", "k"),
    "map good": ("How many {loot} did {x} get?", "how many {loot} {x} got", "left", "k"),
}


class Topic(NamedTuple):
    """The subject of a question: a person or a thing."""

    name: str  # "Anna" or "the hut"
    title: str  # what it may be called instead: "the hero", "the friend", or the name
    pronoun: str


class Predicate(NamedTuple):
    """A question about any of several topics; {x} is the topic, by its name or a pronoun."""

    ask: str
    clause: str
    answers: dict[Topic, tuple[str, str]]  # of each topic: a right answer, and a shorter one

    def of(self, topic: Topic, x: str) -> Question:
        """The question about a topic, which it calls `x`."""
        return Question("", self.ask.format(x=x), self.clause.format(x=x), *self.answers[topic])

    def ambiguous(self) -> list[Topic]:
        """The topics whose pronoun could as well stand for another one, with another answer."""
        return [
            topic
            for topic in self.answers
            if any(
                other.pronoun == topic.pronoun and self.answers[other] != self.answers[topic] for other in self.answers
            )
        ]


def predicates(stories: Stories, story: Story, facts: Mapping[str, str]) -> list[Predicate]:
    """The predicates that at least two topics of a story have."""
    hero = Topic(facts["hero"], "the hero", facts["he"])
    friend = Topic(facts["friend"], "the friend", facts["friend_he"])
    found = [
        Predicate(
            "Is {x} a girl or a boy?",
            "whether {x} is a girl or a boy",
            {hero: (f"A {facts['child']}.", ""), friend: (f"A {facts['friend_child']}.", "")},
        ),
        Predicate(
            "Is {x} the hero or the friend?",
            "whether {x} is the hero or the friend",
            {topic._replace(title=topic.name): (f"{topic.title.capitalize()}.", "") for topic in (hero, friend)},
        ),
    ]
    adjectives = {hero: facts["trait"]} | ({friend: facts["friend_trait"]} if "friend_trait" in facts else {})
    adjectives |= described(stories, story.text)
    if len(adjectives) > 1:
        found.append(likeness(adjectives))
    for plot in (facts["plot"], f"{facts['plot']} {facts['outcome']}"):
        if plot in COUNTED:
            ask, clause, *counts = COUNTED[plot]
            numbers = {
                topic: (f"{facts[name].capitalize()}.", "") for topic, name in zip((hero, friend), counts, strict=True)
            }
            found.append(Predicate(*(fill(pattern, {**facts, "x": "{x}"}) for pattern in (ask, clause)), numbers))
    return found


def likeness(adjectives: Mapping[Topic, str]) -> Predicate:
    """The predicate of what these topics were like."""
    answers = {topic: (f"{topic.pronoun.capitalize()} was {word}.", word) for topic, word in adjectives.items()}
    return Predicate("What was {x} like?", "what {x} was like", answers)


def described(stories: Stories, text: str) -> dict[Topic, str]:
    """The things of a story that it describes by exactly one adjective."""
    nouns = {noun for name in DESCRIBED for noun in stories.words[name]}
    adjectives: dict[str, set[str]] = {}
    for adjective, noun in DESCRIPTION.findall(COMPARISON.sub("", text)):
        if noun in nouns:
            adjectives.setdefault(noun, set()).add(adjective)
    return {
        Topic(f"the {noun}", f"the {noun}", "it"): words.pop() for noun, words in adjectives.items() if len(words) == 1
    }


def introductions(facts: Mapping[str, str], topic: Topic) -> list[Question]:
    """Questions after which a conversation is about a topic, because they are answered by it."""
    found = [question for question in questions(facts) if normal(question.answer) == normal(topic.name)]
    return found + ([presence(topic.name.removeprefix("the "), True)] if topic.pronoun == "it" else [])


def presence(noun: str, is_there: bool) -> Question:
    """The question whether a thing is in the story."""
    noun, answer = with_article(noun), "Yes." if is_there else "No."
    return Question("", f"Is there {noun} in the story?", f"whether there is {noun} in the story", answer)


def presences(rng: random.Random, stories: Stories, text: str) -> list[Question]:
    """Questions whether a thing or an animal is in a text: about one that is, if there is any, and one that is not."""
    nouns = [noun for name in ("find", "animal") for noun in stories.words[name]]
    there = [presence(noun, True) for noun in stories.objects(text) if noun in nouns]
    return [*there[:1], presence(other_than(rng, nouns, text), False)]
