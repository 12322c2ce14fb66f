"""Instructions about stories: answers agree with the parser of stories, and written stories are judged by it."""

import random
import re
from itertools import islice, pairwise

import pytest

from minillm.datasets.worlds.exercise import part_of
from minillm.datasets.worlds.instructions import Instructions, Wanted
from minillm.datasets.worlds.story import LISTED, Stories
from minillm.datasets.worlds.story_excerpts import about_excerpt, excerpt
from minillm.datasets.worlds.story_question_table import EVERY, NEVER, OF_OTHERS, OF_PLOT, SOME
from minillm.datasets.worlds.story_questions import REFUSAL, fill, is_told, questions, unanswered
from minillm.datasets.worlds.story_summaries import DID, FORMS, changed, key_of_summary, summary

KINDS = {"write", "continue", "happier", "shorten", "list", "compare", "unanswered"} | {
    *("who", "what", "where", "how many", "why", "ending"),
}


@pytest.fixture(scope="module")
def world():
    return Instructions()


@pytest.fixture(scope="module")
def by_kind(world):
    exercises = {}
    for exercise in islice(world.exercises("test", seed=2), 900):
        exercises.setdefault(exercise.kind, []).append(exercise)
    return exercises


@pytest.fixture(scope="module")
def stories():
    return Stories()


@pytest.fixture(scope="module")
def some(stories):
    rng = random.Random(0)
    drawn = [stories.draw(rng, "train") for _ in range(600)]
    return [(story, stories.facts(story)) for story in drawn]


def test_all_kinds_are_equally_frequent(by_kind):
    assert by_kind.keys() == KINDS
    assert all(40 < len(exercises) < 110 for exercises in by_kind.values())


def test_stories_and_their_facts_are_those_of_the_parser(stories, some):
    for story, facts in some[:150]:
        parsed = stories.world.facts(story.text)
        numbers = {name: value for name, value in parsed.items() if isinstance(value, int)}
        words = {name: value for name, value in parsed.items() if not isinstance(value, int)}
        assert all(facts[name] == value for name, value in words.items() if not name.endswith("_is"))
        assert (facts["child"], facts["friend_child"]) == (parsed["hero_is"], parsed["friend_is"])
        assert numbers.keys() == {"n", "k", "left", "total"} & facts.keys()


def test_facts_that_are_read_are_words_of_their_class(stories, some):
    classes = {"home": "home", "homelook": "homelook", "landmark": "landmark", "trait": "trait", "find": "find"}
    classes |= {"find_look": "look", "friend_trait": "trait", "fond": "shape", "loot": "loot"}
    for name, words in classes.items():
        told = [facts[name] for _, facts in some if name in facts]
        assert told and set(told) <= set(stories.words[words])
    jobs = {facts["costume"].split()[-1] for _, facts in some if "costume" in facts}
    assert jobs and jobs <= set(stories.words["job"])


def test_every_story_answers_questions_and_every_question_is_used(some):
    unused = {row.clause for row in [*EVERY, *SOME, *(row for rows in OF_PLOT.values() for row in rows)]}
    for _, facts in some:
        found = questions(facts)
        assert {"who", "where", "why", "ending"} <= {question.kind for question in found}
        clauses = {question.clause for question in found}
        unused -= {clause for clause in unused if is_told(clause, facts) and fill(clause, facts) in clauses}
    assert not unused


def test_answers_are_those_of_the_parser(world, by_kind):
    n_checked = 0
    for exercise in by_kind["who"] + by_kind["where"] + by_kind["why"] + by_kind["ending"] + by_kind["how many"]:
        question = exercise.messages[0]["content"]
        for text in question.split("\n"):
            text = text.removeprefix("Story: ")
            if not world.stories.world.is_valid(text):
                continue
            facts = world.stories.world.facts(text)
            rest = question.replace(text, "")
            answer = exercise.answer["content"].removesuffix(".")
            expected = oracle(exercise.kind, rest, facts)
            if expected is not None:
                n_checked += 1
                assert expected in answer, exercise
    assert n_checked > 150


def oracle(kind, question, facts):
    """The answer as the parser knows it; None where it takes more than a fact."""
    if kind == "why":
        return facts["why"]
    if kind == "ending":
        return "well" if facts["outcome"] == "good" else "badly"
    if kind == "how many":
        numbers = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven"]
        return numbers[facts["left"]].capitalize() if "left" in question and "left" in facts else None
    if kind == "where":
        return facts["place"] if "set" in question or "meet" in question or "met" in question else None
    if "meet" in question or "met" in question or "friend" in question:
        return facts["friend"]
    return facts["hero"] if "about" in question or "hero of" in question else None


def test_what_is_unanswered_is_not_in_the_story(stories, some):
    rng = random.Random(1)
    never = {ask.partition("{")[0] for ask, _ in NEVER}
    n_later = 0
    for story, facts in some:
        text, question = unanswered(rng, stories, story, facts)
        assert question.answer == REFUSAL
        words = set(re.findall(r"\w+", question.ask.replace("How", "").replace("Wh", "")))
        names = {word for word in words if word in stories.words["hero"] + stories.words["friend"]}
        if text != story.text and facts["friend"] not in text:
            n_later += 1
            continue
        if any(question.ask.startswith(start) for start in never if start):
            continue
        assert question.ask not in {told.ask for told in questions(facts)}
        assert names <= {facts["hero"], facts["friend"]} or not names & set(re.findall(r"\w+", text))
    assert n_later > 30


def test_an_excerpt_is_a_part_of_a_story(some):
    rng, n_sections = random.Random(1), set()
    for story, _ in some:
        text = excerpt(rng, story)
        first = next(i for i, section in enumerate(story.sections) if text.startswith(section))
        sections = [" ".join(story.sections[first:end]) for end in range(first + 1, len(story.sections) + 1)]
        n_sections.add(sections.index(text) + 1)
    assert n_sections == {1, 2, 3}


def test_what_is_asked_about_an_excerpt_is_in_it_or_the_story_does_not_say(stories, some):
    rng, kinds = random.Random(1), set()
    for story, facts in some:
        text = excerpt(rng, story)
        found = set(re.findall(r"\w+", text.lower()))
        true = {question.ask: question for question in questions(facts)}
        for question in about_excerpt(rng, stories, text, facts):
            last = question.answer.removesuffix(".").split()[-1].removesuffix("'s").lower()
            if question.answer == REFUSAL:
                right = true[question.ask].form or true[question.ask].answer
                assert not found & set(re.findall(r"[a-z]+", right.lower())) - {"a", "an", "the"}
            elif question.answer in ("Yes.", "No."):
                [noun] = set(question.ask[:-1].split()) & {*stories.words["find"], *stories.words["animal"]}
                assert (noun in found) == (question.answer == "Yes.")
            else:
                assert last in found
                assert question.ask in true or f"{last} {question.ask.split()[3]}" in text.lower()
                assert all(name not in question.ask or name in text for name in (facts["hero"], facts["friend"]))
            kinds.add(question.answer if question.answer in (REFUSAL, "Yes.", "No.") else question.ask in true)
    assert kinds == {REFUSAL, "Yes.", "No.", True, False}


def test_questions_about_others_ask_what_is_asked_about_the_hero_too():
    asks = {row.ask.replace("{hero}", "{x}").replace("{friend}", "{x}") for row in EVERY + SOME}
    assert all(ask.replace("{stranger}", "{x}") in asks for ask, _ in OF_OTHERS if "{stranger}" in ask)


def test_a_wrong_refusal_is_wrong_and_so_is_an_answer_where_there_is_none(world, by_kind):
    for kind, exercises in by_kind.items():
        for exercise in exercises[:20]:
            assert world.is_right(exercise, REFUSAL) == (kind == "unanswered")
            assert not world.is_right(exercise, "In the garden and the lake.")


def test_a_written_story_must_be_valid_and_have_all_properties(world, by_kind):
    for exercise in by_kind["write"]:
        wanted, story = exercise.truth, exercise.answer["content"]
        assert isinstance(wanted, Wanted) and len(wanted.properties) >= 2
        for name, value in wanted.properties.items():
            other = {"good": "bad", "bad": "good"}.get(value, "x")
            changed_truth = exercise._replace(truth=Wanted("", {**wanted.properties, name: other}))
            assert not world.is_right(changed_truth, story)
            said = {"good": "well", "bad": "badly"}.get(value, value)
            assert said in exercise.messages[0]["content"]
        assert not world.is_right(exercise, story.replace(" was ", " is ", 1))
        assert not world.is_right(exercise, story + " The end.")


def test_another_story_with_the_properties_is_right(world):
    rng = random.Random(0)
    story = world.stories.draw(rng, "train")
    facts = world.stories.world.facts(story.text)
    exercise = next(world.exercises("train", 0))._replace(truth=Wanted("", {"hero": facts["hero"], "outcome": "good"}))
    happy, sad = (world.stories.with_ending(rng, story, outcome).text for outcome in ("good", "bad"))
    assert world.is_right(exercise, happy) and not world.is_right(exercise, sad)


def test_a_continuation_must_fit_the_beginning(world, by_kind):
    exercises = by_kind["continue"]
    for one, other in pairwise(exercises):
        assert not world.is_right(one, other.answer["content"])
        assert not world.is_right(one, f"{one.truth.beginning} {one.answer['content']}")


def test_a_happier_ending_is_happy_and_replaces_the_sad_one(world, by_kind):
    for exercise in by_kind["happier"]:
        lines = exercise.messages[0]["content"].split("\n")
        (story,) = [line for line in lines if world.stories.world.is_valid(line)]
        assert world.stories.world.facts(story)["outcome"] == "bad"
        assert not world.is_right(exercise, story.removeprefix(exercise.truth.beginning + " "))
        rewritten = f"{exercise.truth.beginning} {exercise.answer['content']}"
        assert world.stories.world.facts(rewritten)["outcome"] == "good"


def test_another_ending_keeps_the_facts_before_it(stories, some):
    rng = random.Random(2)
    for story, _ in some[:60]:
        for outcome in ("good", "bad"):
            facts = stories.world.facts(stories.with_ending(rng, story, outcome).text)
            assert facts["outcome"] == outcome
            before = stories.world.facts(story.text)
            assert all(facts[name] == before[name] for name in ("hero", "friend", "place", "plot"))


def test_summaries_of_one_form_are_equal_exactly_if_their_facts_are(some):
    for form in FORMS:
        said = {}
        for _, facts in some:
            plot = facts["plot"]
            key = (*(facts[name] for name in ("hero", "friend", "place", "well", "plot")), facts.get(DID[plot][1]))
            said.setdefault(summary(facts, form), set()).add(key)
        assert all(len(keys) == 1 for keys in said.values())
        assert all("{" not in text for text in said)


@pytest.mark.parametrize("part", ["train", "test"])
def test_a_change_changes_one_fact_and_stays_in_its_part(stories, part):
    rng = random.Random(3)
    names = {}
    for _ in range(300):
        facts = stories.facts(stories.draw(rng, part))
        name, other = changed(rng, stories, facts, part)
        names[name] = names.get(name, 0) + 1
        assert part_of(key_of_summary(other)) == part
        told = {"hero", "friend", "place", "well", DID[facts["plot"]][1]} - {""}
        different = {fact for fact in told if facts[fact] != other[fact]}
        assert different == {{"thing": DID[facts["plot"]][1], "ending": "well"}.get(name, name)}
        assert summary(facts) != summary(other)
    assert names.keys() == {"hero", "friend", "place", "thing", "ending"} and min(names.values()) > 40


def test_half_of_the_comparisons_agree(world):
    answers = [e.answer["content"] for e in islice(world.exercises("train", 0), 3000) if e.kind == "compare"]
    assert 0.4 < sum(answer == "They agree." for answer in answers) / len(answers) < 0.6


def test_listed_objects_are_in_order_and_all_that_the_story_remembers(stories, some):
    for story, facts in some:
        objects = stories.objects(story.text)
        remembered = [facts[name] for name in LISTED if name in facts]
        assert set(remembered) <= set(objects)
        assert [story.text.index(f" {word}") for word in objects] == sorted(story.text.index(f" {w}") for w in objects)
    assert stories.objects("She was as quiet as a tame ant. A bee saw dragons.") == ["bee"]
