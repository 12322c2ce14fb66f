"""Stop strings: end a text at the first of some strings, whatever the token boundaries are.

`generate` itself checks length, END and the context. A stop string needs a state, because it may begin in one token and
end in another. The output is exactly text[:i], where i is the first place at which any stop string begins. So the last
characters are held back as long as they may be the beginning of a stop string. Read before: `tokenizers/tokenizer.py`.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

from minillm.tokenizers.tokenizer import StreamDecoder, Tokenizer


class Stop(Protocol):
    """Watches the new tokens of one row."""

    def push(self, token: int) -> bool:
        """Add one token; True: the text ends here."""
        ...

    def finish(self) -> bool:
        """Called when the row ends for another reason; True: a stop was found after all."""
        ...


class Cut:
    """Cut a text, given in pieces, where the first stop string begins; the borders of the pieces do not matter.

    Of several strings, the one that begins first wins. With "abcd" and "bc", the text "abcx" is cut at "bc", but only
    after the x, since "abcd" was possible until then.
    """

    def __init__(self, strings: Sequence[str] = ()):
        if isinstance(strings, str) or "" in strings:
            raise ValueError(f"stop strings = {strings!r}: expected a list of non-empty strings")
        self.strings = list(strings)
        self.held = ""  # text that is not shown yet
        self.stopped = False

    def push(self, piece: str) -> str:
        """Add a piece of text; return the text that may be shown now."""
        if self.stopped:
            return ""
        self.held += piece
        found, hoped = self._found(), self._hoped()
        self.stopped = found <= hoped and found < len(self.held)
        return self._show(min(found, hoped))

    def flush(self) -> str:
        """End the text; return the held text that may be shown."""
        if self.stopped:
            return ""
        found = self._found()
        self.stopped = found < len(self.held)
        return self._show(found)

    def _found(self) -> int:
        """The start of the first complete stop string, or the end of the held text."""
        places = [self.held.find(string) for string in self.strings]
        return min((place for place in places if place >= 0), default=len(self.held))

    def _hoped(self) -> int:
        """The start of the first stop string that is incomplete so far, or the end of the held text."""
        longest = max(map(len, self.strings), default=0)
        for i in range(max(0, len(self.held) - longest + 1), len(self.held)):
            if any(string.startswith(self.held[i:]) for string in self.strings):
                return i
        return len(self.held)

    def _show(self, n: int) -> str:
        shown, self.held = self.held[:n], "" if self.stopped else self.held[n:]
        return shown


class StopText:
    """A `Stop` that decodes a row's tokens and cuts the text at a stop string, or at a stop id of the tokenizer.

    `text` is the text shown so far; `show` is called with each new piece of it. `prompt`: the ids before the text.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        strings: Sequence[str] = (),
        show: Callable[[str], object] | None = None,
        prompt: Sequence[int] = (),
    ):
        self.decoder = StreamDecoder(tokenizer, prompt[-1] if prompt else None)
        self.stop_ids = tokenizer.stop_ids
        self.cut = Cut(strings)
        self.show = show
        self.pieces: list[str] = []

    @property
    def text(self) -> str:
        return "".join(self.pieces)

    def push(self, token: int) -> bool:
        """Add one token; True: it is a stop id, or a stop string is complete and no other can begin before it."""
        if token in self.stop_ids:
            self.finish()
            return True
        self._add(self.cut.push(self.decoder.push(token)))
        return self.cut.stopped

    def finish(self) -> bool:
        """Show the held text; True: a stop string was in it."""
        if not self.cut.stopped:
            self._add(self.cut.push(self.decoder.flush()))
            self._add(self.cut.flush())
        return self.cut.stopped

    def _add(self, piece: str) -> None:
        if piece:
            self.pieces.append(piece)
            if self.show is not None:
                self.show(piece)
