"""One id per character of the training text: the smallest vocabulary, and the easiest to look at.

The alphabet is sorted, so the id of a character depends on which characters occur and on nothing else; END comes last.
A character that the training text lacked has no id and is refused: there is no "unknown" that would swallow text.
Character models of text go back to Shannon (1948), "A Mathematical Theory of Communication". Read `tokenizer` before.
"""

from collections.abc import Iterable, Sequence
from typing import Self

from minillm.tokenizers.tokenizer import END, Tokenizer, join_pieces, no_text_error, to_utf8


class CharTokenizer(Tokenizer):
    """`alphabet`: distinct characters; the place of each is its id."""

    def __init__(self, alphabet: str):
        if len(set(alphabet)) != len(alphabet):
            raise ValueError(
                f"alphabet = {alphabet!r}: expected each character once; build it with CharTokenizer.train(texts)"
            )
        to_utf8(alphabet)  # refuses what is not text
        self.alphabet = alphabet
        self.token_of = {char: token for token, char in enumerate(alphabet)}
        self.pieces = [*(char.encode() for char in alphabet), b""]
        self.vocab_size = len(self.pieces)
        self.special_tokens = {END: len(alphabet)}

    @classmethod
    def train(cls, texts: Iterable[str]) -> Self:
        """The alphabet is every character that occurs."""
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
                f"text[{text.index(char)}] = {char!r}: expected one of the {len(self.alphabet)} characters of the training text, "
                f"{self.alphabet!r}; train on a text that has it, or take a tokenizer that knows every byte (kind 'byte' or 'bpe')"
            ) from None

    def decode_bytes(self, tokens: Sequence[int]) -> bytes:
        return join_pieces(self.pieces, tokens)

    def to_dict(self) -> dict:
        return {"kind": "char", "alphabet": self.alphabet}

    @classmethod
    def from_dict(cls, d: dict) -> Self:
        return cls(d["alphabet"])
