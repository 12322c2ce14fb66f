"""Dialogue about stories: the right answer to the last question depends on earlier turns."""

import random
import re
from itertools import islice

import pytest

from minillm.datasets.grammar_words import NUMBERS
from minillm.datasets.worlds import story_wordings as wordings
from minillm.datasets.worlds.dialogue import NEED_EARLIER, Dialogue, Talk, about_other, about_pronoun


@pytest.fixture(scope="module")
def world():
    return Dialogue()


@pytest.fixture(scope="module")
def by_kind(world):
    exercises = {}
    for exercise in islice(world.exercises("train", seed=2), 1000):
        exercises.setdefault(exercise.kind, []).append(exercise)
    return exercises


def test_all_kinds_are_equally_frequent(by_kind):
    assert by_kind.keys() == {"direct", *NEED_EARLIER}
    assert all(150 < len(exercises) < 250 for exercises in by_kind.values())


def test_conversations_have_two_to_seven_questions(by_kind):
    for exercises in by_kind.values():
        n_turns = {(len(exercise.messages) + 1) // 2 for exercise in exercises}
        assert min(n_turns) >= 2 and max(n_turns) <= 7 and len(n_turns) > 1


def answers(conversations):
    """The normal forms of right answers, by the last question."""
    found = {}
    for exercise in conversations:
        found.setdefault(exercise.messages[-1]["content"], set()).add(exercise.truth)
    return found


@pytest.mark.parametrize("seed", range(12))
def test_the_same_last_question_has_other_answers_after_other_turns(world, seed):
    def talk(n):
        talk = Talk(random.Random(seed), "train", world.stories)  # the same story for every n
        talk.rng = random.Random(n)
        return talk

    predicates = talk(0).predicates
    pronouns, others, corrections = [], [], []
    for n in range(300):
        predicate = random.Random(n).choice(predicates)
        topics = random.Random(n).sample(list(predicate.answers), 2)
        others.append(about_other("ellipsis", wordings.OTHERS, talk(n), predicate, topics))
        corrections.append(about_other("correction", wordings.CORRECTIONS, talk(n), predicate, topics))
        ambiguous = [(predicate, topic) for predicate in predicates for topic in predicate.ambiguous()]
        if ambiguous:
            pronouns.append(about_pronoun(talk(n), *random.Random(n).choice(ambiguous)))
    for conversations in (others, corrections, pronouns):
        repeated = {text: found for text, found in answers(conversations).items() if len(found) > 1}
        assert len(repeated) > 3 or not conversations


def test_a_pronoun_may_stand_for_several_topics(world, by_kind):
    for exercise in by_kind["pronoun"]:
        assert re.search(r"\b(she|he|it)\b", exercise.messages[-1]["content"])
        named = [word for word in re.findall(r"\w+", exercise.messages[-1]["content"]) if word in names(world)]
        assert not named


def names(world):
    return {*world.stories.words["hero"], *world.stories.words["friend"]}


PREDICATE = re.compile(r"(girl or a boy|hero or the friend|like\b|how many|How many)")


def story_in(world, exercise):
    """The facts of the parser, and the text."""
    for message in exercise.messages:
        for line in message["content"].split("\n"):
            text = line.removeprefix("Story: ")
            if world.stories.world.is_valid(text):
                return world.stories.world.facts(text), text
    raise AssertionError(exercise)


@pytest.mark.parametrize("kind", ["ellipsis", "correction"])
def test_the_question_of_the_turn_before_is_asked_again(world, by_kind, kind):
    """An oracle that reads the messages alone: it finds the question by its words, and the answer by the parser."""
    kinds = set()
    for exercise in by_kind[kind]:
        facts, story = story_in(world, exercise)
        users = [message["content"].replace(story, "") for message in exercise.messages if message["role"] == "user"]
        asked = next(text for text in reversed(users) if PREDICATE.search(text))
        predicate = PREDICATE.search(asked)[0].lower()
        last = users[-1]
        topic = next(w for w in [facts["hero"], facts["friend"], "hero", "friend", ""] if re.search(rf"\b{w}\b", last))
        is_hero = topic in (facts["hero"], "hero")
        if predicate == "girl or a boy":
            expected = facts["hero_is" if is_hero else "friend_is"]
        elif predicate == "hero or the friend":
            expected = "hero" if is_hero else "friend"
        elif predicate == "how many":
            first = "n" if facts["plot"] == "contest" else "left"
            second = "left" if facts["plot"] == "contest" else "k"
            expected = NUMBERS[facts[first if is_hero else second]]
        elif topic:
            before = rf"(\w+) {facts['hero_is']}\b" if is_hero else rf"came an? (\w+) {facts['friend_is']} called"
            expected = re.search(before, story)[1]
        else:
            noun = re.search(r"the (\w+)(?!.*\bthe \w)", last.replace("the same", ""))[1]
            expected = re.search(rf"\ban? (\w+) {noun}\b", re.sub(r"as quiet as an? \w+ \w+", "", story), re.I)[1]
        kinds.add(predicate)
        assert exercise.answer["content"].removesuffix(".").split()[-1].lower() == expected, exercise
    assert len(kinds) == 4


def test_what_the_user_told_last_is_right(world, by_kind):
    n_renamed = 0
    foods = set(world.stories.words["food"])
    for exercise in by_kind["told"]:
        _, story = story_in(world, exercise)
        introduction, last = exercise.messages[0]["content"], exercise.messages[-1]["content"]
        name = next(word for word in re.findall(r"\w+", introduction) if word in names(world))
        food = next(word for word in re.findall(r"\w+", introduction) if word in foods)
        greetings = re.findall(r"Hello, (\w+)\.", " ".join(m["content"] for m in exercise.messages[1::2]))
        assert greetings[0] == name and name not in story and greetings[-1] not in story
        right, wrong = (greetings[-1], food) if "name" in last else (food, greetings[-1])
        assert world.is_right(exercise, right) and not world.is_right(exercise, wrong)
        if greetings[-1] != name:
            n_renamed += 1
            assert not world.is_right(exercise, name)
    assert n_renamed > 30
