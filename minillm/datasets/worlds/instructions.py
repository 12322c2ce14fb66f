"""Instructions about stories: write, continue, mend and shorten them, answer questions, list, compare, and refuse.

Of the questions some have no answer in the story; there a refusal is right, and everywhere else it is wrong. A written
story is parsed: it must be a story of this world with the properties that were asked for. Short answers have a normal
form, in which they must be equal. Read before: `exercise`, `story_questions`, `story_summaries`.
"""

import random
from collections.abc import Mapping, Sequence
from functools import partial
from typing import NamedTuple

from minillm.datasets.worlds import story_wordings as wordings
from minillm.datasets.worlds.answers import normal
from minillm.datasets.worlds.exercise import Exercise, ExerciseWorld, Part, choose, part_of
from minillm.datasets.worlds.story import WORD, Stories, fact
from minillm.datasets.worlds.story_excerpts import about_excerpt, excerpt
from minillm.datasets.worlds.story_questions import (
    Question,
    fill,
    one_for_each_answer,
    passage,
    questions,
    unanswered,
)
from minillm.datasets.worlds.story_summaries import AGREE, FORMS, changed, key_of_summary, summary
from minillm.tokenizers.chat import split_thought

ABOUT = {  # properties of a story, as a wish says them
    "hero": "about {hero}",
    "object": "with {a_object}",
    "friend": "with a friend called {friend}",
    "place": "set {place_at}",
    "outcome": "that ends {well}",
}
ANSWERED = ("who", "what", "where", "how many", "why", "ending")  # kinds of questions that the story answers
N_ASKED = 6, 12  # fewest and most questions of a quiz, as far as a story has different answers
SHORT = 0.7  # share of short documents, from which a model learns to look something up
QUIZZES = ("Q: {ask}\nA: {answer}", "Question: {ask} Answer: {answer}", "{ask} {answer}")
PLAIN = {  # requests and their answers as plain text
    "write": "A story {wish}.\n{answer}",
    "continue": "{beginning} {answer}",
    "happier": "{story}\nA happier ending: {answer}",
    "shorten": "{story}\nIn short: {answer}",
    "list": "{story}\n{answer}",
    "compare": "First story: {first}\nSecond story: {second}\n{answer}",
    "unanswered": "{story}\nQ: {ask}\nA: {answer}",
}


class Request(NamedTuple):
    """An instruction without its wording: slots, a right answer, the truth to judge by, and keys of facts."""

    wordings: list[str]
    slots: dict[str, str]
    answer: str
    truth: object
    keys: frozenset[str]


class Wanted(NamedTuple):
    """A text that is judged by parsing: after `beginning` it is a story, and the story has these properties."""

    beginning: str
    properties: dict[str, str]


class Instructions(ExerciseWorld):
    """Instructions about stories and their answers."""

    name = "instructions"

    def __init__(self):
        self.stories = Stories()
        self.kinds = {
            "write": self.write,
            "continue": self.go_on,
            "happier": self.happier,
            "shorten": self.shorten,
            "list": self.name_objects,
            "compare": self.compare,
            "unanswered": self.refuse,
            **{kind: partial(self.answer, kind) for kind in ANSWERED},
        }

    def draw(self, rng: random.Random, part: Part) -> Exercise:
        kind = rng.choice(list(self.kinds))
        request = self.kinds[kind](rng, part)
        wording = choose(rng, request.wordings, part)
        return Exercise(
            kind=kind,
            messages=({"role": "user", "content": wording.format(**request.slots)},),
            answer={"role": "assistant", "content": request.answer},
            keys=request.keys | {f"template: {wording}"},
            truth=request.truth,
        )

    def is_right(self, exercise: Exercise, answer: str) -> bool:
        _, content = split_thought(answer)
        if isinstance(exercise.truth, Wanted):
            text = f"{exercise.truth.beginning} {content.strip()}".strip()
            return self.has_properties(text, exercise.truth.properties)
        return normal(content) in exercise.truth

    def has_properties(self, text: str, properties: Mapping[str, str]) -> bool:
        """Whether a text is a story of this world and has these properties."""
        if not self.stories.world.is_valid(text):
            return False
        facts = self.stories.world.facts(text)
        words = WORD.findall(text)
        return all(value in words if name == "object" else facts[name] == value for name, value in properties.items())

    # Each method below draws the request of one kind from a part of the data.

    def write(self, rng: random.Random, part: Part) -> Request:
        while True:
            story = self.stories.draw(rng, part)
            facts = self.with_object(rng, self.stories.facts(story))
            names = sorted(rng.sample(list(ABOUT), rng.choice((2, 3))), key=list(ABOUT).index)
            properties = {name: facts[name] for name in names if name in facts}
            key = fact(*properties.values())
            if len(properties) > 1 and part_of(key) == part:
                slots = {"wish": wish(properties, facts)}
                return Request(wordings.STORIES, slots, story.text, Wanted("", properties), frozenset({key, story.key}))

    def with_object(self, rng: random.Random, facts: dict[str, str]) -> dict[str, str]:
        """Facts with one more, the "object" of the story, if it has any."""
        names = [name for name in ("thing", "animal", "food") if name in facts]
        if not names:
            return facts
        name = rng.choice(names)
        return facts | {"object": facts[name], "a_object": facts.get(f"a_{name}", facts[name])}

    def go_on(self, rng: random.Random, part: Part) -> Request:
        story = self.stories.draw(rng, part)
        last = rng.randint(1, 3)  # sections to write
        slots = {"beginning": " ".join(story.sections[:-last])}
        answer = " ".join(story.sections[-last:])
        return Request(wordings.CONTINUATIONS, slots, answer, Wanted(slots["beginning"], {}), frozenset({story.key}))

    def happier(self, rng: random.Random, part: Part) -> Request:
        story = self.stories.with_ending(rng, self.stories.draw(rng, part), "bad")
        answer = self.stories.with_ending(rng, story, "good").sections[-1]
        truth = Wanted(story.beginning, {"outcome": "good"})
        return Request(wordings.HAPPIER, {"story": story.text}, answer, truth, frozenset({story.key}))

    def shorten(self, rng: random.Random, part: Part) -> Request:
        story = self.stories.draw(rng, part)
        answer = summary(self.stories.facts(story))
        right, keys = frozenset({normal(answer)}), frozenset({story.key})
        return Request(wordings.SUMMARIES, {"story": story.text}, answer, right, keys)

    def name_objects(self, rng: random.Random, part: Part) -> Request:
        while not (objects := self.stories.objects((story := self.stories.draw(rng, part)).text)):
            pass
        answer = listed(objects)
        right, keys = frozenset({normal(answer), normal(", ".join(objects))}), frozenset({story.key})
        return Request(wordings.LISTS, {"story": story.text}, answer, right, keys)

    def compare(self, rng: random.Random, part: Part) -> Request:
        facts = self.stories.facts(self.stories.draw(rng, part))
        first, second, answer, other = self.pair(rng, facts, part)
        slots, keys = {"first": first, "second": second}, frozenset({key_of_summary(facts), key_of_summary(other)})
        return Request(wordings.COMPARISONS, slots, answer, frozenset({normal(answer)}), keys)

    def pair(self, rng: random.Random, facts: dict[str, str], part: Part) -> tuple[str, str, str, dict[str, str]]:
        """Two summaries that agree, or differ in one fact; what to say of them; and the facts of the second."""
        one, two = rng.sample(FORMS, 2)
        if rng.random() < 0.5:
            return summary(facts, one), summary(facts, two), AGREE, facts
        name, other = changed(rng, self.stories, facts, part)
        return summary(facts, one), summary(other, two), f"The {name} differs.", other

    def answer(self, kind: str, rng: random.Random, part: Part) -> Request:
        while True:
            story = self.stories.draw(rng, part)
            facts = self.stories.facts(story)
            fitting = [question for question in questions(facts) if question.kind == kind]
            if fitting:
                question = rng.choice(fitting)
                slots = {"story": passage(rng, story, facts, question), "ask": question.ask, "clause": question.clause}
                keys = frozenset({story.key})
                return Request(wordings.QUESTIONS, slots, question.answer, question.accepted, keys)

    def refuse(self, rng: random.Random, part: Part) -> Request:
        story = self.stories.draw(rng, part)
        text, question = unanswered(rng, self.stories, story, self.stories.facts(story))
        slots = {"story": text, "ask": question.ask, "clause": question.clause}
        return Request(wordings.QUESTIONS, slots, question.answer, question.accepted, frozenset({story.key}))

    def document(self, rng: random.Random) -> str:
        if rng.random() < SHORT:
            return self.short_document(rng)
        kind = rng.choice(list(self.kinds))
        return self.questioned(rng) if kind in ANSWERED else self.plain(kind, rng)

    def questioned(self, rng: random.Random) -> str:
        """A document about a whole story: questions, a summary, and its objects."""
        story = self.stories.draw(rng, "train")
        facts, objects = self.stories.facts(story), self.stories.objects(story.text)
        lines = [quiz(rng, story.text, questions(facts)), f"In short: {summary(facts)}"]
        return "\n".join(lines + [listed(objects)] * bool(objects))

    def short_document(self, rng: random.Random) -> str:
        """A document about an excerpt of a story, or about two summaries."""
        kind = rng.choice(("quiz", "quiz", "quiz", "list", "compare"))
        if kind == "compare":
            return self.plain(kind, rng)
        story = self.stories.draw(rng, "train")
        text = excerpt(rng, story)
        if kind == "list" and (objects := self.stories.objects(text)):
            return PLAIN[kind].format(story=text, answer=listed(objects))
        return quiz(rng, text, about_excerpt(rng, self.stories, text, self.stories.facts(story)))

    def plain(self, kind: str, rng: random.Random) -> str:
        """A request and its answer as plain text."""
        request = self.kinds[kind](rng, "train")
        return PLAIN[kind].format(answer=request.answer, **request.slots)


def quiz(rng: random.Random, text: str, asked: Sequence[Question]) -> str:
    """A text and some of the questions about it, no two of the same answer."""
    style = rng.choice(QUIZZES)
    asked = one_for_each_answer(rng, asked)[: rng.randint(*N_ASKED)]
    return "\n".join([text, *(style.format(ask=question.ask, answer=question.answer) for question in asked)])


def wish(properties: Mapping[str, str], facts: Mapping[str, str]) -> str:
    """The wished properties of a story, in words.

    >>> wish({"hero": "Anna", "outcome": "good"}, {"hero": "Anna", "well": "well"})
    'about Anna, that ends well'
    """
    return ", ".join(fill(ABOUT[name], facts) for name in properties)


def listed(objects: list[str]) -> str:
    """A list in one sentence.

    subtle: it begins with a word of its own, since a tokenizer writes "fox" after a space and at the beginning of a
    text in different pieces, and a small model copies pieces.

    >>> listed(["fox", "kite"])
    'Objects: fox, kite.'
    """
    return f"Objects: {', '.join(objects)}."
