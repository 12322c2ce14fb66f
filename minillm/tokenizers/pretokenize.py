r"""Words first, pieces second: what a learned piece may never reach across.

GPT-2 (Radford et al. 2019) cuts text, before it looks for pieces, by the pattern

    's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+

into English endings, letters, numbers and the rest, each with the space before it: otherwise "dog.", "dog!" and "dog" would
each be learned anew. Training and inference both cut here, by the same pattern, since pieces learned under one cut are
useless under another. The words of a text, joined, are the text.

The standard library has no \p{L} (letters) nor \p{N} (numbers of any kind: \d lacks the "½" and "Ⅷ" among them), and its \s takes
four control characters for spaces. So the classes are spelled out below; they agree with Unicode's for every character that
this Python's Unicode tables know. A character newer than the tables counts as neither letter nor number.
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
    r"""What \p{N} has beyond \d, about a thousand characters; found at the first call, in a tenth of a second."""
    return frozenset(
        char for char in map(chr, range(0x110000)) if char.isnumeric() and not char.isdecimal() and not char.isalpha()
    )


@lru_cache(maxsize=256)
def split_pattern(odd: str) -> re.Pattern:
    """The pattern for a text in which only these odd numbers occur; the whole thousand would slow it twentyfold."""
    letter, number = rf"[^\W\d_{odd}]", rf"[\d{odd}]"
    rest = rf"(?:_|[^\w{SPACES}])"
    return re.compile(rf"{ENDINGS}| ?{letter}+| ?{number}+| ?{rest}+|[{SPACES}]+(?![^{SPACES}])|[{SPACES}]+")


def split_words(text: str) -> list[str]:
    """Cut a text into words; joined, they are the text."""
    odd = "" if text.isascii() else "".join(sorted(odd_numbers().intersection(text)))
    return split_pattern(odd).findall(text)


def count_words(texts: Iterable[str]) -> Counter[str]:
    """How often each word occurs in the training texts."""
    counts: Counter[str] = Counter()
    for text in texts:
        to_utf8(text)  # refuses what is not text
        counts.update(split_words(text))
    if not counts:
        raise no_text_error()
    return counts


class WordCache(dict):
    """word -> its tokens, found by `segment` when first asked for: most words of a text have occurred before."""

    SIZE = 1 << 16  # words
    LONGEST = 64  # characters; longer ones hardly come back

    def __init__(self, segment: Callable[[bytes], list[int]]):
        super().__init__()
        self.segment = segment

    def __missing__(self, word: str) -> list[int]:
        tokens = self.segment(word.encode())
        if len(word) <= self.LONGEST:
            if len(self) >= self.SIZE:
                self.clear()
            self[word] = tokens
        return tokens

    def encode(self, text: str) -> list[int]:
        """Tokens of all words of a text."""
        to_utf8(text)  # refuses what is not text
        return list(chain.from_iterable(map(self.__getitem__, split_words(text))))
