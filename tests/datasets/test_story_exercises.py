"""The worlds about stories: exact scores, held-out wordings and facts, and documents of the training part only."""

import random
import re
from itertools import islice, pairwise
from typing import get_args

import pytest

from minillm.datasets.worlds import story_wordings
from minillm.datasets.worlds.__main__ import main
from minillm.datasets.worlds.dialogue import Dialogue
from minillm.datasets.worlds.exercise import Part, dealt, part_of
from minillm.datasets.worlds.instructions import Instructions
from minillm.datasets.worlds.story_question_table import EVERY, OF_PLOT, SOME
from minillm.datasets.worlds.story_questions import REFUSAL

PARTS = get_args(Part)
WORDINGS = {name: texts for name, texts in vars(story_wordings).items() if name.isupper()}
STORY = re.compile(r"(?:This is a story|Once there was|Long ago|In an? \w+ \w+ near|Everybody near).*")


@pytest.fixture(scope="module", params=[Instructions, Dialogue], ids=lambda world: world.name)
def world(request):
    return request.param()


@pytest.fixture(scope="module")
def drawn(world):
    return {part: list(islice(world.exercises(part, seed=1), 1500 if part == "train" else 500)) for part in PARTS}


def is_parsed(exercise):
    return exercise.kind in ("write", "continue", "happier")


def test_right_answers_are_right_in_all_parts(world, drawn):
    for exercise in drawn["train"][:300] + drawn["val"][:100] + drawn["test"][:100]:
        assert world.is_right(exercise, exercise.answer["content"]), exercise


def test_equal_forms_are_right(world, drawn):
    for exercise in drawn["train"]:
        answer = exercise.answer["content"]
        if is_parsed(exercise):
            continue
        forms = [answer.lower(), answer.upper(), answer.removesuffix("."), f" {answer}\n", f"<think>x</think>{answer}"]
        forms += [re.sub(r"\b(A|An|The|a|an|the) ", "", answer)]
        assert all(world.is_right(exercise, form) for form in forms), exercise
    numbers = [exercise for exercise in drawn["train"] if exercise.answer["content"] in ("Seven.", "Nine.")]
    assert numbers
    for exercise in numbers:
        digits = {"Seven.": "7", "Nine.": "9"}[exercise.answer["content"]]
        assert world.is_right(exercise, digits) and not world.is_right(exercise, "8")


def test_wrong_answers_are_wrong(world, drawn):
    for exercise in drawn["train"][:600]:
        answer, question = exercise.answer["content"], exercise.messages[-1]["content"]
        story = exercise.messages[0]["content"]
        wrong = ["", " ", ".", question, story, "not " + answer, "No, " + answer, answer + " " + answer, answer[:-2]]
        wrong += ["I do not know.", "<think>" + answer, f"<think>{answer}</think>"]
        wrong += [REFUSAL] * (answer != REFUSAL) + ["The story does not say that."]
        assert not any(world.is_right(exercise, text) for text in wrong), exercise


def test_the_answer_of_another_exercise_is_wrong(world, drawn):
    by_kind = {}
    for exercise in drawn["train"][:600]:
        by_kind.setdefault(exercise.kind, []).append(exercise)
    for exercises in by_kind.values():
        for one, other in pairwise(exercises):
            if one.truth != other.truth:
                assert not world.is_right(one, other.answer["content"]), (one, other)


def test_another_name_is_wrong(world, drawn):
    names = [exercise for exercise in drawn["train"] if re.fullmatch(r"[A-Z][a-z]+\.", exercise.answer["content"])]
    for exercise in names[:50]:
        for name in ("Anna", "Bob"):
            assert world.is_right(exercise, name) == (exercise.answer["content"] == f"{name}.")


def test_no_key_of_one_part_occurs_in_another(drawn):
    keys = {part: set().union(*(exercise.keys for exercise in exercises)) for part, exercises in drawn.items()}
    assert not keys["train"] & keys["test"] and not keys["train"] & keys["val"] and not keys["val"] & keys["test"]
    for part in PARTS:
        facts = [key for key in keys[part] if key.startswith("fact: ")]
        assert len(facts) > 400 and all(part_of(key) == part for key in facts)


def test_keys_tell_the_story_that_is_asked_about(world, drawn):
    for exercise in drawn["test"][:150]:
        for text in STORY.findall(exercise.messages[0]["content"]):
            if world.stories.world.is_valid(text):
                facts = world.stories.world.facts(text)
                assert f"fact: {facts['hero']} + {facts['friend']} + {facts['place']}" in exercise.keys


def test_every_wording_of_a_part_is_used(world, drawn):
    used = {key for exercise in drawn["train"] for key in exercise.keys if key.startswith("template: ")}
    lists = [texts for texts in WORDINGS.values() if f"template: {texts[0]}" in used]
    expected = {f"template: {text}" for texts in lists for i, text in enumerate(texts) if dealt(i) == "train"}
    assert used == expected and len(lists) >= 6


@pytest.mark.parametrize("name", WORDINGS)
def test_there_are_twenty_different_wordings_of_equal_slots(name):
    texts = WORDINGS[name]
    assert len(texts) >= 20 and len(set(texts)) == len(texts)
    assert all(text == text.strip() and "  " not in text for text in texts)
    slots = {frozenset(re.findall(r"\{(\w+)\}", text)) for text in texts}
    questions = {frozenset({slot, "story"}) for slot in ("ask", "clause")} | {frozenset({"ask"}), frozenset({"clause"})}
    assert len(slots) == 1 or slots <= questions


def test_held_out_wordings_consist_of_words_seen_in_training_of_the_same_world(drawn):
    seen = set()
    for row in [*EVERY, *SOME, *(row for rows in OF_PLOT.values() for row in rows)]:
        seen |= words(row.ask) | words(row.clause)
    used = {key.removeprefix("template: ") for exercise in drawn["train"] for key in exercise.keys}
    lists = [texts for texts in WORDINGS.values() if used & set(texts)]
    seen |= set().union(*(words(text) for text in used if not text.startswith("fact: ")))
    held_out = [text for texts in lists for i, text in enumerate(texts) if dealt(i) != "train"]
    assert held_out and {text: words(text) - seen for text in held_out if words(text) - seen} == {}


def words(text):
    return set(re.findall(r"\w+", re.sub(r"\{\w+\}", "", text)))


def test_documents_hold_training_facts_only_and_no_held_out_wording(world):
    held_out = [text for texts in WORDINGS.values() for i, text in enumerate(texts) if dealt(i) != "train"]
    trained = [text for texts in WORDINGS.values() for i, text in enumerate(texts) if dealt(i) == "train"]
    lines = long_lines(held_out) - long_lines(trained)
    n_stories = 0
    for document in islice(world.documents(seed=0), 400):
        assert not lines & set(document.split("\n")) and "{" not in document
        for text in STORY.findall(document):
            if world.stories.world.is_valid(text):
                facts = world.stories.world.facts(text)
                n_stories += 1
                assert part_of(f"fact: {facts['hero']} + {facts['friend']} + {facts['place']}") == "train"
    assert n_stories > 60 and lines


def long_lines(texts):
    lines = {line for text in texts for line in text.split("\n")}
    return {line for line in lines if "{" not in line and len(line.split()) > 4}


def test_documents_draw_wordings_of_training_only(world, monkeypatch):
    parts = set()
    draw = world.stories.draw
    monkeypatch.setattr(world.stories, "draw", lambda rng, part: parts.add(part) or draw(rng, part))
    list(islice(world.documents(seed=0), 100))
    assert parts == {"train"}


def test_the_same_seed_makes_the_same_exercises_and_documents(world):
    def first(seed):
        return list(islice(world.exercises("val", seed), 20)), list(islice(world.documents(seed), 20))

    assert first(3) == first(3) != first(4)
    rng, again = random.Random(0), random.Random(0)
    assert world.draw(rng, "train") == world.draw(again, "train")


def test_an_exercise_fits_into_a_context_of_512_tokens(drawn):
    for exercise in drawn["train"]:
        turns = [*exercise.messages, exercise.answer]
        assert sum(len(turn["content"].split()) for turn in turns) < 256


def test_turns_alternate_and_the_user_asks_last(drawn):
    for exercise in drawn["train"]:
        roles = [message["role"] for message in exercise.messages]
        assert roles == ["user", "assistant"] * (len(roles) // 2) + ["user"]
        assert exercise.answer["role"] == "assistant"


def test_the_card_counts_kinds_and_keys_and_shows_an_example_of_each(world):
    card = world.card(200, seed=5)
    exercises = list(islice(world.exercises("train", 5), 200))
    for kind in {exercise.kind for exercise in exercises}:
        assert f"| {kind} | {sum(exercise.kind == kind for exercise in exercises)} |" in card
        assert f"\n## {kind}\n" in card
    keys = set().union(*(exercise.keys for exercise in exercises))
    n_templates = sum(key.startswith("template") for key in keys)
    assert f"| train | fact: {len(keys) - n_templates}, template: {n_templates} |" in card
    assert card.startswith(f"# {world.name}\n") and "**assistant**: " in card


def test_the_card_of_a_world_is_printed_by_name(capsys):
    assert main(["dialogue", "--exercises", "20"]) == 0 and capsys.readouterr().out.startswith("# dialogue\n")
    assert main(["dialogue", "--exercises", "0"]) != 0 and "exercises = 0: expected" in capsys.readouterr().err
