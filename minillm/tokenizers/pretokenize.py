r"""Pre-tokenization: cut text into words, which no learned piece may cross.

GPT-2 (Radford et al. 2019) cuts text, before it looks for pieces, by the pattern

    's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+

into English endings, letters, numbers and the rest, each with the space before it; otherwise "dog.", "dog!" and "dog"
would be learned separately. Training and inference use the same pattern. The words of a text, joined, are the text. The
standard library has neither \p{L} (letters) nor \p{N} (numbers; \d lacks "½" and "Ⅷ"), and its \s includes four control
characters. So the classes are spelled out below, equal to Unicode's for every character in this Python's tables.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable
from functools import cache, lru_cache
from itertools import chain

from minillm.tokenizers.tokenizer import no_text_error, to_utf8

SPACES = r"\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"  # Unicode's White_Space
ENDINGS = "'s|'t|'re|'ve|'m|'ll|'d"


@cache
def odd_numbers() -> frozenset[str]:
    r"""The characters that \p{N} has beyond \d, about a thousand; computed at the first call, in 0.1 seconds."""
    return frozenset(
        char for char in map(chr, range(0x110000)) if char.isnumeric() and not char.isdecimal() and not char.isalpha()
    )


@lru_cache(maxsize=256)
def split_pattern(odd: str) -> re.Pattern:
    """The pattern for a text with only these odd numbers; a pattern with all thousand would be twenty times slower."""
    letter, number = rf"[^\W\d_{odd}]", rf"[\d{odd}]"
    rest = rf"(?:_|[^\w{SPACES}])"
    return re.compile(rf"{ENDINGS}| ?{letter}+| ?{number}+| ?{rest}+|[{SPACES}]+(?![^{SPACES}])|[{SPACES}]+")


def split_words(text: str) -> list[str]:
    """Cut a text into words; joined, they are the text.

    >>> split_words("It's 3 dogs,  or 12!")
    ['It', "'s", ' 3', ' dogs', ',', ' ', ' or', ' 12', '!']
    """
    odd = "" if text.isascii() else "".join(sorted(odd_numbers().intersection(text)))
    return split_pattern(odd).findall(text)


def count_words(texts: Iterable[str]) -> Counter[str]:
    """Count each word of the training texts. Raises ValueError if there are none."""
    counts: Counter[str] = Counter()
    for text in texts:
        to_utf8(text)  # raises ValueError for a lone surrogate
        counts.update(split_words(text))
    if not counts:
        raise no_text_error()
    return counts


class WordCache(dict):
    """A cache word -> tokens, filled by `segment` on a miss: most words of a text have occurred before."""

    SIZE = 1 << 16  # words
    LONGEST = 64  # characters; longer words rarely recur

    def __init__(self, segment: Callable[[str], list[int]]):
        super().__init__()
        self.segment = segment

    def __missing__(self, word: str) -> list[int]:
        tokens = self.segment(word)
        if len(word) <= self.LONGEST:
            if len(self) >= self.SIZE:
                self.clear()
            self[word] = tokens
        return tokens

    def encode(self, text: str) -> list[int]:
        """The tokens of all words of a text."""
        to_utf8(text)  # raises ValueError for a lone surrogate
        return list(chain.from_iterable(map(self.__getitem__, split_words(text))))
