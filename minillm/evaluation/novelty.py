"""Novelty of a text: how much of it a model has never seen in training.

A model answers whatever it is asked, and for a text of another world its answer means nothing. Two counts tell such a text: words that
training text lacks, and pairs of neighboring words that it lacks. How many are usual is measured on held-out text of the same
corpus: a text is novel where its share is larger than in 99 of 100 held-out passages of the same length. So a corpus of many rare words
allows more of them than one of few. Read `tasks/documents.py` before.
"""

import math
import re
from collections.abc import Iterable, Sequence
from itertools import pairwise

from minillm.datasets.masking import MASK

WORD = re.compile(r"\w+(?:['\u2019]\w+)*|[^\w\s]")
USUAL = 0.99  # share of held-out passages that are not novel
N_SHOWN = 5  # words or pairs that are named
Pair = tuple[str, str]


def words(text: str) -> list[str]:
    """Words and punctuation marks."""
    return WORD.findall(text)


def pairs(text: str) -> list[Pair]:
    """Neighbors among them."""
    found = words(text)
    return list(pairwise(found))


class Novelty:
    """The words and pairs of a training text, and how many others are usual in held-out text."""

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
        """A sentence on what is novel in a text with or without blanks; empty where it is like held-out text."""
        parts = text.split(MASK)  # subtle: nothing is known of what neighbors a blank
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
                return (
                    f"note: this text is unlike the training text, so the answer means little: {len(new)} of its {len(units)} {name} never "
                    f"occur there ({shown}{', ...' if len(set(new)) > N_SHOWN else ''}); {most} at most are usual in {USUAL:.0%} of "
                    "held-out passages of this length"
                )
        return ""


def most_usual(new: Sequence[bool], n: int) -> int:
    """How many of n neighboring units are new at most in `USUAL` of all passages of n units; `new` tells which units of a text are."""
    n_new = [0]
    for unit in new:
        n_new.append(n_new[-1] + unit)
    counts = sorted(after - before for before, after in zip(n_new, n_new[n:], strict=False))
    if not counts:  # the text is longer than all that was held out: as often as there
        return math.ceil(n * n_new[-1] / max(len(new), 1))
    return counts[math.ceil(USUAL * len(counts)) - 1]
