"""A lexicon of French and English words, read from a file and inflected by gender, number and person.

    nouns animal                         adjectives before animal thing          verbs animal thing + à person
      cheval m = horse                     beau/bel belle = beautiful              montrer = show

`data/translation.txt` explains the notation and uses all of it. A regular word is written once; the rules are those of
a school grammar: -al becomes -aux, -eau takes an x, -er verbs end in e es e ons ez ent, English verbs in s and ed. Read
after this: `translation`, which builds sentences from the words.
"""

from pathlib import Path
from typing import NamedTuple, NoReturn

VOWELS = "aàâeéèêëiîïoôœuùûh"  # every h in the file is silent
AVOIR = ("ai", "as", "a", "avons", "avez", "ont")
# exceptions to the rule for -eu, -au and -al
PLURAL_IN_S = ("bleu", "pneu", "landau", "bal", "carnaval", "festival", "récital", "chacal", "naval", "fatal", "banal")
HEADINGS = ("nouns", "adjectives", "verbs", "names", "places", "times")

Forms = dict[tuple[str, bool], str]  # (gender, whether plural) -> form


class Noun(NamedTuple):
    """A noun and its forms."""

    kind: str
    genders: str  # "m", "f", or "mf" for people of either gender
    french: Forms
    english: tuple[str, str]  # singular, plural


class Adjective(NamedTuple):
    """An adjective and its forms."""

    before: bool  # whether it precedes its noun
    kinds: tuple[str, ...]  # kinds of noun that it may describe
    french: Forms
    before_vowel: str  # masculine singular before a vowel
    english: str


class Verb(NamedTuple):
    """A verb, its objects and its forms."""

    objects: tuple[str, ...]  # kinds of its direct object; none for an intransitive verb
    preposition: str  # of its indirect object; empty if it has none
    goals: tuple[str, ...]  # kinds of its indirect object
    present: tuple[str, ...]  # je tu il nous vous ils
    participle: str
    future: str  # without its ending
    takes_be: bool  # être, not avoir, forms the past: the participle agrees with the subject
    english: str
    past: str  # in English


class Lexicon:
    """The words of one file. Raises ValueError, with the line, for an entry that breaks the notation."""

    def __init__(self, path: Path):
        self.path = path
        self.nouns: dict[str, list[Noun]] = {}
        self.adjectives: list[Adjective] = []
        self.verbs: list[Verb] = []
        self.names: dict[str, list[str]] = {}
        self.places: dict[str, list[tuple[str, str]]] = {}
        self.times: dict[str, list[tuple[str, str]]] = {}
        heading: list[str] = []
        for self.line, text in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if not text.strip() or text.startswith("#"):
                continue
            if not text.startswith(" "):
                heading = text.split()
                if heading[0] not in HEADINGS:
                    self._refuse(text, f"{', '.join(HEADINGS)}, or an indented word below one of them")
            elif not heading:
                self._refuse(text, "a heading such as 'nouns animal' above the first word")
            else:
                self._add(heading[0], heading[1:], text.strip())

    def fitting(self, kind: str) -> list[Adjective]:
        """The adjectives that may describe a kind of noun."""
        return [adjective for adjective in self.adjectives if kind in adjective.kinds or "all" in adjective.kinds]

    def _add(self, what: str, options: list[str], text: str) -> None:
        if what == "names":
            self.names.setdefault(options[0], []).extend(name.strip() for name in text.split(","))
            return
        french, equals, english = (part.strip() for part in text.partition("="))
        if not equals or not french or not english:
            self._refuse(text, "French = English")
        if what == "nouns":
            self.nouns.setdefault(options[0], []).append(self._noun(options[0], french.split(), english))
        elif what == "adjectives":
            self.adjectives.append(self._adjective(options[0] == "before", tuple(options[1:]), french.split(), english))
        elif what == "verbs":
            self.verbs.append(self._verb(options, french, english))
        else:
            (self.places if what == "places" else self.times).setdefault(options[0], []).append((french, english))

    def _noun(self, kind: str, french: list[str], english: str) -> Noun:
        if len(french) != 2:
            self._refuse(" ".join(french), "a noun and m or f, or its masculine and its feminine")
        singular, _, plural = (part.strip() for part in english.partition(","))
        word, second = french
        both = {"m": word, "f": word} if second in ("m", "f") else {"m": word, "f": second}
        forms = {
            (gender, many): french_plural(form) if many else form
            for gender, form in both.items()
            for many in (False, True)
        }
        return Noun(kind, second if second in ("m", "f") else "mf", forms, (singular, plural or english_s(singular)))

    def _adjective(self, before: bool, kinds: tuple[str, ...], french: list[str], english: str) -> Adjective:
        if len(french) not in (1, 2, 4):
            self._refuse(" ".join(french), "one form for all, masculine and feminine, or these two and their plurals")
        word, _, before_vowel = french[0].partition("/")
        m, f = (word, french[1] if len(french) > 1 else word)
        plurals = french[2:] or [french_plural(m), french_plural(f)]
        forms = {("m", False): m, ("f", False): f, ("m", True): plurals[0], ("f", True): plurals[1]}
        return Adjective(before, kinds, forms, before_vowel or m, english)

    def _verb(self, options: list[str], french: str, english: str) -> Verb:
        objects, goals = options, []
        if "+" in options:
            objects, goals = options[: options.index("+")], options[options.index("+") + 1 :]
        base, _, past = (part.strip() for part in english.partition(","))
        infinitive, *parts = (part.strip() for part in french.split("/"))
        takes_be, infinitive = infinitive.endswith("*"), infinitive.removesuffix("*")
        stem = infinitive.removesuffix("er")
        if not parts and stem == infinitive:
            forms = "/ six of the present / participle / stem of the future"
            self._refuse(french, f"the forms of a verb that does not end in -er: {forms}")
        present, participle, future = parts or [
            f"{stem}e {stem}es {stem}e {stem}ons {stem}ez {stem}ent",
            f"{stem}é",
            infinitive,
        ]
        return Verb(
            tuple(kind for kind in objects if kind != "-"),
            goals[0] if goals else "",
            tuple(goals[1:]),
            tuple(present.split()),
            participle,
            future,
            takes_be,
            base,
            _change_first(base, lambda word: past or english_ed(word)),
        )

    def _refuse(self, text: str, expected: str) -> NoReturn:
        raise ValueError(
            f"{self.path.name} line {self.line}: {text[:60].strip()!r}: expected {expected}; see the top of the file"
        )


def starts_with_vowel(word: str) -> bool:
    """Whether le, je, ne, de ... lose their e before this word.

    >>> starts_with_vowel("homme"), starts_with_vowel("chat")
    (True, False)
    """
    return word[:1].lower() in VOWELS and word != ""


def french_plural(word: str) -> str:
    """The plural of a French noun or adjective.

    >>> [french_plural(word) for word in ("chat", "cheval", "gâteau", "jeu", "heureux", "pneu", "festival")]
    ['chats', 'chevaux', 'gâteaux', 'jeux', 'heureux', 'pneus', 'festivals']
    """
    if word in PLURAL_IN_S:
        return word + "s"
    if word.endswith(("s", "x", "z")):
        return word
    if word.endswith("al"):
        return word[:-1] + "ux"
    return word + ("x" if word.endswith(("eau", "eu", "au")) else "s")


def english_s(word: str) -> str:
    """The plural of a noun, or the third person of a verb (of a phrase: of its first word).

    >>> english_s("cat"), english_s("watch"), english_s("story"), english_s("look at")
    ('cats', 'watches', 'stories', 'looks at')
    """

    def inflected(w: str) -> str:
        if w == "have":
            return "has"
        return w[:-1] + "ies" if _consonant_y(w) else w + ("es" if _takes_es(w) else "s")

    return _change_first(word, inflected)


def english_ed(word: str) -> str:
    """The regular past of a verb.

    >>> english_ed("work"), english_ed("invite"), english_ed("carry")
    ('worked', 'invited', 'carried')
    """
    return word[:-1] + "ied" if _consonant_y(word) else word + ("d" if word.endswith("e") else "ed")


def _takes_es(word: str) -> bool:
    return word.endswith(("s", "sh", "ch", "x", "o"))


def _consonant_y(word: str) -> bool:
    return word.endswith("y") and word[-2] not in "aeiou"


def _change_first(phrase: str, change) -> str:
    """The phrase with its first word changed."""
    first, space, rest = phrase.partition(" ")
    return change(first) + space + rest
