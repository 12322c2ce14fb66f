"""One contract for the worlds of reasoning and safety: exact scores, nothing of the test in training, known words."""

import random
import re
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minillm.datasets.worlds import builder
from minillm.datasets.worlds.answers import number, plain
from minillm.datasets.worlds.arithmetic import Arithmetic
from minillm.datasets.worlds.composition import Composition
from minillm.datasets.worlds.exercise import part_of
from minillm.datasets.worlds.logic import Logic
from minillm.datasets.worlds.safety import Safety
from minillm.datasets.worlds.steps import StepWorld, WrongStep, join_steps, split_steps
from minillm.tokenizers.chat import THINK, whole_text

WORLDS = {world.name: world for world in (Arithmetic(), Composition(), Logic(), Safety())}
PARTS = ("train", "val", "test")

each_world = pytest.mark.parametrize("world", WORLDS.values(), ids=WORLDS)
each_world_with_steps = pytest.mark.parametrize(
    "world", [world for world in WORLDS.values() if isinstance(world, StepWorld)], ids=lambda world: world.name
)
seeds, parts = st.integers(0, 10**6), st.sampled_from(PARTS)


def some(world, part, n, seed=0):
    return list(islice(world.exercises(part, seed), n))


@pytest.fixture(scope="module")
def drawn():
    sizes = {"train": 3000, "val": 1000, "test": 1000}
    return {(name, part): some(world, part, n) for name, world in WORLDS.items() for part, n in sizes.items()}


def words_of(texts) -> set[str]:
    return {word for text in texts for word in re.findall(r"[a-z']+|\d+|[^\sa-z\d]", text.lower())}


def texts_of(exercises) -> list[str]:
    return [whole_text(message) for e in exercises for message in (*e.messages, e.answer)]


@each_world
@given(seed=seeds, part=parts)
def test_the_reference_is_right_in_each_of_its_forms(world, seed, part):
    exercise = world.draw(random.Random(seed), part)
    answer = exercise.answer["content"]
    assert world.is_right(exercise, whole_text(exercise.answer))
    for form in (answer, answer.upper(), f" {answer.removesuffix('.')}.\n", f"<think>a guess</think>{answer}"):
        assert world.is_right(exercise, form)


@each_world
@given(seed=seeds, part=parts)
def test_anything_else_is_wrong(world, seed, part):
    rng = random.Random(seed)
    exercise, other = world.draw(rng, part), world.draw(rng, part)
    answer, other_answer = exercise.answer["content"], other.answer["content"]
    wrong = ["", ".", f"not {answer}", f"{answer} {answer}", f"{answer} not", exercise.messages[-1]["content"]]
    wrong += [THINK + answer, f"{THINK}{answer}</think>", f"</think>{answer}", f" {THINK}</think>{answer}"]
    assert not any(world.is_right(exercise, text) for text in wrong)
    assert world.is_right(exercise, other_answer) == (plain(other_answer) in exercise.truth.accepted)


@each_world
def test_the_same_seed_draws_the_same(world):
    for part in PARTS:
        first = some(world, part, 30)
        assert first == some(type(world)(), part, 30)
        assert first != some(world, part, 30, seed=1)
    assert list(islice(world.documents(3), 5)) == list(islice(type(world)().documents(3), 5))


@each_world
def test_no_key_of_one_part_occurs_in_another(world, drawn):
    keys = {part: {key for e in drawn[world.name, part] for key in e.keys} for part in PARTS}
    assert all(keys.values())
    for part in PARTS:
        assert not any(keys[part] & keys[other] for other in PARTS if other != part)
        assert all(part_of(key) == part for key in keys[part] if not key.startswith("template: "))


@each_world
def test_every_exercise_has_a_template_and_something_else_that_is_held_out(world, drawn):
    for exercise in drawn[world.name, "test"][:300]:
        assert {key.partition(": ")[0] for key in exercise.keys} in ({"template", "fact"}, {"template", "numbers"})


@each_world
def test_every_kind_is_drawn_about_equally_often_in_every_part(world, drawn):
    for part in PARTS:
        kinds = [e.kind for e in drawn[world.name, part]]
        assert set(kinds) == set(world.kinds)
        assert all(kinds.count(kind) > 0.7 * len(kinds) / len(set(kinds)) for kind in set(kinds))


@each_world
def test_questions_of_a_test_differ(world, drawn):
    questions = [tuple(message["content"] for message in e.messages) for e in drawn[world.name, "test"]]
    assert len(set(questions)) > 0.8 * len(questions)


@each_world
def test_the_words_of_the_test_occur_in_training(world, drawn):
    known = words_of([*texts_of(drawn[world.name, "train"]), *islice(world.documents(0), 500)])
    for part in ("val", "test"):
        assert not words_of(texts_of(drawn[world.name, part])) - known


@each_world
def test_documents_are_made_of_training_keys(world, monkeypatch):
    used = []

    class Spy(builder.Builder):
        def __init__(self, rng, part):
            super().__init__(rng, part)
            used.append(part)

    documents = list(islice(world.documents(0), 50))
    for module in ("arithmetic", "composition", "logic", "safety"):
        monkeypatch.setattr(f"minillm.datasets.worlds.{module}.Builder", Spy)
    assert list(islice(world.documents(0), 50)) == documents
    assert len(used) >= 50 and set(used) == {"train"}


@each_world
def test_documents_hold_no_fact_of_the_test_and_no_roles(world, drawn):
    facts = {k.removeprefix("fact: ") for e in drawn[world.name, "test"] for k in e.keys if k.startswith("fact: ")}
    text = re.sub(r"[.?!,]", " ", " ".join(islice(world.documents(0), 1000)))
    assert not [fact for fact in facts if f" {fact} " in text]
    assert not any(mark in text for mark in ("<think>", "user", "assistant", "{", "}"))


@each_world
def test_texts_are_clean(world, drawn):
    for part in PARTS:
        for text in texts_of(drawn[world.name, part]):
            assert not re.search(r"[{}]|  |\n|(?<!=) [.,?!]|\.\.|^[a-z ].*\?$", text), text


@each_world_with_steps
@given(seed=seeds, part=parts)
def test_steps_are_read_back_and_right(world, seed, part):
    exercise = world.draw(random.Random(seed), part)
    think = exercise.answer["think"]
    assert tuple(split_steps(think)) == exercise.truth.steps and join_steps(exercise.truth.steps) == think
    assert len(exercise.truth.steps) == exercise.size
    assert world.check_steps(exercise, think) is None


@each_world_with_steps
@given(seed=seeds, part=parts, data=st.data())
def test_a_wrong_step_is_found_at_its_place(world, seed, part, data):
    exercise = world.draw(random.Random(seed), part)
    steps = list(exercise.truth.steps)
    place = data.draw(st.integers(0, len(steps) - 1))
    words = steps[place].split()
    at = data.draw(st.integers(0, len(words) - 1))
    words[at] = data.draw(st.sampled_from(["0", "7", "Anna", "not", "coin"]).filter(lambda word: word != words[at]))
    changed = [*steps[:place], " ".join(words), *steps[place + 1 :]]
    assert world.check_steps(exercise, join_steps(changed)) == WrongStep(place, changed[place], steps[place])
    assert world.check_steps(exercise, join_steps(steps[:place])) == WrongStep(place, None, steps[place])
    assert world.check_steps(exercise, join_steps([*steps, "x"])) == WrongStep(len(steps), "x", None)


@each_world_with_steps
def test_answers_may_be_direct(world):
    direct = type(world)(steps=False)
    for shown, hidden in zip(some(world, "train", 50), some(direct, "train", 50), strict=True):
        assert "think" in shown.answer and "think" not in hidden.answer
        assert shown.answer["content"] == hidden.answer["content"] and shown.truth == hidden.truth
        assert direct.is_right(hidden, whole_text(shown.answer))


@given(st.integers(0, 99))
def test_numbers_are_read_in_digits_and_in_words(value):
    tens = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
    assert number(str(value)) == value == number(f" {value}. ")
    if value > 20 and value % 10:
        unit = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine"][value % 10 - 1]
        assert number(f"{tens[value // 10 - 2]}-{unit}") == value == number(f"{tens[value // 10 - 2]} {unit}")


@pytest.mark.parametrize("text", ["", "100", "-1", "07", "1 2", "four five", "14 apples", "٣"])
def test_what_is_no_number_is_none(text):
    assert number(text) is None
