"""Excerpts of stories, and questions about them: short texts, in which a model learns to look something up.

A question is answered by an excerpt that has all words of its answer, and all facts that the question names. If the
excerpt has no word of the answer, the story does not say. Read before: `story_questions`, `story_topics`.
"""

import random
from collections.abc import Mapping

from minillm.datasets.worlds.answers import normal
from minillm.datasets.worlds.story import WORD, Stories, Story
from minillm.datasets.worlds.story_questions import Question, questions, refused
from minillm.datasets.worlds.story_topics import described, likeness, presences

MOST_SECTIONS = 3


def excerpt(rng: random.Random, story: Story) -> str:
    """One to three sections of a story."""
    first = rng.randrange(len(story.sections))
    return " ".join(story.sections[first : first + rng.randint(1, MOST_SECTIONS)])


def about_excerpt(rng: random.Random, stories: Stories, text: str, facts: Mapping[str, str]) -> list[Question]:
    """Questions about an excerpt of a story of these facts: all that it answers, and one that it does not, if any."""
    words, everything = words_of(text), questions(facts)
    answered = [question for question in everything if is_answered(question, words, facts)]
    missing = [question for question in everything if not words & needed(question)]
    alike = likeness(described(stories, text))
    return [
        *answered,
        *(alike.of(topic, topic.name) for topic in alike.answers),
        *presences(rng, stories, text),
        *(refused(question.ask, question.clause, {}) for question in rng.sample(missing, min(1, len(missing)))),
    ]


def is_answered(question: Question, words: set[str], facts: Mapping[str, str]) -> bool:
    """Whether these words of a text have the answer to a question, and all facts that the question names."""
    named = words_of(question.ask) & {value.lower() for value in facts.values()}
    return named | needed(question) <= words


def needed(question: Question) -> set[str]:
    """The words of the shortest right answer."""
    return words_of(normal(question.form or question.answer))


def words_of(text: str) -> set[str]:
    """The words of a text in lower case."""
    return set(WORD.findall(text.lower()))
