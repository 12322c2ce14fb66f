"""A generated French-English corpus: every French sentence has exactly one English translation, so errors are certain.

    je suis étudiant                                    I am a student
    est-ce qu'elle n'a pas mangé l'orange du voisin ?   did she not eat the neighbor's orange?

The grammar below covers agreement of gender, number and person, present, past and future, negation, questions,
adjectives before and after the noun, elision (l' j' n' d' qu') and contraction (au aux du des). Ambiguity is left out:
il and elle are people, never things, and son and sa (his or her) do not occur. A sentence lists its combinations (noun
+ adjective, verb + object); some of them are held out of training, so that a right translation of these is composed,
not memorized. Read before: `lexicon`.
"""

import random
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple, TypeVar

from minillm.datasets.grammar_words import with_article
from minillm.datasets.lexicon import AVOIR, Lexicon, Noun, Verb, english_s, starts_with_vowel
from minillm.datasets.pairs import Pair
from minillm.system.folders import SHIPPED

WORDS = SHIPPED / "data" / "translation.txt"
PEOPLE, THINGS = ("job", "person"), ("animal", "food", "text", "object", "place")

PRONOUNS = [  # French, English, person, genders, numbers that it may have
    ("je", "I", 0, "mf", (False,)),
    ("tu", "you", 1, "mf", (False,)),
    ("il", "he", 2, "m", (False,)),
    ("elle", "she", 2, "f", (False,)),
    ("nous", "we", 3, "mf", (True,)),
    ("vous", "you", 4, "mf", (False, True)),
    ("ils", "they", 5, "m", (True,)),
    ("elles", "they", 5, "f", (True,)),
]
THE, A = ("le", "la", "les", "the", "the"), ("un", "une", "des", "a", "")
DETERMINERS = [  # masculine, feminine, plural; English singular and plural
    *(THE, THE, THE, A, A, A, ("mon", "ma", "mes", "my", "my"), ("ton", "ta", "tes", "your", "your")),
    *(
        ("notre", "notre", "nos", "our", "our"),
        ("votre", "votre", "vos", "your", "your"),
        ("ce", "cette", "ces", "this", "these"),
    ),
]
BE = {
    "present": (("suis", "es", "est", "sommes", "êtes", "sont"), ("am", "are", "is", "are", "are", "are")),
    "past": (("étais", "étais", "était", "étions", "étiez", "étaient"), ("was", "were", "was", "were", "were", "were")),
}
FUTURE = ("ai", "as", "a", "ons", "ez", "ont")
CONTRACTIONS = {("à", "le"): "au", ("à", "les"): "aux", ("de", "le"): "du", ("de", "les"): "des"}
ELIDED = ("je", "ne", "le", "la", "de", "que")
BEFORE_VOWEL = {"ce": "cet", "ma": "mon", "ta": "ton"}

T = TypeVar("T")


class Phrase(NamedTuple):
    """A phrase in both languages, with its agreement."""

    french: list[str]
    english: list[str]
    head: str  # its main word, for combinations
    person: int = 2  # 0 ... 5: je tu il nous vous ils
    gender: str = "m"
    plural: bool = False
    kind: str = "person"


class Predicate(NamedTuple):
    """A verb (None: être) and the words after it, in both languages."""

    verb: Verb | None
    french: list[str]
    english: list[str]


class TranslationWorld:
    """A generator of sentence pairs from one file of words."""

    def __init__(self, path: Path = WORDS):
        self.words = Lexicon(path)

    def pairs(self, seed: int) -> Iterator[Pair]:
        """Generate pairs without end, the same for the same seed on every machine."""
        draw = random.Random(seed).random
        while True:
            yield _Sentence(self.words, draw).write()

    def generate(self, n_pairs: int, seed: int) -> list[Pair]:
        """The first `n_pairs` of `pairs`."""
        return list(islice(self.pairs(seed), n_pairs))


class _Sentence:
    """One sentence under construction."""

    def __init__(self, words: Lexicon, draw):
        self.words, self.draw = words, draw
        self.combinations: set[str] = set()

    def write(self) -> Pair:
        tense = self.one(["present", "present", "past", "future"])
        negated, asked = self.chance(0.25), self.chance(0.2)
        shape = self.one(["job", "state", "thing's state", "where", "verb", "verb", "verb", "verb"])
        subject = self.noun_phrase(THINGS) if shape == "thing's state" else self.subject()
        predicate = {"job": self.job, "where": self.where, "verb": self.action}.get(shape, self.state)(subject, negated)
        french, english = (
            say_french(subject, predicate, tense, negated, asked),
            say_english(subject, predicate, tense, negated, asked),
        )
        if self.chance(0.25):
            when = self.one(self.words.times[tense])
            french, english = [*french, *when[0].split()], [*english, when[1]]
        if asked:
            french, english = ["est-ce", "que", *french, "?"], [*english[:-1], english[-1] + "?"]
        return Pair(join_french(french), join_english(english), frozenset(self.combinations))

    def one(self, items: Sequence[T]) -> T:
        return items[int(self.draw() * len(items))]

    def chance(self, p: float) -> bool:
        return self.draw() < p

    def combine(self, a: str, b: str) -> None:
        self.combinations.add(f"{a} + {b}")

    def subject(self) -> Phrase:
        u = self.draw()
        if u < 0.5:
            french, english, person, genders, numbers = self.one(PRONOUNS)
            return Phrase([french], [english], french, person, self.one(genders), self.one(numbers))
        if u < 0.65:
            return self.name()
        if u < 0.7:
            a, b = self.name(), self.name()
            gender = "m" if "m" in (a.gender, b.gender) else "f"
            if a.head != b.head:
                return Phrase(
                    [*a.french, "et", *b.french],
                    [*a.english, "and", *b.english],
                    f"{a.head} and {b.head}",
                    5,
                    gender,
                    True,
                )
        return self.noun_phrase(PEOPLE)

    def name(self) -> Phrase:
        gender = self.one("mf")
        name = self.one(self.words.names[gender])
        return Phrase([name], [name], name, gender=gender)

    def noun_phrase(self, kinds: Sequence[str], negated: bool = False, owned: bool = True) -> Phrase:
        """Draw a noun of one of these kinds with its article and perhaps an adjective or (if `owned`) an owner.

        `negated`: it is the direct object of a negated verb, before which un, une and des become de.
        """
        noun: Noun = self.one([noun for kind in kinds for noun in self.words.nouns[kind]])
        gender, plural, head = self.one(noun.genders), self.chance(0.3), noun.english[0]
        determiner = self.one(DETERMINERS) if owned else THE
        french, english, before = [noun.french[gender, plural]], [noun.english[plural]], False
        if owned and self.chance(0.4):
            adjective = self.one(self.words.fitting(noun.kind))
            self.combine(head, adjective.english)
            form, before = adjective.french[gender, plural], adjective.before
            if before and (gender, plural) == ("m", False) and starts_with_vowel(french[0]):
                form = adjective.before_vowel
            french, english = [form, *french] if before else [*french, form], [adjective.english, *english]
        article = determiner[2] if plural else determiner[gender == "f"]
        if determiner is A and (negated or (plural and before)):
            article = "de"
        the = [determiner[4] if plural else determiner[3]]
        if determiner is THE and owned and self.chance(0.25):
            owner = self.name() if self.chance(0.3) else self.noun_phrase(PEOPLE, owned=False)
            self.combine(head, owner.head)
            ending = "'" if owner.plural and owner.english[-1].endswith("s") else "'s"
            the = [*owner.english[:-1], owner.english[-1] + ending]
            french = [*french, "de", *owner.french]
        return Phrase(
            [article, *french], [*filter(None, the), *english], head, 5 if plural else 2, gender, plural, noun.kind
        )

    def job(self, subject: Phrase, negated: bool) -> Predicate:
        noun = self.one(self.words.nouns["job"])
        self.combine(subject.head, noun.english[0])
        english = [noun.english[1]] if subject.plural else ["a", noun.english[0]]
        return Predicate(None, [noun.french[subject.gender, subject.plural]], english)

    def state(self, subject: Phrase, negated: bool) -> Predicate:
        adjective = self.one(self.words.fitting(subject.kind))
        self.combine(subject.head, adjective.english)
        very = self.chance(0.2)
        return Predicate(
            None,
            ["très"] * very + [adjective.french[subject.gender, subject.plural]],
            ["very"] * very + [adjective.english],
        )

    def where(self, subject: Phrase, negated: bool) -> Predicate:
        kind = self.one(list(self.words.places))
        french, english = self.one(self.words.places[kind])
        place = self.noun_phrase([kind])
        self.combine(subject.head, place.head)
        return Predicate(None, [french, *place.french], [english, *place.english])

    def action(self, subject: Phrase, negated: bool) -> Predicate:
        verb = self.one(self.words.verbs)
        # subtle: a held-out combination with nous or vous would hide a form of the verb altogether
        if subject.person in (2, 5):
            self.combine(subject.head, verb.english)
        french, english = [], []
        if verb.objects:
            thing = self.noun_phrase(verb.objects, negated)
            self.combine(verb.english, thing.head)
            french, english = thing.french, thing.english
        if verb.preposition:
            goal = self.noun_phrase(verb.goals, owned=not verb.objects)
            self.combine(verb.english, goal.head)
            french, english = (
                [*french, verb.preposition, *goal.french],
                [*english, *["to"] * bool(verb.objects), *goal.english],
            )
        return Predicate(verb, french, english)


def say_french(subject: Phrase, predicate: Predicate, tense: str, negated: bool, asked: bool) -> list[str]:
    """The French words of a sentence: subject, verb and the rest; a participle follows pas."""
    verb, person, participle = predicate.verb, subject.person, []
    if tense == "future":
        form = (verb.future if verb else "ser") + FUTURE[person]
    elif verb is None:
        form = BE[tense][0][person]
    elif tense == "present":
        form = verb.present[person]
    else:
        agreement = ("e" if subject.gender == "f" else "") + ("s" if subject.plural else "")
        form = BE["present"][0][person] if verb.takes_be else AVOIR[person]
        participle = [verb.participle + agreement * verb.takes_be]
    group = ["ne", form, "pas"] if negated else [form]
    return [*subject.french, *group, *participle, *predicate.french]


def say_english(subject: Phrase, predicate: Predicate, tense: str, negated: bool, asked: bool) -> list[str]:
    """The English words of a sentence: subject, auxiliary, not, verb and the rest; in a question auxiliary first."""
    verb, third, auxiliary = predicate.verb, subject.person == 2, []
    if verb is None:
        auxiliary, rest = (["will"], ["be"]) if tense == "future" else ([BE[tense][1][subject.person]], [])
    elif tense == "future":
        auxiliary, rest = ["will"], [verb.english]
    elif negated or asked:
        auxiliary, rest = ["did" if tense == "past" else "does" if third else "do"], [verb.english]
    else:
        rest = [verb.past if tense == "past" else english_s(verb.english) if third else verb.english]
    middle = [*auxiliary, *subject.english] if asked else [*subject.english, *auxiliary]
    return [*middle, *["not"] * negated, *rest, *predicate.english]


def join_french(words: list[str]) -> str:
    """Join French words, with elision and contraction.

    >>> join_french(["de", "le", "chat"]), join_french(["le", "ami"]), join_french(["ce", "ami"])
    ('du chat', "l'ami", 'cet ami')
    """
    words = [
        word
        for before, word in zip(["", *words], words, strict=False)
        if not (before == "de" and word in ("des", "de"))
    ]
    out: list[str] = []
    for word, following in zip(words, [*words[1:], ""], strict=True):
        vowel = starts_with_vowel(following)
        if out and (out[-1], word) in CONTRACTIONS and not (word == "le" and vowel):
            out[-1] = CONTRACTIONS[out[-1], word]
        elif vowel and word in ELIDED:
            out.append(word[:-1] + "'")
        else:
            out.append(BEFORE_VOWEL.get(word, word) if vowel else word)
    return " ".join(out).replace("' ", "'")


def join_english(words: list[str]) -> str:
    """Join English words; a becomes an before the sound of a vowel.

    >>> join_english(["a", "old", "dog"])
    'an old dog'
    """
    words = " ".join(words).split()
    for i, word in enumerate(words[:-1]):
        if word == "a":
            words[i] = with_article(words[i + 1].lower()).partition(" ")[0]
    return " ".join(words)
