"""Imported tokenizers: what those of other people have in common, in the order in which a text passes through it.

    text -> added tokens -> normalizers -> added tokens -> splitters -> pieces of each word (the subclass) -> ids

The order and every detail are those of the `tokenizers` package (Hugging Face, 2019), whose file tokenizer.json these
classes stand for; `interop/tokenizer_json.py` reads it. One thing is different: a text never yields a special token,
also where the package would find one among the pieces. The decoded text of ids is that of each id, joined, so that a
stream is the whole; so a space that the tokenizer put at the beginning stays. Read before: `added_tokens`,
`text_steps`.
"""

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from typing import Any, ClassVar, Self

from minillm.tokenizers.added_tokens import AddedToken, AddedTokens
from minillm.tokenizers.pretokenize import WordCache
from minillm.tokenizers.text_steps import NORMALIZERS, SPLITTERS, build
from minillm.tokenizers.tokenizer import END, Tokenizer, join_pieces, to_utf8


def keeps_text(step: Mapping[str, Any]) -> bool:
    """Whether the words of a splitter, joined, are the text."""
    if step["type"] == "ByteLevel":
        return not step.get("add_prefix_space", True)
    return step["type"] == "Digits" or (step["type"] == "Split" and step["behavior"] != "Removed")


@dataclass(frozen=True)
class Pipeline:
    """Everything around the pieces of an imported tokenizer."""

    end_id: int  # the token that ends a document
    added: tuple[AddedToken, ...] = ()
    normalizers: tuple[Mapping[str, Any], ...] = ()  # steps of `text_steps`
    splitters: tuple[Mapping[str, Any], ...] = ()
    opening: tuple[int, ...] | None = ()  # ids before every text; None: as in training
    closing: tuple[int, ...] = ()  # ids after a text that is read as a whole
    stop_ids: tuple[int, ...] = ()  # ids that end a completion, besides end_id

    @classmethod
    def from_dict(cls, d: Mapping[str, Any]) -> Self:
        """The inverse of `dataclasses.asdict`, also after a passage through JSON."""
        lists = {name: tuple(value) if isinstance(value, list) else value for name, value in d.items()}
        return cls(**lists | {"added": tuple(AddedToken(**each) for each in d["added"])})


class ImportedTokenizer(Tokenizer):
    """A pipeline around a model of pieces. `unknown`: the id of what no piece can write; None if there is nothing such.

    Subclasses give `segment`. An id without a piece (a hole in the vocabulary) is never produced, and decodes to
    nothing. Raises ValueError for ids outside the vocabulary.
    """

    kind: ClassVar[str]
    lossless = False

    def __init__(self, pieces: Sequence[bytes | None], pipeline: Pipeline, unknown: int | None = None):
        self.pipeline, self.unknown = pipeline, unknown
        self.normalizers = build(pipeline.normalizers, NORMALIZERS, "normalizer")
        self.splitters = build(pipeline.splitters, SPLITTERS, "pre_tokenizer")
        self.added = AddedTokens(pipeline.added, self.normalize)
        self.vocab_size = 1 + max([len(pieces) - 1, *self.added.by_id])
        self.pieces = [*(piece or b"" for piece in pieces), *[b""] * (self.vocab_size - len(pieces))]
        own = {name: token for name, token in self.added.special.items() if token != unknown}
        # subtle: gpt-oss has a token of its own with the name of END, and a template means that one
        self.special_tokens = {END: pipeline.end_id} | own
        self.never = frozenset([pipeline.end_id, *own.values()])  # ids that no text yields
        for each in self.added.tokens:
            self.pieces[each.token] = b"" if each.token in self.never else self.added_bytes(each.text)
        named = {"unknown": unknown, "end_id": pipeline.end_id}
        named |= {
            f"{name}[{i}]": token
            for name in ("opening", "closing", "stop_ids")
            for i, token in enumerate(getattr(pipeline, name) or ())
        }
        for name, token in named.items():
            if token is not None and not 0 <= token < self.vocab_size:
                raise ValueError(f"{name} = {token}: expected 0 ... {self.vocab_size - 1}; take the files of one model")
        self.pieces[pipeline.end_id] = b""
        self.opening, self.closing = pipeline.opening, pipeline.closing
        self.stop_ids = frozenset(pipeline.stop_ids)
        self.cache = WordCache(self.segment)

    def keeps_every_text(self) -> bool:
        """Whether no step changes a text, and no ordinary added token swallows spaces."""
        strips = any(each.lstrip or each.rstrip for each in self.pipeline.added if not each.special)
        return not self.pipeline.normalizers and not strips and all(map(keeps_text, self.pipeline.splitters))

    @property
    def end_id(self) -> int:
        return self.pipeline.end_id

    @abstractmethod
    def segment(self, word: str) -> list[int]:
        """The ids of the pieces of a word, none of them in `never`."""

    def added_bytes(self, text: str) -> bytes:
        """The bytes of an ordinary added token."""
        return text.encode()

    def normalize(self, text: str) -> str:
        """The text after all normalizers."""
        for step in self.normalizers:
            text = step(text)
        return text

    def words(self, text: str, first: bool = True) -> Iterator[str | int]:
        """Words of a text, and the ids of ordinary added tokens in it. `first`: nothing stands before the text."""
        for part in self.added.split(text):
            if isinstance(part, int):
                yield part
                first = False
                continue
            for section in self.added.split_normalized(self.normalize(part)):
                yield from [section] if isinstance(section, int) else self._split(section, first)
                first = False

    def _split(self, section: str, first: bool) -> list[str]:
        words = [section]
        for step in self.splitters:
            words = list(chain.from_iterable(step(word, first and i == 0) for i, word in enumerate(words)))
        return words

    def _encode(self, text: str, first: bool) -> list[int]:
        to_utf8(text)  # raises ValueError for a lone surrogate
        tokens = []
        for word in self.words(text, first):
            tokens += [word] if isinstance(word, int) else self.cache[word]
        return tokens

    def encode(self, text: str) -> list[int]:
        return self._encode(text, first=True)

    def encode_parts(self, parts: Sequence[str | int]) -> list[int]:
        """Ids of parts, as the package encodes the whole: a space is added, or not, as the file says."""
        tokens, first = [], True
        for part in self.added.stripped(parts):
            tokens += [part] if isinstance(part, int) else self._encode(part, first)
            first = False
        return tokens

    def parts(self, text: str) -> list[str | int]:
        """Text and ids of the special tokens in a text that a template has written, the input of `encode_parts`.

        Never use it on the text of a user.
        """
        return self.added.parts(text)

    def decode_bytes(self, tokens: Sequence[int]) -> bytes:
        return join_pieces(self.pieces, tokens)

    def to_dict(self) -> dict:
        return {"kind": self.kind, "pipeline": asdict(self.pipeline), "unknown": self.unknown}
