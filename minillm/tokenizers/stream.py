"""Text while it is being generated: a token may end in the middle of a character.

"é" is two bytes, an emoji four, and a token is free to carry only some of them. The decoder keeps the unfinished bytes back
until the rest arrives: pushed pieces and the flush, joined, are `tokenizer.decode` of all tokens at once, whatever they are.
At most three bytes are ever held, so the text on the screen is at most one character behind. The state machine is the standard
library's, of UTF-8 as in RFC 3629 (Yergeau 2003).
"""

import codecs

from minillm.tokenizers.tokenizer import Tokenizer


class StreamDecoder:
    """Feed it one id at a time; print what it returns."""

    def __init__(self, tokenizer: Tokenizer):
        self.tokenizer = tokenizer
        self.decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token: int) -> str:
        """The characters that this token completes, possibly none."""
        return self.decoder.decode(self.tokenizer.decode_bytes([token]))

    def flush(self) -> str:
        """What is left at the end: "" or U+FFFD for a character that was never finished. Ready for a new text afterwards."""
        return self.decoder.decode(b"", final=True)
