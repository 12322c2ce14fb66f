"""Dialogue about a story, in which the right answer to the last question depends on an earlier turn.

    What was the hut like?          It was tiny.
    And the fossil?                 It was rusty.         (ellipsis: the same question about another thing)

A pronoun stands for what the turn before was about, a correction repeats the question of the turn before, and what the
user told about themselves is asked for later. So a model that reads only the story and the last question fails. Read
before: `exercise`, `story_questions`.
"""

import random
from collections.abc import Mapping, Sequence

from minillm.datasets.worlds import story_wordings as wordings
from minillm.datasets.worlds.answers import normal
from minillm.datasets.worlds.exercise import Exercise, ExerciseWorld, Part, choose, part_of
from minillm.datasets.worlds.story import WORD, Stories, fact
from minillm.datasets.worlds.story_questions import Question, one_for_each_answer, questions
from minillm.datasets.worlds.story_topics import Predicate, Topic, introductions, predicates, presences
from minillm.tokenizers.chat import Message, split_thought

NEED_EARLIER = ("pronoun", "ellipsis", "correction", "told")  # kinds whose answer depends on an earlier turn
NO_QUESTION: frozenset[str] = frozenset()  # right answers to what is no question
PLAIN = (("", ""), ("Q: ", "A: "), ("Question: ", "Answer: "))  # what precedes each turn in a text without roles


class Dialogue(ExerciseWorld):
    """Conversations about stories."""

    name = "dialogue"

    def __init__(self):
        self.stories = Stories()
        self.kinds = {
            "direct": self.direct,
            "pronoun": self.pronoun,
            "ellipsis": self.ellipsis,
            "correction": self.correction,
            "told": self.told,
        }

    def draw(self, rng: random.Random, part: Part) -> Exercise:
        kind = rng.choice(list(self.kinds))
        return self.kinds[kind](rng, part)

    def is_right(self, exercise: Exercise, answer: str) -> bool:
        _, content = split_thought(answer)
        return normal(content) in exercise.truth

    def document(self, rng: random.Random) -> str:
        exercise = self.draw(rng, "train")
        asked, answered = rng.choice(PLAIN)
        starts = {"user": asked, "assistant": answered}
        turns = [*exercise.messages, exercise.answer]
        return "\n".join(starts[turn["role"]] + turn["content"] for turn in turns)

    # Each method below draws an exercise of one kind from a part of the data.

    def direct(self, rng: random.Random, part: Part) -> Exercise:
        talk = Talk(rng, part, self.stories)
        talk.ask_some(rng.randint(3, 7))
        return talk.exercise("direct")

    def pronoun(self, rng: random.Random, part: Part) -> Exercise:
        while True:
            talk = Talk(rng, part, self.stories)
            choices = [(predicate, topic) for predicate in talk.predicates for topic in predicate.ambiguous()]
            if choices:
                return about_pronoun(talk, *rng.choice(choices))

    def ellipsis(self, rng: random.Random, part: Part) -> Exercise:
        talk = Talk(rng, part, self.stories)
        predicate = rng.choice(talk.predicates)
        n_topics = min(rng.choice((2, 2, 3)), len(predicate.answers))
        return about_other("ellipsis", wordings.OTHERS, talk, predicate, rng.sample(list(predicate.answers), n_topics))

    def correction(self, rng: random.Random, part: Part) -> Exercise:
        talk = Talk(rng, part, self.stories)
        predicate = rng.choice(talk.predicates)
        return about_other("correction", wordings.CORRECTIONS, talk, predicate, rng.sample(list(predicate.answers), 2))

    def told(self, rng: random.Random, part: Part) -> Exercise:
        talk = Talk(rng, part, self.stories)
        while not (names := talk.names(food := rng.choice(self.stories.words["food"]))):
            pass
        name = rng.choice(names)
        talk.introduce(wordings.INTRODUCTIONS, name, food)
        talk.ask_some(rng.randint(1, 4))
        if rng.random() < 0.4 and (names := talk.names(food)):
            name = rng.choice(names)
            talk.introduce(wordings.RENAMINGS, name, food)
        my_name, my_food = f"Your name is {name}.", f"You like {food}."
        asked = [
            Question("", "What is my name?", "what my name is", my_name, name),
            Question("", "What do I like?", "what I like", my_food, food),
        ]
        talk.ask(rng.choice(asked))
        return talk.exercise("told")


class Talk:
    """A conversation under construction, about one story of a part of the data."""

    def __init__(self, rng: random.Random, part: Part, stories: Stories):
        self.rng, self.part, self.stories = rng, part, stories
        self.story = stories.draw(rng, part)
        self.facts = stories.facts(self.story)
        self.predicates = predicates(stories, self.story, self.facts)
        self.keys = {self.story.key}
        self.turns: list[tuple[str, str, frozenset[str]]] = []  # of the user, right answer, its normal forms
        self.has_story = False

    def say(self, texts: Sequence[str], slots: Mapping[str, str], answer: str, right: frozenset[str]) -> None:
        """Let the user say one of some wordings, and the assistant answer."""
        wording = choose(self.rng, texts, self.part)
        self.keys.add(f"template: {wording}")
        self.turns.append((wording.format(**slots), answer, right))

    def ask(self, question: Question) -> None:
        """Let the user ask a question; with the first one comes the story."""
        texts = wordings.FOLLOWING if self.has_story else wordings.QUESTIONS
        slots = {"story": self.story.text, "ask": question.ask, "clause": question.clause}
        self.say(texts, slots, question.answer, question.accepted)
        self.has_story = True

    def ask_some(self, n: int) -> None:
        """Let the user ask `n` questions that need no earlier turn and have different answers."""
        asked = questions(self.facts) + presences(self.rng, self.stories, self.story.text)
        for question in one_for_each_answer(self.rng, asked)[:n]:
            self.ask(question)

    def names(self, food: str) -> list[str]:
        """The names that a user who likes this food may have in this part of the data; none has been said."""
        said = set(WORD.findall(" ".join([self.story.text, *(text for text, _, _ in self.turns)])))
        people = self.stories.words["hero"] + self.stories.words["friend"]
        return [name for name in people if name not in said and part_of(fact(name, food)) == self.part]

    def introduce(self, texts: Sequence[str], name: str, food: str) -> None:
        """Let the user tell a name and perhaps what they like."""
        self.keys.add(fact(name, food))
        self.say(texts, {"name": name, "food": food}, f"Hello, {name}.", NO_QUESTION)

    def exercise(self, kind: str) -> Exercise:
        """The conversation as an exercise, whose answer is the last one."""
        messages: list[Message] = []
        for text, answer, _ in self.turns:
            messages += [{"role": "user", "content": text}, {"role": "assistant", "content": answer}]
        *messages, last = messages
        return Exercise(kind, tuple(messages), last, frozenset(self.keys), self.turns[-1][2])


def about_pronoun(talk: Talk, predicate: Predicate, topic: Topic) -> Exercise:
    """A conversation that comes to a topic and then asks about it by its pronoun."""
    talk.ask_some(talk.rng.randint(0, 3))
    talk.ask(talk.rng.choice(introductions(talk.facts, topic)))
    talk.ask(predicate.of(topic, topic.pronoun))
    return talk.exercise("pronoun")


def about_other(kind: str, texts: Sequence[str], talk: Talk, predicate: Predicate, topics: Sequence[Topic]) -> Exercise:
    """A conversation that asks the same of one topic and then, without repeating the question, of the others."""
    talk.ask_some(talk.rng.randint(0, 3))
    talk.ask(predicate.of(topics[0], topics[0].name))
    for other in topics[1:]:
        name = talk.rng.choice((other.name, other.title))
        question = predicate.of(other, name)
        talk.say(texts, {"other": name}, question.answer, question.accepted)
    return talk.exercise(kind)
