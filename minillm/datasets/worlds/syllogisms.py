"""Syllogisms: two or three premises about classes of people, and whether a claim follows.

A form is a scheme with the classes A (a job), B and C (traits) and a person x. All forms are in one table, the invalid
ones too, in which people believe most often (affirming the consequent, denying the antecedent). The tests compare each
form with all possible worlds of its classes. Read before: `proof`.
"""

from typing import NamedTuple

from minillm.datasets.grammar_words import with_article
from minillm.datasets.worlds.builder import Builder
from minillm.datasets.worlds.exercise import Part, part_of
from minillm.datasets.worlds.proof import CLOSED, DOES_NOT_FOLLOW, Proof, closed
from minillm.datasets.worlds.words import people, story_words

Statement = tuple[str, str, str]  # ("all" | "no" | "some", class, class) or ("is" | "not", "x", class)


class Form(NamedTuple):
    """A scheme of syllogisms."""

    premises: str
    claim: str
    result: str
    steps: str


N, Y, D = "no", "yes", DOES_NOT_FOLLOW
FORMS = [  # in the premises, "all A B" is "all A are B", and "not x B" is "x is not B"; the steps say it again
    Form("all A B; is x A", "is x B", Y, "is x A; all A B; so is x B"),
    Form("no A B; is x A", "is x B", N, "is x A; no A B; so not x B"),
    Form("all A B; not x B", "is x A", N, "not x B; all A B; so not x A"),
    Form("no A B; is x B", "is x A", N, "is x B; no A B; so not x A"),
    Form("all A B; is x B", "is x A", D, "is x B; all A B; others B"),
    Form("all A B; not x A", "is x B", D, "not x A; all A B; others B"),
    Form("no A B; not x A", "is x B", D, "not x A; no A B; others not B"),
    Form("some A B; is x A", "is x B", D, "is x A; some A B; others not B"),
    Form("some A B; is x B", "is x A", D, "is x B; some A B; others B"),
    Form("all A B; all B C; is x A", "is x C", Y, "is x A; all A B; so is x B; all B C; so is x C"),
    Form("all A B; no B C; is x A", "is x C", N, "is x A; all A B; so is x B; no B C; so not x C"),
    Form("all A B; all B C; not x C", "is x A", N, "not x C; all B C; so not x B; all A B; so not x A"),
    Form("all A B; all C B; is x A", "is x C", D, "is x A; all A B; so is x B; all C B; others B"),
    Form("all A B; all B C; is x C", "is x A", D, "is x C; all B C; others C"),
    Form("all A B; all B C", "all A C", Y, "all A B; all B C; so all A C"),
    Form("some A B; all B C", "some A C", Y, "some A B; all B C; so some A C"),
    Form("all A B; no B C", "some A C", N, "all A B; no B C; so no A C"),
    Form("all A B; some B C", "some A C", D, "all A B; some B C; others C"),
]

WORDING = {
    "all": [
        "All {many} are {trait}.",
        "Every {one} is {trait}.",
        "Each {one} is {trait}.",
        "Whoever is {a_one} is {trait}.",
        "All of the {many} are {trait}.",
        "If somebody is {a_one}, this person is {trait}.",
        "Without exception, {many} are {trait}.",
        "To be {a_one} means to be {trait}.",
        "Without exception, all {many} are {trait}.",
        "Without exception, every {one} is {trait}.",
    ],
    "no": [
        "No {one} is {trait}.",
        "No {many} are {trait}.",
        "Not one {one} is {trait}.",
        "Whoever is {a_one} is not {trait}.",
        "None of the {many} are {trait}.",
        "If somebody is {a_one}, this person is not {trait}.",
        "Without exception, {many} are not {trait}.",
        "To be {a_one} means not to be {trait}.",
        "Without exception, no {one} is {trait}.",
        "Without exception, no {many} are {trait}.",
    ],
    "some": [
        "Some {many} are {trait}.",
        "There are {many} who are {trait}.",
        "At least one {one} is {trait}.",
        "A few {many} are {trait}.",
        "Some of the {many} are {trait}.",
        "Of the {many}, some are {trait}.",
        "There is {a_one} who is {trait}.",
        "One or more {many} are {trait}.",
        "There are some {many} who are {trait}.",
        "At least some {many} are {trait}.",
    ],
    "is": [
        "{name} is {be}.",
        "It is known that {name} is {be}.",
        "As we know, {name} is {be}.",
        "{name} is {be}, too.",
        "Now, {name} is {be}.",
        "This is {name}, who is {be}.",
        "And {name} is {be}.",
        "Everybody knows that {name} is {be}.",
        "Now, it is known that {name} is {be}.",
        "And as we know, {name} is {be}.",
    ],
    "not": [
        "{name} is not {be}.",
        "It is known that {name} is not {be}.",
        "As we know, {name} is not {be}.",
        "{name} is not {be} at all.",
        "Now, {name} is not {be}.",
        "This is {name}, who is not {be}.",
        "But {name} is not {be}.",
        "Everybody knows that {name} is not {be}.",
        "Now, it is known that {name} is not {be}.",
        "But as we know, {name} is not {be}.",
    ],
}


class Class(NamedTuple):
    """A class of people: a job or a trait."""

    one: str  # "poet", "brave person"
    many: str
    be: str  # what a person of the class is: "a poet", "brave"


def job(word: str) -> Class:
    return Class(word, word + "s", with_article(word))


def trait(word: str) -> Class:
    return Class(f"{word} person", f"{word} people", word)


class Syllogisms:
    """A source of syllogisms; the key of a premise is its pair of classes."""

    def __init__(self):
        jobs, traits = story_words("job"), story_words("trait")
        self.pairs: dict[Part, list[tuple[str, str]]] = {"train": [], "val": [], "test": []}
        self.followers: dict[Part, dict[str, list[str]]] = {"train": {}, "val": {}, "test": {}}
        for first in (*jobs, *traits):
            for second in traits:
                part = part_of(fact(first, second))
                if first in jobs:
                    self.pairs[part].append((first, second))
                elif first != second:
                    self.followers[part].setdefault(first, []).append(second)

    def draw(self, builder: Builder) -> Proof:
        """A syllogism of a random form."""
        form, rng = builder.rng.choice(FORMS), builder.rng
        a, b = rng.choice(self.pairs[builder.part])
        while b not in self.followers[builder.part]:
            a, b = rng.choice(self.pairs[builder.part])
        c = rng.choice(self.followers[builder.part][b])
        classes = {"A": job(a), "B": trait(b), "C": trait(c)}
        builder.keys.add(fact(a, b))
        if "C" in form.premises:
            builder.keys.add(fact(b, c))
        name = rng.choice(people()).name
        statements = [statement(text) for text in form.premises.split("; ")]
        rng.shuffle(statements)
        premises = " ".join(say(builder.template(WORDING[s[0]]), s, name, classes) for s in statements)
        claim = statement(form.claim)
        question = closed(
            builder.template(CLOSED), premises, asked(claim, name, classes), claimed(claim, name, classes)
        )
        steps = [step(text, name, classes) for text in form.steps.split("; ")]
        return Proof(question, steps, form.result, (form, *statements))


def fact(first: str, second: str) -> str:
    """The key of two classes, in either order.

    >>> fact("wise", "brave")
    'fact: brave wise'
    """
    return "fact: " + " ".join(sorted((first, second)))


def statement(text: str) -> Statement:
    kind, subject, predicate = text.split()
    return kind, subject, predicate


def say(template: str, said: Statement, name: str, classes: dict[str, Class]) -> str:
    """A statement in the words of a template."""
    _, subject, predicate = said
    be = classes[predicate].be
    if subject == "x":
        return template.format(name=name, be=be)
    one, many, _ = classes[subject]
    return template.format(one=one, many=many, a_one=with_article(one), trait=be)


def claimed(claim: Statement, name: str, classes: dict[str, Class]) -> str:
    """A claim within a sentence: "Anna is brave"."""
    said = say(WORDING[claim[0]][0], claim, name, classes).removesuffix(".")
    return said if claim[1] == "x" else said[0].lower() + said[1:]


def asked(claim: Statement, name: str, classes: dict[str, Class]) -> str:
    """A claim as a question within a sentence: "is Anna brave?"."""
    kind, subject, predicate = claim
    if subject == "x":
        return f"is {name} {classes[predicate].be}?"
    return f"are {kind} {classes[subject].many} {classes[predicate].be}?"


def step(text: str, name: str, classes: dict[str, Class]) -> str:
    """A step of a proof in words: a premise, a conclusion, or why nothing follows."""
    if text.startswith("so "):
        return "So " + claimed(statement(text.removeprefix("so ")), name, classes)
    if text.startswith("others "):
        return (
            f"Others may be {text.removeprefix('others ').replace('B', classes['B'].be).replace('C', classes['C'].be)}"
        )
    said = statement(text)
    return say(WORDING[said[0]][0], said, name, classes).removesuffix(".")
