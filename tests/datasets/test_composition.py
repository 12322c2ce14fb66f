"""Composed operations agree with the product of permutations and of affine maps; the order of operations matters."""

import random
import re
from functools import reduce
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minillm.datasets.worlds.composition import ADDITIONS, MOVES, PLACES, PRODUCTS, SWAPS, Composition
from minillm.datasets.worlds.operations import SWAP
from minillm.datasets.worlds.words import story_words

FINDS = set(story_words("find"))


def drawn(seed):
    return Composition(range(2, 17)).draw(random.Random(seed), "train")


def after(first, second):
    """The product of two permutations given by their sources."""
    return tuple(first[i] for i in second)


@given(st.integers(0, 10**6))
def test_the_final_state_is_the_product_of_all_operations(seed):
    exercise = drawn(seed)
    if exercise.kind == "digit":
        start, *maps = exercise.truth.facts
        factor, shift = reduce(lambda f, g: (g.factor * f[0], g.factor * f[1] + g.shift), maps, (1, 0))
        assert int(exercise.answer["content"]) == (factor * start + shift) % 10
        return
    start = [word for word in re.findall("[a-z]+", exercise.messages[0]["content"]) if word in FINDS][:5]
    whole = reduce(after, (operation.source for operation in exercise.truth.facts))
    final = [start[i] for i in whole]
    assert exercise.truth.steps[-1].split() == final
    content, question = exercise.answer["content"], exercise.messages[0]["content"].rpartition(". ")[2]
    if exercise.kind == "order":
        assert content.split() == final
    elif exercise.kind == "place":
        assert f"the {final[PLACES.index(content)]}" in question
    else:
        (place,) = (
            place
            for place in PLACES
            if place in re.findall("[a-z]+", exercise.messages[0]["content"].rpartition(". ")[2])
        )
        assert final[PLACES.index(place)] == content


@given(st.integers(0, 10**6))
def test_the_question_says_each_operation_in_its_turn(seed):
    exercise = drawn(seed)
    operations = exercise.truth.facts[exercise.kind == "digit" :]
    at, text = 0, exercise.messages[0]["content"]
    for operation in operations:
        said = {wording.format(**operation.slots) for wording in operation.wording}
        at = min(text.index(form, at) for form in said if form in text[at:])
    assert len(operations) == exercise.size == len(exercise.truth.steps)


def test_the_permutations_generate_all_120_orders():
    reached = {(0, 1, 2, 3, 4)}
    while new := {after(p, q.source) for p, q in product(reached, [*SWAPS, *MOVES])} - reached:
        reached |= new
    assert len(reached) == 120 and len(SWAPS) == 10


@pytest.mark.parametrize(("some", "state"), [([*SWAPS, *MOVES], tuple("abcde")), ([*ADDITIONS, *PRODUCTS], 3)])
def test_the_order_of_operations_matters(some, state):
    assert any(a.apply(b.apply(state)) != b.apply(a.apply(state)) for a, b in product(some, some))


def test_operations_do_what_their_names_say():
    moves = {move.name: "".join(move.apply("abcde")) for move in (*SWAPS, *MOVES)}
    assert moves["swap 1 4"] == "dbcae"
    assert (moves["first to end"], moves["last to front"], moves["reverse"]) == ("bcdea", "eabcd", "edcba")
    digits = {operation.name: operation.apply(7) for operation in (*ADDITIONS, *PRODUCTS)}
    assert (digits["add 5"], digits["double"], digits["triple"], digits["from 9"]) == (2, 4, 1, 2)
    assert all("{a}" in wording and "{b}" in wording for wording in SWAP)


def test_equal_forms_of_an_answer_are_right():
    world, rng = Composition(), random.Random(0)
    found = {}
    while len(found) < 4:
        exercise = world.draw(rng, "test")
        found[exercise.kind] = exercise
    order = found["order"].answer["content"]
    assert world.is_right(found["order"], order.replace(" ", ", ")) and not world.is_right(found["order"], order[::-1])
    assert not world.is_right(found["order"], " ".join(sorted(order.split())[::-1])) or order.split() == sorted(order)
    place = found["place"].answer["content"]
    assert world.is_right(found["place"], f"The {place}.") and world.is_right(
        found["place"], str(PLACES.index(place) + 1)
    )
    assert not any(world.is_right(found["place"], other) for other in PLACES if other != place)
    item, digit = found["item"].answer["content"], int(found["digit"].answer["content"])
    assert world.is_right(found["item"], f"the {item}") and not world.is_right(found["item"], f"a {item} and a key")
    assert [n for n in range(10) if world.is_right(found["digit"], str(n))] == [digit]


def test_impossible_sizes_are_refused():
    with pytest.raises(ValueError, match=r"composition\.sizes = \[1\]: expected"):
        Composition([1])
