"""What every tokenizer promises: text to ids and back, without loss.

`decode(encode(s)) == s` for every string that the tokenizer accepts, and special tokens never come out of user text: the
only way to an id of `special_tokens` is to ask for it by name. There is one special token to begin with, END, which
stands before the first document and after each one, so that a model can begin from it and stop at it.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence

END = "<|end|>"


def to_utf8(text: str) -> bytes:
    """UTF-8 bytes of a text; a lone surrogate (half of a UTF-16 pair, which no valid file contains) is a ValueError."""
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(
            f"text[{error.start}] = {text[error.start]!r}: expected text, and a lone surrogate is none; "
            "decode the bytes it came from with errors='replace'"
        ) from error


def no_text_error() -> ValueError:
    """For `train`: there was nothing to learn from."""
    return ValueError("texts = no characters: expected some to learn from; check the path of the corpus")


def join_pieces(pieces: Sequence[bytes], tokens: Sequence[int]) -> bytes:
    """The bytes of each id in order; an id outside the vocabulary is a ValueError (also a negative one)."""
    if len(tokens) and not (min(tokens) >= 0 and max(tokens) < len(pieces)):
        place = next(place for place, token in enumerate(tokens) if not 0 <= token < len(pieces))
        raise ValueError(
            f"tokens[{place}] = {tokens[place]}: expected 0 ... {len(pieces) - 1}; decode with the tokenizer that encoded"
        )
    return b"".join([pieces[token] for token in tokens])


class Tokenizer(ABC):
    """Ids 0 ... vocab_size - 1. Subclasses set `vocab_size` and `special_tokens` (name -> id) in their constructor.

    Each has the class methods `train(texts, ...)`, which learns a tokenizer from an iterable of documents, and
    `from_dict(d)`, the inverse of `to_dict`.
    """

    vocab_size: int
    special_tokens: dict[str, int]

    @property
    def end_id(self) -> int:
        """The id that separates documents."""
        return self.special_tokens[END]

    @abstractmethod
    def encode(self, text: str) -> list[int]:
        """Ids of a text, never special ones. Raises ValueError for a character that cannot be represented and for a lone surrogate."""

    @abstractmethod
    def decode_bytes(self, tokens: Sequence[int]) -> bytes:
        """The UTF-8 bytes behind the ids; special tokens stand for nothing. Raises ValueError for an id outside the vocabulary."""

    @abstractmethod
    def to_dict(self) -> dict:
        """All that `from_dict` of the same class needs, as JSON types, with its name in `build_tokenizer.TOKENIZERS` under "kind"."""

    def encode_many(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` of each text; faster than a loop where the tokenizer knows how."""
        return [self.encode(text) for text in texts]

    def decode(self, tokens: Sequence[int]) -> str:
        """The text behind the ids; bytes that are not UTF-8 (a character cut in two) become U+FFFD."""
        return self.decode_bytes(tokens).decode("utf-8", errors="replace")
