r"""Text normalization: one way to write characters, spaces and line ends, so that equal texts are equal strings.

Unicode allows several codes for one letter (e and a combining accent, or the accented letter), and files from different
systems end their lines differently. Without a normal form, duplicates stay unnoticed and a tokenizer spends its
vocabulary on variants. NFC is the composed form of the Unicode standard (Annex 15).
"""

import re
import unicodedata

CONTROL = re.compile(r"[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f]")  # category Cc without white space
LINE_ENDS = re.compile(r"\r\n|[\r\v\f\x1c-\x1e\x85\u2028\u2029]")
TRAILING = re.compile(r"(?<![ \t])[ \t]++$", re.MULTILINE)  # subtle: a run is tried once, so long runs take linear time


def normalize(text: str) -> str:
    r"""Normalize a text: Unicode NFC, no control characters, plain spaces and newlines, no trailing white space.

    Indentation remains, because it has a meaning in code; so do single empty lines between paragraphs.

    >>> normalize("One line. \r\n\r\n\r\n\r\n  The next.")
    'One line.\n\n  The next.'
    """
    text = CONTROL.sub("", LINE_ENDS.sub("\n", text))
    text = unicodedata.normalize("NFC", text)
    text = re.sub(r"[^\S\n\t]", " ", text)  # no-break space, ideographic space ...
    return re.sub(r"\n{3,}", "\n\n", TRAILING.sub("", text)).strip("\n")
