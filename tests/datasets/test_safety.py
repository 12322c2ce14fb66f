"""What is forbidden is refused and what is harmless is answered, and no single word tells the two apart."""

import re
from collections import Counter
from itertools import islice

import pytest

from minillm.datasets.worlds.acts import FORBIDDEN, HARMLESS, REASONS
from minillm.datasets.worlds.requests import REFUSALS
from minillm.datasets.worlds.safety import Safety, is_refusal


@pytest.fixture(scope="module")
def drawn():
    return {part: list(islice(Safety().exercises(part, 0), 1500)) for part in ("train", "test")}


def patterns(acts, forbidden):
    """A pattern of each act with each thing: its words up to the end of the sentence."""
    for act in acts:
        for thing in act.things.split():
            words = act.words.format(thing=thing, name=r"[A-Z]\w+")
            yield re.compile(rf"\b{words}(?=[.?])"), act, forbidden


PATTERNS = [*patterns(FORBIDDEN, True), *patterns(HARMLESS, False)]


def acts_in(text):
    """The acts that a text asks for, found by their words; an act within another ("steal" in "keep from") is none."""
    found = [(match.span(), act, bad) for pattern, act, bad in PATTERNS for match in pattern.finditer(text)]
    return [
        (act, bad)
        for (start, end), act, bad in found
        if not any(a <= start and end <= b and (a, b) != (start, end) for (a, b), _, _ in found)
    ]


def test_every_request_is_judged_by_its_act(drawn):
    for exercise in drawn["train"][:200] + drawn["test"][:200]:
        asked = [found for m in exercise.messages if m["role"] == "user" for found in acts_in(m["content"])]
        act, forbidden = asked[-1]
        assert forbidden == exercise.truth.forbidden == (exercise.kind in ("forbidden", "talked_round"))
        assert act.says in exercise.answer["content"]
        assert is_refusal(exercise.answer["content"]) == forbidden


def test_all_refusals_with_the_right_reason_are_right_and_all_others_wrong(drawn):
    world = Safety()
    for exercise in drawn["test"][:200]:
        refusals = {(form.format(reason=reason), reason) for form in REFUSALS for reason in REASONS}
        right = {reason for text, reason in refusals if world.is_right(exercise, text)}
        assert len(right) == exercise.truth.forbidden
        assert all(is_refusal(text) for text, _ in refusals)
        assert not world.is_right(exercise, "I will not help with that.") and not world.is_right(exercise, "No.")


def test_advice_is_exact_and_a_refusal_of_a_harmless_request_is_wrong(drawn):
    world = Safety()
    advice = {act.says for act in HARMLESS}
    for exercise in drawn["test"][:200]:
        right = {text for text in advice if world.is_right(exercise, text)}
        assert right == (set() if exercise.truth.forbidden else {exercise.answer["content"]})


def test_conversations_alternate_and_earlier_answers_are_right(drawn):
    for exercise in drawn["train"]:
        roles = [message["role"] for message in exercise.messages]
        assert roles in (["user"], ["user", "assistant", "user"])
        if len(roles) == 3:
            ((_, forbidden),) = acts_in(exercise.messages[0]["content"])
            assert is_refusal(exercise.messages[1]["content"]) == forbidden
            last = acts_in(exercise.messages[2]["content"])  # none if the first request is repeated
            assert forbidden == (exercise.truth.forbidden if not last else not last[0][1])
    assert {len(e.messages) for e in drawn["train"] if e.kind == "pressed_near_miss"} == {1, 3}


def test_no_single_word_tells_forbidden_from_harmless(drawn):
    """Knowing whether one word occurs, one may be right in two of three cases at most."""
    with_word, harmful = Counter(), Counter()
    for exercise in drawn["train"]:
        words = set(re.findall("[a-z]+", exercise.messages[-1]["content"].lower()))
        with_word.update(words)
        harmful.update(words if exercise.truth.forbidden else ())
    n, n_harmful = len(drawn["train"]), sum(e.truth.forbidden for e in drawn["train"])
    for word, count in with_word.items():
        agree = harmful[word] + (n - n_harmful) - (count - harmful[word])
        assert max(agree, n - agree) < n * 2 / 3, word


def test_every_verb_and_every_thing_of_the_test_is_in_training():
    requests = Safety().requests
    for forbidden in (True, False):
        train = requests["train", forbidden]
        for request in requests["test", forbidden] + requests["val", forbidden]:
            assert any(known.act is request.act for known in train)
            assert any(known.thing == request.thing for known in train + requests["train", not forbidden])
        assert len(requests["test", forbidden]) >= 25


def test_kinds_are_as_many_forbidden_as_harmless(drawn):
    assert 0.45 < sum(e.truth.forbidden for e in drawn["train"]) / len(drawn["train"]) < 0.55
