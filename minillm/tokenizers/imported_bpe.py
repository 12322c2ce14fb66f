"""BPE of other people: byte-level (GPT-2, Llama 3, Qwen, SmolLM, gpt-oss), or characters with byte fallback (Llama 2).

All merge alike, by the loop of `bpe`. Byte-level BPE (Radford et al. 2019) writes each byte of a word as a printable
character first, and its families differ in how words are cut: digits one by one or by threes, marks, endings. The BPE
of sentencepiece (Llama 2, Mistral, Gemma) starts from characters, a space being U+2581, and writes a character without
a piece as its bytes, <0xE2> and so on. A byte that has neither a piece nor an unknown token is left out, as in the
`tokenizers` package: SmolLM2 lacks 21 bytes, of control characters and unused planes. Read before: `bpe`, `imported`.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Self

from minillm.tokenizers.bpe import apply_merges, gpt2_alphabet
from minillm.tokenizers.imported import ImportedTokenizer, Pipeline

BYTE_PIECES = {f"<0x{byte:02X}>": bytes([byte]) for byte in range(256)}


def fallback_bytes(text: str, byte_fallback: bool, space: str) -> bytes:
    """The bytes of a piece of sentencepiece; `space` is its notation of " ", or "".

    >>> fallback_bytes("\u2581the", True, "\u2581"), fallback_bytes("<0xE2>", True, "\u2581")
    (b' the', b'\xe2')
    """
    if byte_fallback and text in BYTE_PIECES:
        return BYTE_PIECES[text]
    return (text.replace(space, " ") if space else text).encode()


@dataclass(frozen=True)
class BPEOptions:
    """The options in which files of one algorithm differ."""

    ignore_merges: bool = False  # a word that is a piece is taken whole, before any merge
    byte_fallback: bool = False  # a character without a piece becomes its bytes
    fuse_unk: bool = False  # unknown characters in a row are one unknown token
    space: str = ""  # decodes to " "; sentencepiece writes U+2581


class ImportedBPE(ImportedTokenizer):
    """`texts`: the piece of each id as the file writes it, None for a hole; `merges`: pairs of ids in order.

    Raises ValueError for a merge whose parts or whole are no pieces.
    """

    def __init__(
        self,
        texts: Sequence[str | None],
        merges: Sequence[Sequence[int]],
        pipeline: Pipeline,
        options: BPEOptions,
        unknown: int | None = None,
    ):
        self.texts, self.merges, self.options = list(texts), [tuple(pair) for pair in merges], options
        id_of = {text: token for token, text in enumerate(texts) if text is not None}
        super().__init__([text if text is None else self.bytes_of(text) for text in texts], pipeline, unknown)
        self.token_of = {text: token for text, token in id_of.items() if token not in self.never and token != unknown}
        self.merge_of = {}
        for rank, (left, right) in enumerate(self.merges):
            whole = f"{self._text(left)}{self._text(right)}"
            if whole not in id_of:
                raise ValueError(f"merge {rank}: expected its result {whole!r} among the pieces; take the file whole")
            if id_of[whole] not in self.never:  # else a text could yield a special token
                self.merge_of[left, right] = rank, id_of[whole]
        self.byte_tokens = {
            byte: self.token_of[text] for text, byte in BYTE_PIECES.items() if options.byte_fallback and text in id_of
        }

    def _text(self, token: int) -> str:
        text = self.texts[token] if 0 <= token < len(self.texts) else None
        if text is None:
            raise ValueError(f"merges: id {token}: expected an id with a piece; take the file whole")
        return text

    def bytes_of(self, text: str) -> bytes:
        """The bytes of a piece."""
        raise NotImplementedError

    def write(self, word: str) -> str:
        """A word in the characters of the pieces."""
        return word

    def segment(self, word: str) -> list[int]:
        written = self.write(word)
        if self.options.ignore_merges and written in self.token_of:
            return [self.token_of[written]]
        return apply_merges(self._symbols(written), self.merge_of)

    def _symbols(self, written: str) -> list[int]:
        """The tokens before any merge. An unknown one waits, so that those after it can be fused with it."""
        symbols, waiting = [], False
        for char in written:
            if char in self.token_of:
                symbols += [self.unknown, self.token_of[char]] if waiting else [self.token_of[char]]
                waiting = False
                continue
            fallback = [self.byte_tokens.get(bytes([byte])) for byte in char.encode()]
            if None not in fallback:
                symbols += fallback
            elif self.unknown is not None:
                symbols += [self.unknown] if waiting and not self.options.fuse_unk else []
                waiting = True
        return [*symbols, self.unknown] if waiting else symbols

    def to_dict(self) -> dict:
        own = {"texts": self.texts, "merges": self.merges, "options": asdict(self.options)}
        return super().to_dict() | own

    @classmethod
    def from_dict(cls, d: dict[str, Any]) -> Self:
        options = BPEOptions(**d["options"])
        return cls(d["texts"], d["merges"], Pipeline.from_dict(d["pipeline"]), options, d["unknown"])


class ByteLevelBPE(ImportedBPE):
    """Byte-level BPE; its pieces are in GPT-2's printable characters."""

    kind: ClassVar[str] = "byte-level-bpe"
    byte_of: ClassVar[dict[str, int]] = gpt2_alphabet()
    char_of: ClassVar[dict[int, str]] = {byte: char for char, byte in byte_of.items()}

    @property
    def lossless(self) -> bool:
        return self.keeps_every_text() and self.byte_of.keys() <= self.token_of.keys()

    def bytes_of(self, text: str) -> bytes:
        if set(text) <= self.byte_of.keys():
            return bytes(self.byte_of[char] for char in text)
        return text.encode()  # as the package does; no text yields such a piece

    def write(self, word: str) -> str:
        return "".join(map(self.char_of.__getitem__, word.encode()))


class FallbackBPE(ImportedBPE):
    """BPE of characters with byte fallback, as sentencepiece has it."""

    kind: ClassVar[str] = "fallback-bpe"

    def bytes_of(self, text: str) -> bytes:
        return fallback_bytes(text, self.options.byte_fallback, self.options.space)

    def added_bytes(self, text: str) -> bytes:
        return self.bytes_of(text)  # Gemma: a run of U+2581 is an added token, and stands for spaces
