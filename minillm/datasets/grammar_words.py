"""Word classes of a grammar: each word with its forms, such as with an article or a capital letter; and the numbers.

    words toy: name | use        kite | fly        {toy} = kite        {A toy} = A kite        {toy.use} = fly

The article depends on the sound of the word after it, so it is a form of that word. Read after this: `grammar`, which
draws the words.
"""

import re

NUMBERS = [
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"),
    *("eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty"),
]
VALUES = {word: value for value, word in enumerate(NUMBERS)}

CONSONANT_SOUND = re.compile(r"uni(?!n|m)|us(?!h)|ut[ei]|uku|eu|one(?!r)|once")  # a vowel that sounds like y or w


def with_article(word: str) -> str:
    """The word with its indefinite article: "an" before the sound of a vowel, else "a".

    >>> with_article("unicorn"), with_article("uninvited guest"), with_article("hour")
    ('a unicorn', 'an uninvited guest', 'an hour')
    """
    first = word.lower()
    is_vowel = first[0] in "aeiou" and not CONSONANT_SOUND.match(first)
    return ("an " if is_vowel or first.startswith(("hour", "honest", "honor", "heir")) else "a ") + word


class Words:
    """A class of words. An entry is a list of forms: the fields of the class, then derived forms (article, capital)."""

    def __init__(self, name: str, fields: list[str], entries: list[list[str]]):
        self.name, self.fields, self.entries = name, fields, entries
        self.columns = {(field, "", False): column for column, field in enumerate(fields)}

    def column(self, field: str, article: str, capital: bool) -> int:
        """The index of a form in every entry (`red`, `a red`, `Red`, `A red`); derives the form on its first use."""
        form = field, article, capital
        if form not in self.columns:
            source = self.columns[field, "", False]
            self.columns[form] = len(self.columns)
            for entry in self.entries:
                word = with_article(entry[source]) if article else entry[source]
                entry.append(word[0].upper() + word[1:] if capital else word)
        return self.columns[form]
