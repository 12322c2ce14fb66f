"""Hidden texts: what a chat template sees of the messages, and what it has made of them.

A text enters a template as sentinels, words of a random secret that nobody can guess, between what must be seen for the
template to work as its author meant it: whitespace, which it may strip, and the words for which it looks. Qwen3's
template, for example, looks for </think> and cuts what stands before it out of earlier answers:

    <think> Hm. </think> Hello      becomes      <think> X7fx0X </think> X7fx1X

and then the template writes X7fx1X alone. Nothing else of a text enters, so nothing else can be changed, and every
sentinel must come out once, those of the reasoning at most once. Read next: `chat_template`.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

LITERAL = r"""(?:'([^']+)'|"([^"]+)")"""
SEARCHES = rf"\b(?:r?split|r?partition|startswith|endswith|replace|r?find|r?index|count)\(\s*{LITERAL}"
SEARCHED = r"""(?:\w+(?:\.|\[['"]))?(?:content|system_message)\b"""
# texts that a template looks for: split('</think>'), '</think>' in content
SOUGHT = re.compile(rf"{SEARCHES}|{LITERAL}\s+(?:not\s+)?in\s+{SEARCHED}")
N_TOLD = 8  # characters of a sentinel that are no coincidence


class Part(NamedTuple):
    """A part of a text that is hidden behind a sentinel."""

    text: str  # "": none, and no sentinel either
    optional: bool  # whether the template may leave it out
    where: str  # how it is called in messages


class Hidden:
    """The texts of one conversation. `secret`: random; `visible`: the words that stay as they are."""

    def __init__(self, secret: str, visible: Sequence[str]):
        self.secret, self.parts = secret, list[Part]()
        ordered = sorted(visible, key=len, reverse=True)
        self.visible = re.compile("(?=(" + "|".join(map(re.escape, ordered)) + "))" if ordered else "(?!)")
        self.sentinel = re.compile(f"X{secret}x([0-9]{{1,9}})X")

    def hide(self, text: str, n_optional: int, where: str) -> str:
        """The text with sentinels in it; those in the first `n_optional` characters may be left out."""
        seen, end = [], 0
        for begin, after in between(self.visible, text):
            before, kept, behind = split_whitespace(text[begin:after])
            sentinel = f"X{self.secret}x{len(self.parts)}X" if kept else ""
            seen += [text[end:begin], before, sentinel, behind]
            self.parts.append(Part(kept, after <= n_optional, where))
            end = after
        return "".join(seen) + text[end:]

    def split(self, text: str) -> list[str]:
        """The text of the template, with a hidden part in every second place.

        Raises ValueError if a part is missing, repeated or altered.
        """
        written = self.sentinel.split(text)  # text, number, text, number, ..., text
        numbers, rest = list(map(int, written[1::2])), "".join(written[::2]).lower()
        counts = Counter(numbers)
        for i, part in enumerate(self.parts):
            wanted = (0, 1) if part.optional else (1,)
            if counts[i] not in (wanted if part.text else (0,)):
                raise ValueError(
                    f"template: expected {part.where}, once and unchanged, found it {counts[i]} times; the template "
                    "drops, repeats or rewrites it, so take another one"
                )
        beginnings = range(len(self.secret) - N_TOLD + 1)
        if len(self.parts) <= max(numbers, default=0) or any(self.secret[i : i + N_TOLD] in rest for i in beginnings):
            raise ValueError("template: expected contents unchanged, found a part of one; take another template")
        return [self.parts[int(piece)].text if i % 2 else piece for i, piece in enumerate(written)]

    def masked(self, text: str) -> str:
        """A text for the user, without sentinels."""
        return self.sentinel.sub("...", text)


def between(words: re.Pattern[str], text: str) -> Iterator[tuple[int, int]]:
    """Yield begin and end of what stands before, between and after the words, which may overlap.

    >>> list(between(re.compile("(?=(ab|ba|c))"), "xabayyc"))
    [(0, 1), (4, 6), (7, 7)]
    """
    end = 0
    for found in words.finditer(text):
        begin, after = found.span(1)
        if begin > end:
            yield end, begin
        end = max(end, after)
    yield end, len(text)


def split_whitespace(text: str) -> tuple[str, str, str]:
    """The whitespace before a text, the text, and the whitespace after it, which a template may strip.

    >>> split_whitespace("  a b\\n"), split_whitespace(" ")
    (('  ', 'a b', '\\n'), (' ', '', ''))
    """
    kept = text.strip()
    n_before = len(text) - len(text.lstrip())
    return text[:n_before], kept, text[n_before + len(kept) :]


def sought_words(source: str) -> list[str]:
    """The texts that a template looks for in contents; whitespace alone is none.

    >>> sought_words("{% if '</think>' in m.content %}{{ m.content.split('</think>')[-1].split(' ') }}{% endif %}")
    ['</think>']
    """
    found = [word for words in SOUGHT.findall(source) for word in words]
    plain = [word.replace("\\n", "\n").replace("\\t", "\t") for word in found]
    return list(dict.fromkeys(word for word in plain if word.strip()))


def could_join(word: str, name: str) -> bool:
    """Whether a word, beside other text, could be a part of a name, or the name a part of it.

    >>> could_join("|im_end|", "<|im_end|>"), could_join("abc", "cd"), could_join("</think>", "<|im_end|>")
    (True, True, False)
    """
    if word in name or name in word:
        return True
    lengths = range(1, min(len(word), len(name)))
    return any(word[-n:] == name[:n] or name[-n:] == word[:n] for n in lengths)
