"""Novelty of a text: the share of its words and word pairs that the training text lacks.

A model gives an answer for any text, but for an unfamiliar text the answer means little. Two counts show that a text is
unfamiliar: words, and pairs of neighboring words, that do not occur in the training text. The usual number is measured
on held-out text of the same corpus: a text is novel if it has more of them than 99 of 100 held-out passages of the same
length. So a corpus with many rare words allows more of them (the out-of-vocabulary rate of speech recognition). Read
before: `tasks/documents.py`.
"""

import math
import re
from collections.abc import Iterable, Sequence
from itertools import pairwise

from minillm.datasets.masking import MASK

WORD = re.compile(r"\w+(?:['\u2019]\w+)*|[^\w\s]")
USUAL = 0.99  # share of held-out passages that are not novel
N_SHOWN = 5  # words or pairs in a remark
Pair = tuple[str, str]


def words(text: str) -> list[str]:
    """The words and punctuation marks of a text.

    >>> words("Don't stop, Anna!")
    ["Don't", 'stop', ',', 'Anna', '!']
    """
    return WORD.findall(text)


def pairs(text: str) -> list[Pair]:
    """Pairs of neighboring words.

    >>> pairs("a red hat")
    [('a', 'red'), ('red', 'hat')]
    """
    found = words(text)
    return list(pairwise(found))


class Novelty:
    """The words and pairs of a training text, and the usual number of others in held-out text."""

    def __init__(self, train: Iterable[str], held_out: Iterable[str]):
        self.words: set[str] = set()
        self.pairs: set[Pair] = set()
        for text in train:
            self.words.update(words(text))
            self.pairs.update(pairs(text))
        held_out = list(held_out)
        self.new_words = [word not in self.words for text in held_out for word in words(text)]
        self.new_pairs = [pair not in self.pairs for text in held_out for pair in pairs(text)]

    def remark(self, text: str) -> str:
        """A sentence about the novel words or pairs of a text, perhaps with masks; "" if it is like held-out text."""
        parts = text.split(MASK)  # subtle: the neighbors of a mask are unknown
        found = [word for part in parts for word in words(part)], [pair for part in parts for pair in pairs(part)]
        for name, units, seen, usual in zip(
            ("words", "pairs of neighboring words"),
            found,
            (self.words, self.pairs),
            (self.new_words, self.new_pairs),
            strict=True,
        ):
            new, most = [unit for unit in units if unit not in seen], most_usual(usual, len(units))
            if len(new) > most:
                shown = ", ".join(
                    f'"{unit if isinstance(unit, str) else " ".join(unit)}"'
                    for unit in list(dict.fromkeys(new))[:N_SHOWN]
                )
                more = ", ..." if len(set(new)) > N_SHOWN else ""
                return (
                    "note: this text is unlike the training text, so the answer means little: "
                    f"{len(new)} of its {len(units)} {name} never occur there ({shown}{more}); "
                    f"{USUAL:.0%} of held-out passages of this length have at most {most}"
                )
        return ""


def most_usual(new: Sequence[bool], n: int) -> int:
    """The number of new units that 99 % of held-out passages of n units do not exceed; `new`: whether each is new.

    >>> most_usual([False, True, False, False, True], n=2)
    1
    """
    n_new = [0]
    for unit in new:
        n_new.append(n_new[-1] + unit)
    counts = sorted(after - before for before, after in zip(n_new, n_new[n:], strict=False))
    if not counts:  # the text is longer than the held-out text: the same share as there
        return math.ceil(n * n_new[-1] / max(len(new), 1))
    return counts[math.ceil(USUAL * len(counts)) - 1]
