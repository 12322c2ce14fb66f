"""Every conclusion holds in all possible worlds of its premises, and what does not follow holds in some only."""

import random
from itertools import combinations, permutations, product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minillm.datasets.worlds.causes import ASKED, EVENTS, MATERIALS, NOTHING, OUTCOMES, Causes
from minillm.datasets.worlds.logic import Logic
from minillm.datasets.worlds.orders import PREMISE, RELATIONS
from minillm.datasets.worlds.proof import DOES_NOT_FOLLOW
from minillm.datasets.worlds.syllogisms import FORMS, fact

PEOPLE = list(product([False, True], repeat=3))  # whether a person is an A, a B, a C
SOCIETIES = [people for n in range(1, 9) for people in combinations(PEOPLE, n)]  # which of these people there are


def holds(said, people, x):
    kind, subject, predicate = said.split()
    has = "ABC".index(predicate)
    if subject == "x":
        return x[has] == (kind == "is")
    members = [person[has] for person in people if person["ABC".index(subject)]]
    return {"all": all(members), "no": not any(members), "some": any(members)}[kind]


def verdict(premises, claim):
    """Whether a claim holds in all worlds of the premises (yes), in none (no), or in some."""
    worlds = [(people, x) for people in SOCIETIES for x in people if all(holds(p, people, x) for p in premises)]
    values = {holds(claim, people, x) for people, x in worlds}
    assert values, "the premises contradict each other"
    return DOES_NOT_FOLLOW if len(values) == 2 else "yes" if values == {True} else "no"


@pytest.mark.parametrize("form", FORMS, ids=lambda form: f"{form.premises} - {form.claim}")
def test_each_form_of_syllogism_is_what_all_possible_worlds_say(form):
    premises = form.premises.split("; ")
    assert verdict(premises, form.claim) == form.result
    for step in form.steps.split("; "):
        if step.startswith("so "):
            assert verdict(premises, step.removeprefix("so ")) == "yes"
        elif not step.startswith("others"):
            assert step in premises
    assert ("others" in form.steps) == (form.result == DOES_NOT_FOLLOW)


def some(kind, part, n=150):
    world, rng, found = Logic(), random.Random(f"{kind} {part}"), []
    while len(found) < n:
        exercise = world.draw(rng, part)
        if exercise.kind == kind:
            found.append(exercise)
    return found


@pytest.mark.parametrize("part", ["train", "test"])
def test_all_forms_and_all_answers_occur(part):
    exercises = some("syllogism", part, 400)
    assert {e.truth.facts[0] for e in exercises} == set(FORMS)
    assert {e.answer["content"] for e in exercises} == {"yes", "no", DOES_NOT_FOLLOW}
    answers = [e.answer["content"] for e in some("comparison", part)]
    assert all(30 < answers.count(answer) < 70 for answer in ("yes", "no", DOES_NOT_FOLLOW))


def orders(pairs):
    """All orders of the people that agree with the pairs."""
    people = sorted({name for pair in pairs for name in pair})
    ranks = ({name: i for i, name in enumerate(order)} for order in permutations(people))
    return [rank for rank in ranks if all(rank[a] < rank[b] for a, b in pairs)]


def test_comparisons_follow_or_not_as_all_possible_orders_say():
    for exercise in some("comparison", "test"):
        (first, second), *pairs = exercise.truth.facts
        values = {rank[first] < rank[second] for rank in orders(pairs)}
        expected = DOES_NOT_FOLLOW if len(values) == 2 else "yes" if values == {True} else "no"
        assert exercise.answer["content"] == expected
        text = exercise.messages[0]["content"]
        claims = [
            f"{a} {r} than {b}" for x in RELATIONS for a, r, b in [(first, x.more, second), (second, x.less, first)]
        ]
        assert any(claim in text or claim.replace(" ", " is ", 1) in text for claim in claims)


def test_who_is_first_and_last_is_what_all_possible_orders_say():
    for exercise in some("order", "test"):
        asks_most, *pairs = exercise.truth.facts
        ends = {sorted(rank, key=rank.get)[0 if asks_most else -1] for rank in orders(pairs)}
        assert ends == {exercise.answer["content"]}
        words = {word for relation in RELATIONS for word in (relation.most if asks_most else relation.least,)}
        assert any(word in exercise.messages[0]["content"] for word in words)


@pytest.mark.parametrize("template", PREMISE)
def test_each_wording_of_a_comparison_says_who_is_more(template):
    who = "{a}" if "{more}" in template else "{b}"
    before = template.split("{more}" if who == "{a}" else "{less}")[0]
    assert who in before.rpartition(", ")[2].split() and ("{more}" in template) != ("{less}" in template)


def test_effects_offer_the_right_one_and_a_wrong_one():
    for exercise in some("effect", "test"):
        (case,) = exercise.truth.facts
        text = exercise.messages[0]["content"].lower()
        offered = [i for i, ask in enumerate(ASKED) if ask in text]
        assert len(offered) == 2 and case.outcome in offered
        assert exercise.answer["content"] == OUTCOMES[case.event.outcome[case.material]]
        assert case.thing in MATERIALS[case.material] and f" {case.thing}" in text


def test_of_two_events_only_the_answer_explains_what_was_seen():
    for exercise in some("cause", "test"):
        case, other = exercise.truth.facts
        assert case.outcome not in (other.outcome, NOTHING)
        assert OUTCOMES[case.outcome][3:] in exercise.messages[0]["content"]
        assert case.thing in exercise.answer["content"] and other.thing not in exercise.answer["content"].split()


def test_the_halves_of_every_held_out_fact_are_in_training():
    cases = Causes().cases
    for part in ("val", "test"):
        for case in cases[part]:
            assert any(known.thing == case.thing for known in cases["train"])
            assert any(known.event is case.event and known.material == case.material for known in cases["train"])
    assert all(set(event.outcome) == set(MATERIALS) for event in EVENTS)


@given(st.integers(0, 10**6))
def test_the_negated_answer_is_wrong(seed):
    world = Logic()
    exercise = world.draw(random.Random(seed), "train")
    if exercise.answer["content"] in ("yes", "no", DOES_NOT_FOLLOW):
        right = [a for a in ("yes", "no", DOES_NOT_FOLLOW, "it follows") if world.is_right(exercise, a)]
        assert right == [exercise.answer["content"]]


def test_the_key_of_two_classes_does_not_depend_on_their_order():
    assert fact("poet", "brave") == fact("brave", "poet") == "fact: brave poet"
