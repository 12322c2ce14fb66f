"""A text is its UTF-8 bytes: the vocabulary that needs no training and lacks nothing.

Id = byte, 0 ... 255; END is 256. Sequences are as long as files, about four times those of a BPE vocabulary on English and
more in other scripts: attention pays for that, and so a model must learn spelling first. ByT5 (Xue et al. 2022) measures
what it costs and what it buys. Read `tokenizer` before, `bpe` after.
"""

from collections.abc import Iterable, Sequence
from typing import Self

from minillm.tokenizers.tokenizer import END, Tokenizer, join_pieces, to_utf8


class ByteTokenizer(Tokenizer):
    """256 bytes and END."""

    def __init__(self):
        self.pieces = [*(bytes([byte]) for byte in range(256)), b""]
        self.vocab_size = 257
        self.special_tokens = {END: 256}

    @classmethod
    def train(cls, texts: Iterable[str]) -> Self:
        """There is nothing to learn; the texts are not read."""
        return cls()

    def encode(self, text: str) -> list[int]:
        return list(to_utf8(text))

    def decode_bytes(self, tokens: Sequence[int]) -> bytes:
        return join_pieces(self.pieces, tokens)

    def to_dict(self) -> dict:
        return {"kind": "byte"}

    @classmethod
    def from_dict(cls, d: dict) -> Self:
        return cls()
