"""Equal forms of an answer: capitals, spaces and a final period do not matter, nor does how a number is written.

Scores of generated worlds are exact: an answer is compared whole with the right one, never searched for words. What may
differ is fixed here.
"""

from minillm.datasets.grammar_words import NUMBERS
from minillm.tokenizers.chat import split_thought

TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
WORDS = [*NUMBERS[:20], *(ten + unit for ten in TENS for unit in ["", *(f"-{word}" for word in NUMBERS[1:10])])]
IN_WORDS = {str(value): word for value, word in enumerate(WORDS)}
VALUES = {form: value for value, word in enumerate(WORDS) for form in (word, word.replace("-", " "), str(value))}


def plain(text: str) -> str:
    """A text in lower case with single spaces, without spaces around it or a final period.

    >>> plain(" It does  not follow. ")
    'it does not follow'
    """
    return " ".join(text.lower().split()).removesuffix(".").rstrip()


def normal(text: str) -> str:
    """`plain` without articles, with numbers in words: the form in which answers about stories are compared.

    >>> normal(" The 2 kites. ") == normal("two kites"), normal("not a kite") == normal("a kite")
    (True, False)
    """
    words = [IN_WORDS.get(word, word) for word in plain(text).split()]
    return " ".join(word for word in words if word not in ("a", "an", "the"))


def number(text: str) -> int | None:
    """The number from 0 to 99 that a text consists of, in digits or words; None for any other text.

    >>> number("14"), number("Twenty-one."), number("14 apples"), number("014")
    (14, 21, None, None)
    """
    return VALUES.get(plain(text))


def content(answer: str) -> str:
    """The plain content of a whole answer; empty where the thoughts before it do not end.

    >>> content("<think>2 + 3 = 5.</think>5."), content("<think>2 + 3 = 5")
    ('5', '')
    """
    return plain(split_thought(answer)[1])
