"""Cleaning of a corpus: rewrite documents into a normal form, remove the bad and the repeated ones, and report it.

First all documents are rewritten: normalized (`plain_text`), private data masked (`private_data`), further copies of
lines removed (`repeated_lines`). Then documents are removed: each judged by itself (`quality_rules`), then compared
with those before it (`near_duplicates`). Cleaning a clean corpus changes nothing. What it is worth: Lee et al. 2022,
"Deduplicating Training Data Makes Language Models Better", and `benchmarks/data_cleaning.py`.
"""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, NamedTuple

from minillm.config.fields import AtLeast, Between, Count, Fraction, Positive, validate
from minillm.datasets.near_duplicates import near_duplicates
from minillm.datasets.plain_text import normalize
from minillm.datasets.private_data import KINDS, masked
from minillm.datasets.quality_rules import RULES, breaks, describe, symbol_share
from minillm.datasets.repeated_lines import without_line_copies

DUPLICATES, NEAR_DUPLICATES = "duplicates", "near-duplicates"  # the rules that compare documents with each other
Size = Annotated[float, AtLeast(0)]
Rewriting = Callable[[Sequence[str]], list[tuple[str, int]]]  # documents -> each one anew, and the changes in it


@dataclass(frozen=True)
class CleaningConfig:
    """Rules for texts and documents; rewriting first, then removal in the order of these fields."""

    mask_emails: bool = False  # replace e-mail addresses by [email]
    mask_ips: bool = False  # replace IP addresses by [IP]
    mask_phones: bool = False  # replace phone numbers by [phone]
    line_copies: Count = 0  # keep so many copies of a line in the whole corpus, remove further ones; 0: keep all
    line_words: Positive = 4  # words of the shortest line that line_copies may remove
    min_chars: Count = 20  # remove documents with fewer characters
    max_chars: Positive = 10_000_000  # remove documents with more characters
    max_symbols: Fraction = 0.3  # remove documents with a larger share of punctuation and symbols (without white space)
    min_words: Count = 0  # remove documents with fewer words (Gopher: 50)
    max_words: Positive = 10_000_000  # remove documents with more words (Gopher: 100_000)
    min_word_length: Size = 0.0  # remove documents whose words have fewer characters on average (Gopher: 3)
    max_word_length: Size = 10_000_000.0  # remove documents whose words have more characters on average (Gopher: 10)
    min_alphabetic: Fraction = 0.0  # remove documents with a smaller share of words with a letter (Gopher: 0.8)
    min_stop_words: Annotated[int, Between(0, 8)] = 0  # remove ... with fewer of: the be to of and that have with (2)
    max_marks: Size = 10_000_000.0  # remove documents with more # or ... for each word (Gopher: 0.1)
    max_bullets: Fraction = 1.0  # remove documents with a larger share of lines that start with a bullet (Gopher: 0.9)
    max_ellipses: Fraction = 1.0  # remove documents with a larger share of lines that end in ... (Gopher: 0.3)
    max_repeated_lines: Fraction = 1.0  # remove documents with a larger share of repeated lines (Gopher: 0.3)
    max_top_ngram: Fraction = 1.0  # remove ... share of characters in the most frequent 2 to 4 words (Gopher: 0.2)
    max_repeated_ngrams: Fraction = 1.0  # remove ... share of characters in repeated 5 to 10 words (Gopher: 0.15)
    duplicates: bool = True  # remove documents equal to an earlier one
    near_duplicates: Fraction = 0.8  # remove documents this similar to an earlier one (Jaccard, word n-grams); 0: none
    n_words: Positive = 5  # words in an n-gram of near_duplicates
    n_hashes: Positive = 128  # numbers in a signature; more of them find more pairs when near_duplicates is low

    def __post_init__(self) -> None:
        validate(self)


class Removal(NamedTuple):
    """The effect of one rule."""

    rule: str
    n_documents: int  # documents removed
    n_changes: int  # changes inside the others: documents normalized, addresses masked, lines removed
    n_bytes: int  # bytes removed, less those put in their place
    example: str  # the beginning of the first document that it changed or removed; "" if there is none


class Report(NamedTuple):
    """The effect of a cleaning; `str` makes a table of it. n_bytes_before - n_bytes_after is the sum over the rules."""

    n_documents_before: int
    n_bytes_before: int
    removals: list[Removal]
    n_documents_after: int
    n_bytes_after: int

    @property
    def n_repeated(self) -> int:
        """Number of documents removed as duplicates or near-duplicates."""
        return sum(
            removal.n_documents for removal in self.removals if removal.rule.startswith((DUPLICATES, NEAR_DUPLICATES))
        )

    @property
    def n_changes(self) -> int:
        """Number of changes inside documents."""
        return sum(removal.n_changes for removal in self.removals)

    def __str__(self) -> str:
        rows = [("", "documents", "changes", "bytes", "for example")]
        rows += [("before", f"{self.n_documents_before:,}", "", f"{self.n_bytes_before:,}", "")]
        rows += [
            (r.rule, f"{-r.n_documents:,}", f"{r.n_changes:,}", f"{-r.n_bytes:,}", r.example) for r in self.removals
        ]
        rows += [("after", f"{self.n_documents_after:,}", "", f"{self.n_bytes_after:,}", "")]
        w = [max(map(len, column)) for column in zip(*rows, strict=True)]
        return "\n".join(
            f"{rule:<{w[0]}}  {documents:>{w[1]}}  {changes:>{w[2]}}  {n_bytes:>{w[3]}}  {example}".rstrip()
            for rule, documents, changes, n_bytes, example in rows
        )


def clean(documents: Sequence[str], config: CleaningConfig) -> tuple[list[str], Report]:
    """Rewrite and filter documents. Returns the remaining ones in their order, and a report.

    The first of several duplicates remains. Cleaning a clean corpus changes nothing.
    """
    kept, removals = _rewrite(documents, config)
    for rule, judge in _judgments(config):
        verdicts = list(judge(kept))
        removed = [document for document, bad in zip(kept, verdicts, strict=True) if bad]
        kept = [document for document, bad in zip(kept, verdicts, strict=True) if not bad]
        removals.append(Removal(rule, len(removed), 0, _n_bytes(removed), _excerpt(removed)))
    return kept, Report(len(documents), _n_bytes(documents), removals, len(kept), _n_bytes(kept))


def _rewrite(documents: Sequence[str], config: CleaningConfig) -> tuple[list[str], list[Removal]]:
    """The documents after all rewriting, and the effect of each rule."""
    now, effects = list(documents), []
    for rule, rewriting in _rewritings(config):
        texts, counts = zip(*rewriting(now), strict=True) if now else ((), ())
        first = next((i for i, n in enumerate(counts) if n), None)
        effects.append((rule, sum(counts), _n_bytes(now) - _n_bytes(texts), first))
        now = list(texts)
    # subtle: examples are shown as they are after all rewriting, so that no report shows what was masked
    return now, [
        Removal(rule, 0, n_changes, n_bytes, "" if first is None else _excerpt(now[first:]))
        for rule, n_changes, n_bytes, first in effects
    ]


def _rewritings(config: CleaningConfig) -> Iterator[tuple[str, Rewriting]]:
    """The rules that change texts, in order."""
    yield "normalized", partial(_each, _normalized)
    for key, kind in KINDS.items():
        if getattr(config, key):
            yield kind.name, partial(_each, partial(masked, kind=kind))
    if config.line_copies:
        how = {"n_copies": config.line_copies, "n_words": config.line_words}
        yield f"copies of a line > {config.line_copies:,}", partial(without_line_copies, **how)


def _normalized(text: str) -> tuple[str, int]:
    normal = normalize(text)
    return normal, int(normal != text)


def _each(rewrite: Callable[[str], tuple[str, int]], documents: Sequence[str]) -> list[tuple[str, int]]:
    return [rewrite(document) for document in documents]


def _judgments(config: CleaningConfig) -> Iterator[tuple[str, Callable[[Sequence[str]], Iterable[bool]]]]:
    """The rules that remove documents, in order; each says of the documents that are left whether they are unwanted."""
    yield f"shorter than {config.min_chars:,}", partial(map, lambda document: len(document) < config.min_chars)
    yield f"longer than {config.max_chars:,}", partial(map, lambda document: len(document) > config.max_chars)
    yield f"symbols > {config.max_symbols:g}", partial(map, lambda text: symbol_share(text) > config.max_symbols)
    defaults = {field.name: field.default for field in dataclasses.fields(config)}
    for key in RULES:
        limit = getattr(config, key)
        if limit != defaults[key]:  # by default these rules are off
            yield describe(key, limit), partial(map, partial(breaks, key, limit))
    if config.duplicates:
        yield DUPLICATES, _equal_to_earlier
    if config.near_duplicates > 0:
        how = {"similarity": config.near_duplicates, "n_words": config.n_words, "n_hashes": config.n_hashes}
        yield f"{NEAR_DUPLICATES} {config.near_duplicates:g}", partial(near_duplicates, **how)


def _equal_to_earlier(documents: Sequence[str]) -> list[bool]:
    first = {document: i for i, document in reversed(list(enumerate(documents)))}
    return [first[document] != i for i, document in enumerate(documents)]


def _n_bytes(documents: Iterable[str]) -> int:
    return sum(len(document.encode()) for document in documents)


def _excerpt(documents: Sequence[str]) -> str:
    return repr(documents[0][:48]) if documents and documents[0] else ""
