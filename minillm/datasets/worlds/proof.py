"""A proof: a question about premises, the steps to its answer, and the answer."""

from typing import NamedTuple

DOES_NOT_FOLLOW = "it does not follow"

# Closed questions about a claim: {ask} is "is Anna brave?", {claim} is "Anna is brave". In each list of wordings, every
# ninth of ten is for validation and every tenth for test (see `choose`).
CLOSED = [
    "{premises} {Ask}",
    "{premises} Does it follow that {claim}?",
    "{premises} Can we say that {claim}?",
    "{premises} Think about it: {ask}",
    "Listen. {premises} {Ask}",
    "{premises} Is it true that {claim}?",
    "{premises} So, {ask}",
    "We know this: {premises} Is it true that {claim}?",
    "Listen. {premises} Does it follow that {claim}?",
    "We know this: {premises} So, {ask}",
    "{premises} Do we know that {claim}?",
    "{premises} Somebody says that {claim}. Is it true?",
    "Here is what we know. {premises} {Ask}",
    "{premises} Must it be that {claim}?",
    "{premises} Tell me: {ask}",
    "Think about this. {premises} Can we say that {claim}?",
    "{Ask} Here is what we know. {premises}",
    "{premises} Is it certain that {claim}?",
    "Think about this. {premises} Tell me: {ask}",
    "{premises} Tell me: does it follow that {claim}?",
]


class Proof(NamedTuple):
    """A question with its answer, before it becomes an exercise."""

    question: str
    steps: list[str]
    result: str
    facts: tuple  # what the question says, in the notation of its kind
    forms: tuple[str, ...] = ()  # other right answers


def closed(template: str, premises: str, ask: str, claim: str) -> str:
    """A closed question.

    >>> closed("{premises} So, {ask}", "All poets are brave.", "are poets brave?", "poets are brave")
    'All poets are brave. So, are poets brave?'
    """
    return template.format(premises=premises, ask=ask, Ask=ask[0].upper() + ask[1:], claim=claim)
