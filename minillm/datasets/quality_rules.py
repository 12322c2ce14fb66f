"""Quality rules: measures of one document that tell running text from lists, tables, menus and machine output.

The rules of Gopher (Rae et al. 2021, appendix A.1), with which a large part of later web corpora was filtered: running
text has words of usual length that are made of letters, contains the most frequent words of its language, and does not
repeat itself. Each key of [cleaning] is the limit of one measure; `GOPHER` has the limits of the paper:

    >>> from minillm.datasets.cleaning import CleaningConfig, clean
    >>> clean(["buy now " * 40, "It is the end of the week, and she is with her friends."],
    ...       CleaningConfig(**{**GOPHER, "min_words": 5}))[0]
    ['It is the end of the week, and she is with her friends.']

Left out: the rules about paragraphs, which repeat those about lines. A word is what white space separates.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from minillm.datasets.word_ngrams import ngram_hashes

STOP_WORDS = frozenset(("the", "be", "to", "of", "and", "that", "have", "with"))
BULLETS = ("\u2022", "\u2023", "\u25aa", "\u25cf", "\u25e6", "* ", "- ")
ELLIPSES = ("...", "\u2026")
GOPHER = {
    "min_words": 50,
    "max_words": 100_000,
    "min_word_length": 3.0,
    "max_word_length": 10.0,
    "min_alphabetic": 0.8,
    "min_stop_words": 2,
    "max_marks": 0.1,
    "max_bullets": 0.9,
    "max_ellipses": 0.3,
    "max_repeated_lines": 0.3,
    "max_top_ngram": 0.2,
    "max_repeated_ngrams": 0.15,
}


def symbol_share(text: str) -> float:
    """The share of punctuation and symbols (Unicode categories P and S) among the characters that are not white space.

    >>> symbol_share("a + b = c!")
    0.5
    """
    counts = {char: n for char, n in Counter(text).items() if not char.isspace()}
    return sum(n for char, n in counts.items() if unicodedata.category(char)[0] in "PS") / max(1, sum(counts.values()))


def n_words(text: str) -> int:
    """The number of words."""
    return len(text.split())


def word_length(text: str) -> float:
    """The mean number of characters in a word; 0 without words."""
    words = text.split()
    return sum(map(len, words)) / max(1, len(words))


def alphabetic_share(text: str) -> float:
    """The share of words with at least one letter.

    >>> alphabetic_share("in 1984 - 40 years ago")
    0.5
    """
    words = text.split()
    return sum(any(map(str.isalpha, word)) for word in words) / max(1, len(words))


def n_stop_words(text: str) -> int:
    """The number of different stop words in a text, out of eight frequent English words."""
    return len(STOP_WORDS.intersection(re.findall(r"\w+", text.lower())))


def marks_per_word(text: str) -> float:
    """The number of hash signs, or of ellipses if there are more of them, over the number of words."""
    return max(text.count("#"), sum(map(text.count, ELLIPSES))) / max(1, n_words(text))


def bullet_share(text: str) -> float:
    """The share of lines that start with a bullet point."""
    lines = _lines(text)
    return sum(line.startswith(BULLETS) for line in lines) / max(1, len(lines))


def ellipsis_share(text: str) -> float:
    """The share of lines that end with an ellipsis, as the cut-off texts of a list of pages do."""
    lines = _lines(text)
    return sum(line.endswith(ELLIPSES) for line in lines) / max(1, len(lines))


def repeated_line_share(text: str) -> float:
    r"""The share of lines that are equal to an earlier line of the document.

    >>> repeated_line_share("home\nabout\nhome\nhome")
    0.5
    """
    lines = _lines(text)
    return 1 - len(set(lines)) / max(1, len(lines)) if lines else 0.0


def top_ngram_share(text: str) -> float:
    """The share of characters in the most frequent n-gram, if it is repeated; the largest for n = 2, 3, 4.

    The paper allows 0.20, 0.18 and 0.16 of them; each is scaled here to the limit for n = 2. Of equally frequent
    n-grams the longest counts.
    """
    words = text.split()
    return min(1.0, max(_covered(words, n, _top) * 10 / (12 - n) for n in (2, 3, 4)))


def repeated_ngram_share(text: str) -> float:
    """The share of characters in any n-gram that occurs again; the largest for n = 5 ... 10.

    The paper allows 0.15, 0.14 ... 0.10 of them; each is scaled here to the limit for n = 5.
    """
    words = text.split()
    return min(1.0, max(_covered(words, n, _repeated) * 15 / (20 - n) for n in range(5, 11)))


class Rule(NamedTuple):
    """A measure of a document. Its key begins with min_ or max_, which says on which side of the limit is removed."""

    name: str  # in the report
    measure: Callable[[str], float]


RULES = {  # key of [cleaning] -> rule
    "min_words": Rule("words", n_words),
    "max_words": Rule("words", n_words),
    "min_word_length": Rule("word length", word_length),
    "max_word_length": Rule("word length", word_length),
    "min_alphabetic": Rule("alphabetic words", alphabetic_share),
    "min_stop_words": Rule("stop words", n_stop_words),
    "max_marks": Rule("# or ... per word", marks_per_word),
    "max_bullets": Rule("bullet lines", bullet_share),
    "max_ellipses": Rule("lines ending in ...", ellipsis_share),
    "max_repeated_lines": Rule("repeated lines", repeated_line_share),
    "max_top_ngram": Rule("top n-gram", top_ngram_share),
    "max_repeated_ngrams": Rule("repeated n-grams", repeated_ngram_share),
}


def breaks(key: str, limit: float, text: str) -> bool:
    """Whether a document breaks a rule; one that is exactly at the limit does not."""
    measured = RULES[key].measure(text)
    return measured < limit if key.startswith("min_") else measured > limit


def describe(key: str, limit: float) -> str:
    """The condition under which a rule removes a document.

    >>> describe("min_words", 50)
    'words < 50'
    """
    return f"{RULES[key].name} {'<' if key.startswith('min_') else '>'} {limit:,g}"


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.split("\n") if line.strip()]


def _top(counts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Among different n-grams: the most frequent one, the longest of them, if it is repeated."""
    chosen = np.zeros(len(counts), bool)
    chosen[np.lexsort((lengths, counts))[-1]] = counts.max() > 1
    return chosen


def _repeated(counts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    return counts > 1


def _covered(words: list[str], n: int, choose: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> float:
    """The share of characters in the chosen n-grams, each character once.

    `choose` gets the count and the length of each different n-gram.
    """
    if len(words) < n:
        return 0.0
    chars = np.array([len(word) for word in words])  # (N,)
    ends = np.concatenate([[0], np.cumsum(chars)])
    hashes = ngram_hashes(words, n)  # (N - n + 1,)
    _, first, which, counts = np.unique(hashes, return_index=True, return_inverse=True, return_counts=True)
    chosen = choose(counts, (ends[n:] - ends[:-n])[first])[which].astype(int)
    opened = np.zeros(len(words) + 1, int)  # n-grams that begin here, minus those that ended before
    opened[: len(chosen)] += chosen
    opened[n:] -= chosen
    return float(chars[np.cumsum(opened)[:-1] > 0].sum() / chars.sum())
