"""Byte tokenizer: the ids of a text are its UTF-8 bytes, so it needs no training and represents every text.

Id = byte, 0 ... 255; END is 256. Sequences are about four times as long as with a BPE vocabulary on English, and longer
in other scripts: attention costs more, and the model must learn spelling. ByT5 (Xue et al. 2022) measures the costs and
the gains. Read before: `tokenizer`; after: `bpe`.
"""

from collections.abc import Iterable, Sequence
from typing import Self

from minillm.tokenizers.tokenizer import END, Tokenizer, join_pieces, to_utf8


class ByteTokenizer(Tokenizer):
    """256 bytes and END.

    >>> tokenizer = ByteTokenizer()
    >>> tokenizer.encode("hé"), tokenizer.decode([104, 195, 169])
    ([104, 195, 169], 'hé')
    """

    def __init__(self):
        self.pieces = [*(bytes([byte]) for byte in range(256)), b""]
        self.vocab_size = 257
        self.special_tokens = {END: 256}

    @classmethod
    def train(cls, texts: Iterable[str]) -> Self:
        """A byte tokenizer; it learns nothing, and the texts are not read."""
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
