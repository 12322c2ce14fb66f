"""The terminal: messages of several lines, Ctrl-C as a request, and text that cannot drive the terminal.

A terminal obeys control characters: they move the cursor, change its title, or write into its input. What a model
writes is foreign text, so they are shown, not sent.
"""

import signal
import sys
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

QUOTES = '"""'  # around a message of several lines
TURNING = set("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")  # change the order of text


def read_line(prompt: str) -> str:
    """A line of stdin, after a prompt if somebody types it. Raises EOFError at the end."""
    if sys.stdin.isatty():
        try:
            return input(prompt)
        except EOFError:
            print()
            raise
    line = sys.stdin.readline()
    if not line:
        raise EOFError
    return line.rstrip("\r\n")


def read_message(read: Callable[[str], str]) -> str:
    r"""A message of one or several lines. Raises EOFError at the end; a message without its end is not sent.

    >>> lines = iter(['one \\', 'text', '\"""two', 'lines\"""'])
    >>> read_message(lambda prompt: next(lines)), read_message(lambda prompt: next(lines))
    ('one \ntext', 'two\nlines')
    """
    line = read("> ")
    try:
        if line.startswith(QUOTES):
            lines = [line.removeprefix(QUOTES)]
            while not lines[-1].endswith(QUOTES):
                lines.append(read("... "))
            return "\n".join(lines).removesuffix(QUOTES)
        lines = [line]
        while lines[-1].endswith("\\"):
            lines[-1] = lines[-1].removesuffix("\\")
            lines.append(read("... "))
        return "\n".join(lines)
    except EOFError:
        print("the last message has no end and was not sent")
        raise


def visible(text: str) -> str:
    r"""A text that cannot drive a terminal: control characters but newline and tab are written as escapes.

    >>> print(visible("\x1b[2Jgone?\a\tno"))
    \x1b[2Jgone?\x07	no
    """
    return "".join(c if c in "\n\t" or not _drives(c) else c.encode("unicode_escape").decode() for c in text)


def _drives(character: str) -> bool:
    """Whether a character does something to a terminal: control characters, halves of pairs, changes of direction."""
    return unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") or character in TURNING


@contextmanager
def interrupts() -> Iterator[Callable[[], bool]]:
    """Catch Ctrl-C; gives a function that tells whether it was pressed. A second one has its usual effect."""
    asked: list[int] = []

    def remember(signum: int, frame: Any) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(signum)

    before = signal.signal(signal.SIGINT, remember)
    try:
        yield lambda: bool(asked)
    finally:
        signal.signal(signal.SIGINT, before)
