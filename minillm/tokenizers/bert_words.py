"""BERT's words: clean text, mark out Chinese characters, drop accents and case, cut at spaces and punctuation.

Devlin et al. 2019 (BERT, "basic tokenization"). Much is lost on purpose: spaces, newlines, control characters, and in
the uncased models case and accents, so that "Café" and "cafe" are one word. Characters are classed by this Python's
Unicode tables, as BERT's own code does; the `tokenizers` package has those of Unicode 8 (2015), and differs for about
five hundred punctuation marks and combining marks that are younger. Read after it: `wordpiece`.
"""

import re
import unicodedata
from functools import lru_cache

from minillm.tokenizers.pretokenize import SPACES

SPACE = re.compile(f"[{SPACES}]")
CHINESE = re.compile(
    "([\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0002a6df\U0002a700-\U0002b81f"
    "\U0002b920-\U0002ceaf\U0002f800-\U0002fa1f])"
)
ASCII_PUNCTUATION = frozenset("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~")


@lru_cache(maxsize=1 << 14)
def is_punctuation(char: str) -> bool:
    """Whether a character is a word of its own: every ASCII character but letters and digits, and Unicode's P."""
    return char in ASCII_PUNCTUATION or unicodedata.category(char)[0] == "P"


@lru_cache(maxsize=1 << 14)
def is_removed(char: str) -> bool:
    """Whether cleaning drops a character: control, format, private use, U+0000, U+FFFD; tab and newlines are spaces."""
    return char not in "\t\n\r" and (char == "\ufffd" or unicodedata.category(char) in ("Cc", "Cf", "Co"))


def clean(text: str) -> str:
    """A text without control characters, every kind of space a plain one."""
    return SPACE.sub(" ", "".join([char for char in text if not is_removed(char)]))


def without_accents(text: str) -> str:
    """Decompose characters and drop their combining marks: é becomes e."""
    return "".join([char for char in unicodedata.normalize("NFD", text) if unicodedata.category(char) != "Mn"])


def lower(text: str) -> str:
    """Lower case, character by character: a Greek capital sigma is always σ, as in the `tokenizers` package."""
    return text.lower() if "Σ" not in text else "".join(map(str.lower, text))


def normalize(
    text: str, clean_text: bool, handle_chinese_chars: bool, strip_accents: bool | None, lowercase: bool
) -> str:
    """BERT's normalization; accents are stripped with the case unless `strip_accents` says otherwise.

    >>> normalize("Çà\\tva 漢字?", True, True, None, True)
    'ca va  漢  字 ?'
    """
    if clean_text:
        text = clean(text)
    if handle_chinese_chars:
        text = CHINESE.sub(r" \1 ", text)
    if lowercase if strip_accents is None else strip_accents:
        text = without_accents(text)
    return lower(text) if lowercase else text


def split_words(text: str) -> list[str]:
    """Cut at spaces, which are dropped, and around each punctuation mark.

    >>> split_words("don't stop!")
    ['don', "'", 't', 'stop', '!']
    """
    words = []
    for run in SPACE.split(text):
        begin = 0
        for i, char in enumerate(run):
            if is_punctuation(char):
                words += [run[begin:i], char]
                begin = i + 1
        words.append(run[begin:])
    return [word for word in words if word]
