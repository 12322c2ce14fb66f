"""Streaming decoder: text from ids as they are generated, although a token may end in the middle of a character.

"é" is two bytes, an emoji four, and a token may hold only some of them. The decoder keeps incomplete bytes until the
rest arrives. The pushed pieces and the flush, joined, are `tokenizer.decode` of all tokens at once. It holds at most
three bytes, so the text is at most one character late. The state machine is the standard library's, of UTF-8 as in RFC
3629 (Yergeau 2003).
"""

import codecs

from minillm.tokenizers.tokenizer import Tokenizer


class StreamDecoder:
    """Push one id at a time; print the text that `push` returns.

    >>> from minillm.tokenizers.byte import ByteTokenizer
    >>> decoder = StreamDecoder(ByteTokenizer())
    >>> [decoder.push(token) for token in "né!".encode()], decoder.flush()
    (['n', '', 'é', '!'], '')
    """

    def __init__(self, tokenizer: Tokenizer):
        self.tokenizer = tokenizer
        self.decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token: int) -> str:
        """The characters that this token completes, possibly none."""
        return self.decoder.decode(self.tokenizer.decode_bytes([token]))

    def flush(self) -> str:
        """The rest at the end: "", or U+FFFD for an incomplete character. Resets the decoder for a new text."""
        return self.decoder.decode(b"", final=True)
