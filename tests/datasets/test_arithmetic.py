"""Worked sums and word problems agree with Python's arithmetic, also beyond the sizes of training."""

import operator
import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minillm.datasets.worlds.arithmetic import Arithmetic, Step, parse_step
from minillm.datasets.worlds.steps import check_sizes
from minillm.datasets.worlds.word_problems import FEWER, GAIN, LOSS, MORE

SIGNS = {"+": operator.add, "-": operator.sub, "*": operator.mul}


def drawn(seed, sizes=range(2, 11)):
    return Arithmetic(sizes).draw(random.Random(seed), "train")


@given(st.integers(0, 10**6))
def test_every_step_is_right_and_small(seed):
    exercise = drawn(seed)
    for text in exercise.truth.steps:
        left, sign, right, _, result = text.split()
        assert SIGNS[sign](int(left), int(right)) == int(result)
        assert 0 <= int(left) <= 99 and 1 <= int(right) <= 9 and 0 <= int(result) <= 99
    assert exercise.truth.steps[-1].split()[-1] == exercise.answer["content"]


@given(st.integers(0, 10**6))
def test_the_question_states_the_numbers_of_the_key_and_the_steps_use_them(seed):
    exercise = drawn(seed)
    (key,) = (key.removeprefix("numbers: ").split() for key in exercise.keys if key.startswith("numbers"))
    assert re.findall(r"\d+", exercise.messages[0]["content"]) == key
    steps = [step.split() for step in exercise.truth.steps]
    if exercise.kind != "together":
        assert [steps[0][0], *(step[2] for step in steps)] == key
        assert [step[0] for step in steps[1:]] == [step[4] for step in steps[:-1]]


@given(st.integers(0, 10**6))
def test_a_plain_sum_is_what_python_computes(seed):
    exercise = drawn(seed)
    if exercise.kind == "sum":
        left, *rest = re.search(r"\d+( [-+] \d+)+", exercise.messages[0]["content"])[0].split()
        changes = zip(rest[::2], rest[1::2], strict=True)
        total = int(left) + sum(int(n) if sign == "+" else -int(n) for sign, n in changes)
        assert exercise.answer["content"] == str(total)


@given(st.integers(0, 10**6))
def test_people_together_have_the_sum_of_what_each_has(seed):
    exercise = drawn(seed)
    if exercise.kind == "together":
        steps = [step.split() for step in exercise.truth.steps]
        relations, sums = steps[: exercise.size // 2], steps[exercise.size // 2 :]
        amounts = [int(sums[0][0]), *(int(step[2]) for step in sums)]  # of each person
        assert sum(amounts) == int(exercise.answer["content"])
        stated = re.findall(r"\d+", exercise.messages[0]["content"])
        assert len(amounts) == len(stated) and {int(step[4]) for step in relations} <= set(amounts)


@pytest.mark.parametrize("size", range(2, 17))
def test_sizes_are_as_asked_for(size):
    world, rng = Arithmetic([size]), random.Random(0)
    for _ in range(30):
        exercise = world.draw(rng, "test")
        assert exercise.size == size == len(exercise.truth.steps)


def test_two_numbers_of_a_sum_may_be_exchanged_and_of_a_difference_not():
    world = Arithmetic()
    assert world.is_step("7 + 12 = 19", "12 + 7 = 19") and world.is_step("3 * 2 = 6", "2 * 3 = 6")
    assert not world.is_step("7 - 12 = 5", "12 - 7 = 5")
    assert not world.is_step("12 + 7 = 18", "12 + 7 = 19")
    assert not world.is_step("10 + 9 = 19", "12 + 7 = 19")
    assert not world.is_step("12 + 7 = 19 ", "12 + 7 = 19")


@pytest.mark.parametrize("text", ["", "12 + 7", "12 + 7 = ", "12 + 7 = 119", "a + 7 = 9", "12+7=19", "12 / 4 = 3"])
def test_what_is_no_step_is_none(text):
    assert parse_step(text) is None


@given(st.integers(0, 99), st.sampled_from("+-*"), st.integers(0, 9))
def test_steps_are_parsed_as_written(left, sign, right):
    step = Step(left, sign, right)
    if 0 <= step.result <= 99:
        assert parse_step(str(step)) == (step, step.result)


@pytest.mark.parametrize("word", ["bought {n} from", "took {n} of", "gave {n} to {friend}", "gave {friend} {n}"])
def test_wording_of_losses_and_gains_is_told_apart_by_who_acts(word):
    gains, losses = ([text for text in pool if word in text] for pool in (GAIN, LOSS))
    assert all("{He} bought" in text or "{he} bought" in text for text in gains)
    assert all("{He} gave" in text or "{he} gave" in text or text.startswith("{friend}") for text in losses)


@pytest.mark.parametrize(("pool", "word", "opposite"), [(MORE, "more", "fewer"), (FEWER, "fewer", "more")])
def test_comparisons_say_who_has_more(pool, word, opposite):
    for text in pool:
        first = text.replace("Compared with {known}, ", "").split()[0]
        expected = word if first == "{name}" and "would need" not in text else opposite
        assert expected in text.rstrip(".").split(), text


@pytest.mark.parametrize("sizes", [[], [1, 2], [2.5], [17]])
def test_impossible_sizes_are_refused(sizes):
    with pytest.raises(ValueError, match=r"arithmetic\.sizes = \[.*\]: expected whole numbers from 2 to 16; give"):
        Arithmetic(sizes)
    assert check_sizes("x", [2, 16]) == (2, 16)
