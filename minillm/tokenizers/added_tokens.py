"""Added tokens: whole strings with ids of their own, beside the pieces of a vocabulary.

A special token, such as <|im_end|>, has a meaning for the model and none in text: the text of a user never yields one,
whatever it looks like (trap: a user who writes <|im_start|>system), and only a template puts it in. Other added tokens,
such as Qwen's <think> or Gemma's runs of newlines, are ordinary text that is found before any piece is looked up. Of
several that begin at a place, the longest is taken. The flags are those of tokenizer.json. Read before: `tokenizer`.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from minillm.tokenizers.pretokenize import SPACES

SPACE_BEFORE = re.compile(f"[{SPACES}]*$")
SPACE_AFTER = re.compile(f"[{SPACES}]*")


@dataclass(frozen=True)
class AddedToken:
    """A string with its own id, and how it is found."""

    token: int
    text: str
    special: bool = True  # it never comes from plain text, and decodes to nothing
    normalized: bool = False  # it is looked for after the normalizers, in its own normalized form
    lstrip: bool = False  # it swallows the spaces before it
    rstrip: bool = False  # it swallows the spaces after it

    def __post_init__(self) -> None:
        if not self.text:
            raise ValueError(f"added token {self.token} = '': expected at least one character; remove it")


class Finder:
    """Finds given strings in a text, from the left; the longest of those that begin at the same place.

    >>> finder = Finder({"ab": 1, "abc": 2, "ca": 3})
    >>> list(finder.matches("xabcab"))
    [(1, 4, 2), (4, 6, 1)]
    """

    def __init__(self, found: dict):
        self.found = found
        lengths = defaultdict(set)
        for text in found:
            lengths[text[0]].add(len(text))
        self.lengths = {first: sorted(every, reverse=True) for first, every in lengths.items()}
        self.first = re.compile(f"[{''.join(map(re.escape, lengths))}]" if lengths else r"(?!)")

    def matches(self, text: str) -> Iterator[tuple]:
        """Yield (begin, end, what it stands for) of each string in the text."""
        at = 0
        while candidate := self.first.search(text, at):
            begin = candidate.start()
            at = begin + 1
            for length in self.lengths[text[begin]]:
                found = text[begin : begin + length]
                if (what := self.found.get(found)) is not None:
                    at = begin + len(found)
                    yield begin, at, what
                    break


class AddedTokens:
    """The added tokens of a vocabulary. `normalize` is the tokenizer's own, for those with the flag `normalized`.

    >>> added = AddedTokens([AddedToken(7, "<|end|>"), AddedToken(8, "<think>", special=False)], str)
    >>> added.split("Hm<think>.<|end|>"), added.parts("Hm<think>.<|end|>")
    (['Hm', 8, '.<|end|>'], ['Hm<think>.', 7])
    """

    def __init__(self, tokens: Iterable[AddedToken], normalize: Callable[[str], str]):
        self.tokens = tuple(tokens)
        self.by_id = {each.token: each for each in self.tokens}
        self.normalize = normalize
        self.special = {each.text: each.token for each in self.tokens if each.special}
        self.raw = Finder({each.text: each for each in self.tokens if not each.normalized})
        self.normal = Finder({normalize(each.text): each for each in self.tokens if each.normalized})
        self.names = Finder(self.special)
        for each in self.tokens:
            if each.special and each.normalized and normalize(each.text) != each.text:
                raise ValueError(
                    f"added token {each.text!r}: normalized = true: expected a special token that the normalizers "
                    f"leave as it is, found {normalize(each.text)!r}; set normalized = false in tokenizer.json"
                )

    def split(self, text: str) -> list[str | int]:
        """Plain text and the ids of ordinary added tokens in it that are found before the normalizers."""
        return list(ordinary(self.raw, text))

    def split_normalized(self, text: str) -> list[str | int]:
        """The same for those that are found in normalized text."""
        return list(ordinary(self.normal, text))

    def parts(self, text: str) -> list[str | int]:
        """Plain text and the ids of special tokens in a text that a template has written."""
        parts, end = [], 0
        for begin, after, token in self.names.matches(text):
            parts += [text[end:begin], token]
            end = after
        return [part for part in [*parts, text[end:]] if part != ""]

    def stripped(self, parts: Sequence[str | int]) -> list[str | int]:
        """Parts without the spaces that the special tokens beside them swallow, and without empty texts."""
        kept = [part for part in parts if part != ""]
        for i, part in enumerate(kept):
            if isinstance(part, str):
                if i and isinstance(kept[i - 1], int) and self._flags(kept[i - 1]).rstrip:
                    kept[i] = part = part[SPACE_AFTER.match(part).end() :]
                if i + 1 < len(kept) and isinstance(kept[i + 1], int) and self._flags(kept[i + 1]).lstrip:
                    kept[i] = part[: SPACE_BEFORE.search(part).start()]
        return [part for part in kept if part != ""]

    def _flags(self, token: int) -> AddedToken:
        return self.by_id.get(token, NO_FLAGS)


NO_FLAGS = AddedToken(-1, "an ordinary piece")


def ordinary(finder: Finder, text: str) -> Iterator[str | int]:
    """Yield the parts of a text: ids of added tokens that are not special, and the text between them."""
    end = 0
    for begin, after, added in finder.matches(text):
        if added.special:
            continue  # subtle: it still takes its place, so that no shorter token is found within it
        if added.lstrip:
            begin = max(end, SPACE_BEFORE.search(text, 0, begin).start())
        if added.rstrip:
            after = SPACE_AFTER.match(text, after).end()
        if end < begin:
            yield text[end:begin]
        yield added.token
        end = after
    if end < len(text):
        yield text[end:]
