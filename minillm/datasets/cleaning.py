"""Cleaning of a corpus: normalize all documents, then remove short, long, symbol-heavy and repeated ones; report it.

Near-duplicates are found with MinHash (Broder 1997). A document is the set of its word n-grams ("shingles"); the
similarity of two documents is the Jaccard index of their sets, J = |A & B| / |A | B|. Under a random order of all
shingles, the minimum of A is the minimum of B with probability J; so k random orders give signatures of k numbers that
agree in J k places on average. A signature is cut into bands of r numbers; two documents share a whole band with
probability 1 - (1 - J^r)^(k/r), a steep S-curve in J. Documents that share a band are candidates, and their exact J
decides: none is removed by chance, and each is compared with few others.
"""

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from typing import NamedTuple

import numpy as np

from minillm.config.fields import Count, Fraction, Positive, validate

CONTROL = re.compile(r"[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f]")  # category Cc without white space
LINE_ENDS = re.compile(r"\r\n|[\r\v\f\x1c-\x1e\x85\u2028\u2029]")
DUPLICATES, NEAR_DUPLICATES = "duplicates", "near-duplicates"  # the rules that compare documents with each other
MISS_PROBABILITY = 0.001  # upper bound for missing a pair whose Jaccard index is exactly near_duplicates


@dataclass(frozen=True)
class CleaningConfig:
    """Rules for the removal of documents, applied to normalized documents in the order of these fields."""

    min_chars: Count = 20  # remove documents with fewer characters
    max_chars: Positive = 10_000_000  # remove documents with more characters
    max_symbols: Fraction = 0.3  # remove documents with a larger share of punctuation and symbols (without white space)
    duplicates: bool = True  # remove documents equal to an earlier one
    near_duplicates: Fraction = 0.8  # remove documents this similar to an earlier one (Jaccard, word n-grams); 0: none
    n_words: Positive = 5  # words in an n-gram
    n_hashes: Positive = 128  # numbers in a signature; more of them find more pairs when near_duplicates is low

    def __post_init__(self) -> None:
        validate(self)


class Removal(NamedTuple):
    """The effect of one rule."""

    rule: str
    n_documents: int
    n_bytes: int
    example: str  # the beginning of the first document that it changed or removed; "" if there is none


class Report(NamedTuple):
    """The effect of a cleaning; `str` makes a table of it. n_bytes_before - n_bytes_after is the sum over the rules."""

    n_documents_before: int
    n_bytes_before: int
    removals: list[Removal]  # "normalized" removes no documents, only bytes
    n_documents_after: int
    n_bytes_after: int

    @property
    def n_repeated(self) -> int:
        """Number of documents removed as duplicates or near-duplicates."""
        return sum(
            removal.n_documents for removal in self.removals if removal.rule.startswith((DUPLICATES, NEAR_DUPLICATES))
        )

    def __str__(self) -> str:
        rows = [("", "documents", "bytes", "for example")]
        rows += [("before", f"{self.n_documents_before:,}", f"{self.n_bytes_before:,}", "")]
        rows += [(r.rule, f"{-r.n_documents:,}", f"{-r.n_bytes:,}", r.example) for r in self.removals]
        rows += [("after", f"{self.n_documents_after:,}", f"{self.n_bytes_after:,}", "")]
        widths = [max(len(row[i]) for row in rows) for i in range(3)]
        return "\n".join(f"{a:<{widths[0]}}  {b:>{widths[1]}}  {c:>{widths[2]}}  {d}".rstrip() for a, b, c, d in rows)


def clean(documents: Sequence[str], config: CleaningConfig) -> tuple[list[str], Report]:
    """Normalize and filter documents. Returns the remaining ones in their order, and a report.

    The first of several duplicates remains. Cleaning a clean corpus changes nothing.
    """
    kept = [normalize(document) for document in documents]
    removals = [_normalized(documents, kept)]

    def remove(rule: str, unwanted: Iterable[bool]) -> None:
        nonlocal kept
        verdicts = list(unwanted)
        removed = [document for document, bad in zip(kept, verdicts, strict=True) if bad]
        kept = [document for document, bad in zip(kept, verdicts, strict=True) if not bad]
        removals.append(Removal(rule, len(removed), _n_bytes(removed), _excerpt(removed)))

    remove(f"shorter than {config.min_chars:,}", (len(document) < config.min_chars for document in kept))
    remove(f"longer than {config.max_chars:,}", (len(document) > config.max_chars for document in kept))
    remove(f"symbols > {config.max_symbols:g}", (symbol_share(document) > config.max_symbols for document in kept))
    if config.duplicates:
        first = {document: i for i, document in reversed(list(enumerate(kept)))}
        remove(DUPLICATES, (first[document] != i for i, document in enumerate(kept)))
    if config.near_duplicates > 0:
        remove(f"{NEAR_DUPLICATES} {config.near_duplicates:g}", near_duplicates(kept, config))
    return kept, Report(len(documents), _n_bytes(documents), removals, len(kept), _n_bytes(kept))


def normalize(text: str) -> str:
    r"""Normalize a text: Unicode NFC, no control characters, plain spaces and newlines, no trailing white space.

    Indentation remains, because it has a meaning in code; so do single empty lines between paragraphs.

    >>> normalize("One line. \r\n\r\n\r\n\r\n  The next.")
    'One line.\n\n  The next.'
    """
    text = CONTROL.sub("", LINE_ENDS.sub("\n", text))
    text = unicodedata.normalize("NFC", text)
    text = re.sub(r"[^\S\n\t]", " ", text)  # no-break space, ideographic space ...
    text = re.sub(r"[ \t]+$", "", text, flags=re.MULTILINE)
    return re.sub(r"\n{3,}", "\n\n", text).strip("\n")


def symbol_share(text: str) -> float:
    """The share of punctuation and symbols (Unicode categories P and S) among the characters that are not white space.

    >>> symbol_share("a + b = c!")
    0.5
    """
    counts = {char: n for char, n in Counter(text).items() if not char.isspace()}
    return sum(n for char, n in counts.items() if unicodedata.category(char)[0] in "PS") / max(1, sum(counts.values()))


def near_duplicates(documents: Sequence[str], config: CleaningConfig) -> list[bool]:
    """For each document: whether its Jaccard index with an earlier one that remains is >= config.near_duplicates."""
    rows = rows_per_band(config.near_duplicates, config.n_hashes)
    generator = np.random.default_rng(0)
    multipliers = generator.integers(2**63, size=(config.n_hashes, 1), dtype=np.uint64) * 2 + 1
    offsets = generator.integers(2**63, size=(config.n_hashes, 1), dtype=np.uint64)
    bands: dict[tuple[int, bytes], list[int]] = defaultdict(list)  # (band, its numbers) -> documents that remain
    sets: dict[int, np.ndarray] = {}
    verdicts = []
    for i, document in enumerate(documents):
        found = shingles(document, config.n_words)
        numbers = signature(found, multipliers, offsets)
        keys = [(b, numbers[b : b + rows].tobytes()) for b in range(0, config.n_hashes - rows + 1, rows)]
        candidates = dict.fromkeys(j for key in keys for j in bands[key])
        verdicts.append(any(jaccard(found, sets[j]) >= config.near_duplicates for j in candidates))
        if not verdicts[-1]:
            sets[i] = found
            for key in keys:
                bands[key].append(i)
    return verdicts


def shingles(text: str, n_words: int) -> np.ndarray:
    """The set of a text's n-grams of lower-case words, as sorted 64-bit hashes. A shorter text is one shingle."""
    words = re.findall(r"\w+", text.lower()) or [text]
    n = min(n_words, len(words))
    hashes = np.array([word_hash(word) for word in words], np.uint64)
    weights = np.random.default_rng(n).integers(2**63, size=n, dtype=np.uint64) * 2 + 1
    # subtle: products and sums wrap around at 2^64, as intended in a hash
    sums = (np.lib.stride_tricks.sliding_window_view(hashes, n) * weights).sum(axis=1, dtype=np.uint64)
    return np.unique(_mixed(sums))


@lru_cache(maxsize=1 << 16)
def word_hash(word: str) -> int:
    """64 bits of BLAKE2b. With 32 bits, two of 80,000 different words would probably share a hash."""
    return int.from_bytes(blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest())


def signature(found: np.ndarray, multipliers: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """MinHash signature: the least shingle under each of k orders h -> (a h + b mod 2^64) / 2^32. (k,) uint32"""
    parts = np.array_split(found, -(-len(found) // 4096))  # bounds the memory for a long document
    least = [((part * multipliers + offsets) >> np.uint64(32)).min(axis=1) for part in parts]
    return np.min(least, axis=0).astype(np.uint32)


def jaccard(a: np.ndarray, b: np.ndarray) -> float:
    """Jaccard index |A & B| / |A | B| of two sets given as sorted arrays.

    >>> jaccard(np.array([1, 2, 3]), np.array([2, 3, 4]))
    0.5
    """
    both = len(np.intersect1d(a, b, assume_unique=True))
    return both / (len(a) + len(b) - both)


def rows_per_band(similarity: float, n_hashes: int) -> int:
    """Numbers in a band: the most, so the fewest candidates, that miss a pair of this similarity rarely enough.

    >>> [rows_per_band(similarity, 128) for similarity in (0.3, 0.5, 0.8)]
    [1, 2, 5]
    """
    fits = [r for r in range(1, n_hashes + 1) if (1 - similarity**r) ** (n_hashes // r) <= MISS_PROBABILITY]
    return max(fits, default=1)


def _mixed(x: np.ndarray) -> np.ndarray:
    """Mix every bit into all 64 (the finalizer of SplitMix64), so that sums of hashes are hashes again."""
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        x = (x ^ (x >> np.uint64(shift))) * np.uint64(factor)
    return x ^ (x >> np.uint64(31))


def _normalized(before: Sequence[str], after: Sequence[str]) -> Removal:
    changed = [a for a, b in zip(before, after, strict=True) if a != b]
    return Removal("normalized", 0, _n_bytes(before) - _n_bytes(after), _excerpt(changed))


def _n_bytes(documents: Iterable[str]) -> int:
    return sum(len(document.encode()) for document in documents)


def _excerpt(documents: Sequence[str]) -> str:
    return repr(documents[0][:48]) if documents and documents[0] else ""
