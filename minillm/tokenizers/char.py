"""Character tokenizer: one id for each character of the training text.

The alphabet is sorted, so ids depend only on which characters occur; END is last. A character that the training text
lacks has no id and raises ValueError; there is no "unknown" token, which would lose text. Character models of text go
back to Shannon (1948), "A Mathematical Theory of Communication". Read before: `tokenizer`.
"""

from collections.abc import Iterable, Sequence
from typing import Self

from minillm.tokenizers.tokenizer import END, Tokenizer, join_pieces, no_text_error, to_utf8


class CharTokenizer(Tokenizer):
    """`alphabet`: distinct characters; the index of each is its id.

    >>> tokenizer = CharTokenizer.train(["abba cab"])
    >>> tokenizer.alphabet, tokenizer.encode("cab"), tokenizer.end_id
    (' abc', [3, 1, 2], 4)
    """

    def __init__(self, alphabet: str):
        if len(set(alphabet)) != len(alphabet):
            raise ValueError(
                f"alphabet = {alphabet!r}: expected each character once; build it with CharTokenizer.train(texts)"
            )
        to_utf8(alphabet)  # raises ValueError for a lone surrogate
        self.alphabet = alphabet
        self.token_of = {char: token for token, char in enumerate(alphabet)}
        self.pieces = [*(char.encode() for char in alphabet), b""]
        self.vocab_size = len(self.pieces)
        self.special_tokens = {END: len(alphabet)}

    @classmethod
    def train(cls, texts: Iterable[str]) -> Self:
        """Use every character of the texts. Raises ValueError if there are none."""
        characters = set().union(*texts)
        if not characters:
            raise no_text_error()
        return cls("".join(sorted(characters)))

    def encode(self, text: str) -> list[int]:
        try:
            return [self.token_of[char] for char in text]
        except KeyError as error:
            char = error.args[0]
            raise ValueError(
                f"text[{text.index(char)}] = {char!r}: expected one of the {len(self.alphabet)} characters of the "
                f"training text, {self.alphabet!r}; train on a text that has it, or take a tokenizer that has every "
                "byte (kind 'byte' or 'bpe')"
            ) from None

    def decode_bytes(self, tokens: Sequence[int]) -> bytes:
        return join_pieces(self.pieces, tokens)

    def to_dict(self) -> dict:
        return {"kind": "char", "alphabet": self.alphabet}

    @classmethod
    def from_dict(cls, d: dict) -> Self:
        return cls(d["alphabet"])
