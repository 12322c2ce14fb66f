"""Questions about a story, each with its answer; and questions that the story does not answer.

A question is a row of a table with {slots} for facts. A row fits a story in which all its facts are told. If only those
of its answer are missing, the story does not say. Every question has two forms, "Where was Anna?" and "where Anna was",
which the wordings put into their frames. Read before: `story`.
"""

import random
from collections.abc import Mapping, Sequence
from functools import cache
from string import Formatter
from typing import NamedTuple

from minillm.datasets.worlds.answers import normal
from minillm.datasets.worlds.story import WORD, Stories, Story
from minillm.datasets.worlds.story_question_table import EVERY, NEVER, OF_OTHERS, OF_PLOT, PLOTS, SOME, Row

REFUSAL = "The story does not say."


class Question(NamedTuple):
    """A question about one story, and its answer; see `Row`."""

    kind: str
    ask: str
    clause: str
    answer: str
    form: str = ""
    told_with: str = ""

    @property
    def accepted(self) -> frozenset[str]:
        """The normal forms of all right answers."""
        return frozenset(normal(answer) for answer in (self.answer, self.form) if answer)


class Slots(dict):
    """Facts to be filled into {slots}; {Name} is the fact "name" with a capital letter."""

    def __missing__(self, slot: str) -> str:
        name = slot[0].lower() + slot[1:]
        if name == slot:
            raise KeyError(slot)
        return self[name][0].upper() + self[name][1:]


def fill(pattern: str, facts: Mapping[str, str]) -> str:
    """A pattern with its slots filled.

    >>> fill("{Place_at}, {hero} sat.", {"hero": "Anna", "place_at": "in the garden"})
    'In the garden, Anna sat.'
    """
    return pattern.format_map(Slots(facts))


@cache
def slots(pattern: str) -> frozenset[str]:
    """The names of the facts that a pattern needs.

    >>> sorted(slots("{Place_at}, {hero} sat."))
    ['hero', 'place_at']
    """
    names = [name for _, name, _, _ in Formatter().parse(pattern) if name]
    return frozenset(name[0].lower() + name[1:] for name in names)


def is_told(pattern: str, facts: Mapping[str, str]) -> bool:
    """Whether a story tells all facts of a pattern."""
    return slots(pattern) <= facts.keys()


def questions(facts: Mapping[str, str]) -> list[Question]:
    """All questions that a story of these facts answers."""
    plot, outcome = facts["plot"], facts["outcome"]
    rows = EVERY + SOME + OF_PLOT[plot] + OF_PLOT.get(f"{plot} {outcome}", [])
    return [filled(row, facts) for row in rows if is_told(row.ask + row.answer, facts)]


def filled(row: Row, facts: Mapping[str, str]) -> Question:
    """The question of a row about a story of these facts."""
    ask, clause, answer, form = (fill(pattern, facts) for pattern in row[1:5])
    return Question(row.kind, ask, clause, answer, form, row.told_with)


def one_for_each_answer(rng: random.Random, asked: Sequence[Question]) -> list[Question]:
    """Questions in random order, no two of them with the same answer."""
    by_answer = {question.answer: question for question in rng.sample(asked, len(asked))}
    return rng.sample(list(by_answer.values()), len(by_answer))


def passage(rng: random.Random, story: Story, facts: Mapping[str, str], question: Question) -> str:
    """A story, or for a question that is decided by a beginning of it, often no more than that."""
    if not question.told_with:
        return story.text
    last = rng.randrange(first_naming(story, facts[question.told_with]), len(story.sections))
    return " ".join(story.sections[: last + 1])


def first_naming(story: Story, word: str) -> int:
    """The number of the first section that contains a word."""
    return next(i for i, section in enumerate(story.sections) if word in WORD.findall(section))


def unanswered(rng: random.Random, stories: Stories, story: Story, facts: Mapping[str, str]) -> tuple[str, Question]:
    """A question that a story does not answer, and the story or a beginning of it.

    It asks for what other stories tell, or no story, for somebody or something else, or for what comes later.
    """
    untold = [row for row in SOME if not is_told(row.answer, facts)]
    elsewhere = [row for plot in PLOTS if plot != facts["plot"] for row in OF_PLOT[plot] if row.only_here]
    ways = ["never", "others", "elsewhere", "later"] + ["untold"] * bool(untold)
    match rng.choice(ways):
        case "untold":
            row = rng.choice(untold)
            question = refused(row.ask, row.clause, facts)
            return passage(rng, story, facts, question._replace(told_with=row.told_with)), question
        case "later":
            row = rng.choice([row for row in EVERY if row.answer == "{friend}."])
            last = rng.randrange(first_naming(story, facts["friend"]))
            return " ".join(story.sections[: last + 1]), refused(row.ask, row.clause, facts)
        case "elsewhere":
            row = rng.choice([row for row in elsewhere if is_told(row.ask, facts)])
            return story.text, refused(row.ask, row.clause, facts)
        case "never":
            return story.text, refused(*rng.choice(NEVER), facts)
    others = {
        "stranger": other_than(rng, stories.words["hero"] + stories.words["friend"], story.text),
        "absent_thing": other_than(rng, stories.words["thing"], story.text),
        "absent_food": other_than(rng, stories.words["food"], story.text),
    }
    return story.text, refused(*rng.choice(OF_OTHERS), {**facts, **others})


def refused(ask: str, clause: str, facts: Mapping[str, str]) -> Question:
    """A question whose right answer is that the story does not say."""
    return Question("unanswered", fill(ask, facts), fill(clause, facts), REFUSAL)


def other_than(rng: random.Random, words: list[str], text: str) -> str:
    """One of these words that a text does not contain."""
    present = set(WORD.findall(text))
    return rng.choice([word for word in words if word not in present])
