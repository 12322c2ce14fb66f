"""The contract of every tokenizer: text to ids and back, without loss.

`decode(encode(s)) == s` for every string that the tokenizer accepts, unless it says that it is not `lossless`. User
text never yields a special token; the ids in `special_tokens` are available by name only. The first special token is
END, which stands before the first document and after each one, so that a model can start from it and stop at it. Kudo
and Richardson 2018 call this lossless tokenization.
"""

import codecs
from abc import ABC, abstractmethod
from collections.abc import Sequence

END = "<|end|>"


def to_utf8(text: str) -> bytes:
    """UTF-8 bytes of a text. Raises ValueError for a lone surrogate (half of a UTF-16 pair, invalid in every file)."""
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(
            f"text[{error.start}] = {text[error.start]!r}: expected Unicode text, found a lone surrogate; "
            "decode the bytes it came from with errors='replace'"
        ) from error


def no_text_error() -> ValueError:
    """The error of `train` for texts without a character."""
    return ValueError("texts = no characters: expected some to learn from; check the path of the corpus")


def join_pieces(pieces: Sequence[bytes], tokens: Sequence[int]) -> bytes:
    """The bytes of each id in order. Raises ValueError for an id outside the vocabulary (also a negative one).

    >>> join_pieces([b"th", b"e ", b"cat"], [0, 1, 2])
    b'the cat'
    """
    if len(tokens) and not (min(tokens) >= 0 and max(tokens) < len(pieces)):
        place = next(place for place, token in enumerate(tokens) if not 0 <= token < len(pieces))
        raise ValueError(
            f"tokens[{place}] = {tokens[place]}: expected 0 ... {len(pieces) - 1}; "
            "decode with the tokenizer that encoded"
        )
    return b"".join([pieces[token] for token in tokens])


class Tokenizer(ABC):
    """Ids 0 ... vocab_size - 1. Subclasses set `vocab_size` and `special_tokens` (name -> id) in their constructor.

    Each one has the class method `from_dict(d)`, the inverse of `to_dict`. Those that can be trained have
    `train(texts, ...)`, which learns a tokenizer from an iterable of documents.
    """

    vocab_size: int
    special_tokens: dict[str, int]
    lossless: bool = True  # decode(encode(s)) == s; False: normalization, or a space added at the beginning, changes s
    opening: tuple[int, ...] | None = None  # ids before every text; None: those with which training texts begin
    closing: tuple[int, ...] = ()  # ids after every text that is read as a whole, such as BERT's [SEP]
    stop_ids: frozenset[int] = frozenset()  # ids that end a completion, besides END

    @property
    def end_id(self) -> int:
        """The id that separates documents."""
        return self.special_tokens[END]

    @abstractmethod
    def encode(self, text: str) -> list[int]:
        """Ids of a text, never special ones. Raises ValueError for a character that the tokenizer cannot represent."""

    @abstractmethod
    def decode_bytes(self, tokens: Sequence[int]) -> bytes:
        """UTF-8 bytes of ids; special tokens have none. Raises ValueError for an id outside the vocabulary."""

    @abstractmethod
    def to_dict(self) -> dict:
        """Everything that `from_dict` needs, in JSON types; "kind" is the key in `build_tokenizer.TOKENIZERS`."""

    def encode_parts(self, parts: Sequence[str | int]) -> list[int]:
        """Ids of a text that is given in parts: special ids, and plain text between them.

        Two texts in a row must be joined before, since a token may cross the border between them.
        """
        return [token for part in parts for token in ([part] if isinstance(part, int) else self.encode(part))]

    def encode_many(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` of each text; some tokenizers are faster here than in a loop."""
        return [self.encode(text) for text in texts]

    def piece(self, token: int, before: int | None = None) -> bytes:
        """The bytes that a token adds to a text after the token `before`; None: at its beginning."""
        return self.decode_bytes([token])

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of ids; invalid UTF-8 (a character cut in two) becomes U+FFFD."""
        return self.decode_bytes(tokens).decode("utf-8", errors="replace")


class StreamDecoder:
    """Text from ids as they are generated: push one id at a time, and print the text that `push` returns.

    A token may end in the middle of a character: "é" is two bytes, an emoji four. Incomplete bytes are kept until the
    rest arrives, three at most, so the text is at most one character late. The pushed pieces and the flush, joined, are
    `tokenizer.decode` of all tokens at once. The state machine is the standard library's, of UTF-8 as in RFC 3629
    (Yergeau 2003).

    >>> from minillm.tokenizers.byte import ByteTokenizer
    >>> decoder = StreamDecoder(ByteTokenizer())
    >>> [decoder.push(token) for token in "né!".encode()], decoder.flush()
    (['n', '', 'é', '!'], '')
    """

    def __init__(self, tokenizer: Tokenizer, before: int | None = None):
        """`before`: the last token of the prompt, after which the ids are generated; None: none."""
        self.tokenizer, self.before = tokenizer, before
        self.decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def broken_by(self, token: int) -> bool:
        """Whether this token would leave the kept bytes an incomplete character, which becomes U+FFFD before it.

        >>> from minillm.tokenizers.byte import ByteTokenizer
        >>> decoder = StreamDecoder(ByteTokenizer())
        >>> decoder.push(0xC3), decoder.broken_by(0xA9), decoder.broken_by(ord("x"))
        ('', False, True)
        """
        kept = self.decoder.getstate()[0]
        first = self.tokenizer.piece(token, self.before)[:1]
        text, n_used = codecs.utf_8_decode(kept + first, "replace", False)
        # subtle: a whole character is one, of all bytes, even if it is U+FFFD itself
        return bool(kept and n_used) and not (len(text) == 1 and n_used > len(kept))

    def push(self, token: int) -> str:
        """The characters that this token completes, possibly none."""
        piece, self.before = self.tokenizer.piece(token, self.before), token
        return self.decoder.decode(piece)

    def flush(self) -> str:
        """The rest at the end: "", or U+FFFD for an incomplete character. Resets the decoder for a new text."""
        return self.decoder.decode(b"", final=True)
