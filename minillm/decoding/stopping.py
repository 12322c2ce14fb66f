"""When a text ends: at a string that its reader waits for, wherever the borders of tokens fall.

Length, END and the model's context are numbers that `generate` compares; a stop string needs memory, because it may
begin in one token and end in another. What is shown is exactly text[:i], where i is the first place at which any stop
string begins; so the last characters are held back for as long as they may still turn out to be the beginning of one.
Read before: `tokenizers/stream.py`.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

from minillm.tokenizers.stream import StreamDecoder
from minillm.tokenizers.tokenizer import Tokenizer


class Stop(Protocol):
    """Watches the new tokens of one row."""

    def push(self, token: int) -> bool:
        """Read one token; True: the text ends here."""
        ...

    def finish(self) -> bool:
        """The row ended for another reason; True: it had reached its own end before that."""
        ...


class Cut:
    """Text in pieces, cut where the first stop string begins; what is shown never depends on how the pieces were cut.

    Of several strings the one that begins first wins; of "abcd" and "bc", "abcx" ends at "bc", but only the x tells.
    """

    def __init__(self, strings: Sequence[str] = ()):
        if isinstance(strings, str) or "" in strings:
            raise ValueError(f"stop strings = {strings!r}: expected a list of non-empty strings")
        self.strings = list(strings)
        self.held = ""  # not yet shown
        self.stopped = False

    def push(self, piece: str) -> str:
        """Read a piece of text; the text that may now be shown."""
        if self.stopped:
            return ""
        self.held += piece
        found, hoped = self._found(), self._hoped()
        self.stopped = found <= hoped and found < len(self.held)
        return self._show(min(found, hoped))

    def flush(self) -> str:
        """The text is over; what was held back and may be shown after all."""
        if self.stopped:
            return ""
        found = self._found()
        self.stopped = found < len(self.held)
        return self._show(found)

    def _found(self) -> int:
        """The start of the first complete stop string; the end of the text where there is none."""
        places = [self.held.find(string) for string in self.strings]
        return min((place for place in places if place >= 0), default=len(self.held))

    def _hoped(self) -> int:
        """The start of the first stop string that is still incomplete; the end of the text where there is none."""
        longest = max(map(len, self.strings), default=0)
        for i in range(max(0, len(self.held) - longest + 1), len(self.held)):
            if any(string.startswith(self.held[i:]) for string in self.strings):
                return i
        return len(self.held)

    def _show(self, n: int) -> str:
        shown, self.held = self.held[:n], "" if self.stopped else self.held[n:]
        return shown


class StopText:
    """Decodes a row's tokens, cuts the text at a stop string, and tells when to stop. Without strings it only decodes.

    `text` is what has been shown so far; each new piece of it also goes to `show`.
    """

    def __init__(self, tokenizer: Tokenizer, strings: Sequence[str] = (), show: Callable[[str], object] | None = None):
        self.decoder = StreamDecoder(tokenizer)
        self.cut = Cut(strings)
        self.show = show
        self.pieces: list[str] = []

    @property
    def text(self) -> str:
        return "".join(self.pieces)

    def push(self, token: int) -> bool:
        """Read one token; True: a stop string is complete and no other can begin before it."""
        self._add(self.cut.push(self.decoder.push(token)))
        return self.cut.stopped

    def finish(self) -> bool:
        """Show what was held back; True: a stop string was in it."""
        if not self.cut.stopped:
            self._add(self.cut.push(self.decoder.flush()))
            self._add(self.cut.flush())
        return self.cut.stopped

    def _add(self, piece: str) -> None:
        if piece:
            self.pieces.append(piece)
            if self.show is not None:
                self.show(piece)
