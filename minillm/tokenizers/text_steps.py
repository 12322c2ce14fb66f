r"""Text steps: what a tokenizer of other people does to a text before it looks up pieces, as tokenizer.json names it.

A normalizer changes the text (NFC, "prepend U+2581"); a splitter cuts it into words, which no piece crosses (a pattern
such as GPT-2's, digits apart, the U+2581 of sentencepiece). Two dictionaries are the registry. A step or an option that
stands in neither is refused by its name, since a step left out would give almost the right ids. The patterns use \p{L}
and the like, so they need the `regex` package. Read before: `pretokenize`.
"""

import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple

from minillm.config.fields import suggest
from minillm.tokenizers import bert_words

Normalizer = Callable[[str], str]
Splitter = Callable[[str, bool], list[str]]  # from a word, and whether the whole text begins with it
Pieces = list[tuple[str, bool]]  # parts of a word, and whether each is a match of the pattern

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
REQUIRED = object()


class Step(NamedTuple):
    """The builder of a step, and its options with their defaults."""

    make: Callable[..., Any]
    options: Mapping[str, Any] = MappingProxyType({})


def compile_pattern(pattern: str):
    """A pattern of the `regex` package. Raises ValueError where it is missing, or cannot read the pattern."""
    try:
        import regex
    except ImportError:
        raise ValueError(
            'regex: the split pattern of this tokenizer needs it; pip install "minillm[interop]"'
        ) from None
    try:
        return regex.compile(pattern)
    except regex.error as error:
        raise ValueError(f"pattern = {pattern!r}: expected a regular expression, but {error}; mend it") from error


def read_pattern(pattern: Mapping[str, str]):
    """The `{"Regex": ...}` or `{"String": ...}` of a step, compiled. Raises ValueError for anything else."""
    if not (isinstance(pattern, Mapping) and len(pattern) == 1 and set(pattern) <= {"Regex", "String"}):
        raise ValueError(f"pattern = {pattern!r}: expected {{'Regex': ...}} or {{'String': ...}}; take the file whole")
    [(kind, text)] = pattern.items()
    if kind == "Regex":
        return compile_pattern(text)
    return re.compile(re.escape(text))


def replace(pattern: Mapping[str, str], content: str) -> Normalizer:
    """Replace each match by a constant text."""
    compiled = read_pattern(pattern)
    return lambda text: compiled.sub(lambda match: content, text)


def prepend(prepend: str) -> Normalizer:
    """Put a text before every text that is not empty."""
    return lambda text: prepend + text if text else text


def bert_normalizer(**options: bool | None) -> Normalizer:
    """BERT's normalization, see `bert_words`."""
    return lambda text: bert_words.normalize(text, **options)


def find(compiled: Any, word: str) -> Pieces:
    """Cut a word at the matches of a pattern."""
    pieces, end = [], 0
    for match in compiled.finditer(word):
        pieces += [(word[end : match.start()], False), (match[0], True)]
        end = match.end()
    return [piece for piece in [*pieces, (word[end:], False)] if piece[0]]


def isolated(pieces: Pieces) -> list[str]:
    """Every part is a word."""
    return [text for text, _ in pieces]


def removed(pieces: Pieces) -> list[str]:
    """Matches are dropped."""
    return [text for text, match in pieces if not match]


def merged_with_previous(pieces: Pieces) -> list[str]:
    """A match ends the word before it; the second of two matches in a row is a word of its own."""
    words, after_match = [], False
    for text, match in pieces:
        if match and not after_match and words:
            words[-1] += text
        else:
            words.append(text)
        after_match = match
    return words


def merged_with_next(pieces: Pieces) -> list[str]:
    """A match begins the word after it; the first of two matches in a row is a word of its own."""
    words, before_match = [], False
    for text, match in reversed(pieces):
        if match and not before_match and words:
            words[-1] = text + words[-1]
        else:
            words.append(text)
        before_match = match
    return words[::-1]


BEHAVIORS = {
    "Isolated": isolated,
    "Removed": removed,
    "MergedWithPrevious": merged_with_previous,
    "MergedWithNext": merged_with_next,
}


def split(pattern: Mapping[str, str], behavior: str, invert: bool) -> Splitter:
    """Cut at the matches of a pattern, or with `invert` at what lies between them."""
    if behavior not in BEHAVIORS:
        raise ValueError(
            f"Split: behavior = {behavior!r}: expected one of {', '.join(BEHAVIORS)}; no other can be read"
        )
    compiled, arrange = read_pattern(pattern), BEHAVIORS[behavior]
    return lambda word, first: arrange([(text, match != invert) for text, match in find(compiled, word)])


def digits(individual_digits: bool) -> Splitter:
    """Numbers apart from the rest, each digit by itself or whole runs."""
    return split({"Regex": r"\p{N}" if individual_digits else r"\p{N}+"}, "Isolated", False)


def byte_level(add_prefix_space: bool, use_regex: bool, trim_offsets: bool) -> Splitter:
    """GPT-2's words; the bytes themselves are the model's. `trim_offsets` concerns no ids."""
    compiled = compile_pattern(GPT2) if use_regex else None

    def cut(word: str, first: bool) -> list[str]:
        if add_prefix_space and not word.startswith(" "):
            word = " " + word
        return [word] if compiled is None else compiled.findall(word)

    return cut


def metaspace(replacement: str, prepend_scheme: str | None, split: bool, add_prefix_space: bool | None) -> Splitter:
    """Sentencepiece's notation of spaces: each becomes U+2581 and begins a word; perhaps one more at the beginning."""
    scheme = prepend_scheme or ("never" if add_prefix_space is False else "always")
    if scheme not in ("always", "first", "never"):
        raise ValueError(f"Metaspace: prepend_scheme = {scheme!r}: expected always, first or never; mend the file")
    compiled = read_pattern({"String": replacement})

    def cut(word: str, first: bool) -> list[str]:
        word = word.replace(" ", replacement)
        if (scheme == "always" or (scheme == "first" and first)) and not word.startswith(replacement):
            word = replacement + word
        return merged_with_next(find(compiled, word)) if split else [word]

    return cut


def unicode_form(form: str) -> Callable[[], Normalizer]:
    """A maker of one of Unicode's normal forms."""
    return lambda: partial(unicodedata.normalize, form)


NORMALIZERS = {
    **{form: Step(unicode_form(form)) for form in ("NFC", "NFD", "NFKC", "NFKD")},
    "Lowercase": Step(lambda: bert_words.lower),
    "Replace": Step(replace, {"pattern": REQUIRED, "content": REQUIRED}),
    "Prepend": Step(prepend, {"prepend": REQUIRED}),
    "BertNormalizer": Step(
        bert_normalizer,
        {"clean_text": True, "handle_chinese_chars": True, "strip_accents": None, "lowercase": True},
    ),
}
SPLITTERS = {
    "Split": Step(split, {"pattern": REQUIRED, "behavior": REQUIRED, "invert": False}),
    "Digits": Step(digits, {"individual_digits": False}),
    "ByteLevel": Step(byte_level, {"add_prefix_space": True, "use_regex": True, "trim_offsets": True}),
    "Metaspace": Step(
        metaspace, {"replacement": "\u2581", "prepend_scheme": None, "split": True, "add_prefix_space": None}
    ),
    "BertPreTokenizer": Step(lambda: lambda word, first: bert_words.split_words(word)),
}


def build(steps: Iterable[Mapping[str, Any]], table: Mapping[str, Step], what: str) -> list[Any]:
    """The functions of some steps. Raises ValueError for a step or an option that `table` lacks.

    >>> [nfc] = build([{"type": "NFC"}], NORMALIZERS, "normalizer")
    >>> nfc("e\\u0301")
    'é'
    """
    built = []
    for step in steps:
        name = step.get("type")
        if name not in table:
            raise ValueError(f"{what} {name!r}: expected {suggest(str(name), list(table))}; no other can be read")
        make, defaults = table[name]
        given = {key: value for key, value in step.items() if key != "type"}
        for key in given.keys() - defaults.keys():
            raise ValueError(
                f"{what} {name}: {key} = {given[key]!r}: expected only {', '.join(defaults) or 'no options'}"
            )
        options = {**defaults, **given}
        for key in [key for key, value in options.items() if value is REQUIRED]:
            raise ValueError(f"{what} {name}: expected a value for {key}; take the file as published")
        built.append(make(**options))
    return built
