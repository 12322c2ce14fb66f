"""Unigram of other people: sentencepiece's, with an unknown piece or byte fallback for characters without a piece.

The segmentation is `unigram`'s Viterbi. In addition, a character that is no piece may be taken as unknown, at the least
log probability of all pieces minus 10 (the constant of Kudo and Richardson 2018); unknown characters in a row become
one unknown token, or the bytes of each, where the vocabulary has them. Read before: `unigram`, `imported`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import chain, groupby
from typing import Any, ClassVar, Self

from minillm.tokenizers.imported import ImportedTokenizer, Pipeline
from minillm.tokenizers.imported_bpe import BYTE_PIECES, fallback_bytes
from minillm.tokenizers.unigram import PieceModel

PENALTY = 10.0


@dataclass(frozen=True)
class UnigramOptions:
    """The options in which files of one algorithm differ."""

    byte_fallback: bool = False  # characters without a piece become their bytes
    space: str = ""  # decodes to " "


class UnknownPieces(PieceModel):
    """Segmentations of a word whose characters need not be pieces: each may stand alone, for `unknown`."""

    def __init__(self, logprobs: dict[str, float], unknown: float):
        super().__init__(logprobs)
        self.unknown = unknown

    def arcs_into(self, word: str, end: int) -> Iterator[tuple[int, float]]:
        yield from super().arcs_into(word, end)
        if word[end - 1] not in self.logprobs:
            yield end - 1, self.unknown


class FallbackUnigram(ImportedTokenizer):
    """`texts`: the piece of each id as the file writes it; `scores`: their log probabilities. Raises ValueError.

    A text that looks like a byte piece, <0x41>, is that piece, as in the `tokenizers` package.
    """

    kind: ClassVar[str] = "fallback-unigram"

    def __init__(
        self,
        texts: Sequence[str],
        scores: Sequence[float],
        pipeline: Pipeline,
        options: UnigramOptions,
        unknown: int | None,
    ):
        if len(texts) != len(scores):
            raise ValueError(f"{len(scores)} scores: expected one for each of {len(texts)} pieces; take the file whole")
        self.texts, self.scores, self.options = list(texts), list(scores), options
        id_of = {text: token for token, text in enumerate(texts)}
        byte_pieces = BYTE_PIECES if options.byte_fallback else {}
        self.byte_tokens = {byte: id_of[text] for text, byte in byte_pieces.items() if text in id_of}
        if unknown is None and len(self.byte_tokens) < len(BYTE_PIECES):
            raise ValueError("unk_id = None: expected the id of characters without a piece; take the file as published")
        super().__init__([self.added_bytes(text) for text in texts], pipeline, unknown)
        self.token_of = {text: token for text, token in id_of.items() if token not in self.never and token != unknown}
        known = {text: scores[token] for text, token in self.token_of.items()}
        self.model = UnknownPieces(known, min(scores) - PENALTY)

    def added_bytes(self, text: str) -> bytes:
        return fallback_bytes(text, self.options.byte_fallback, self.options.space)

    def segment(self, word: str) -> list[int]:
        pieces, _ = self.model.viterbi(word)
        runs = [(known, list(run)) for known, run in groupby(pieces, key=self.token_of.__contains__)]
        tokens = [
            [self.token_of[piece] for piece in run] if known else self._fallback("".join(run)) for known, run in runs
        ]
        return list(chain.from_iterable(tokens))

    def _fallback(self, characters: str) -> list[int]:
        """Unknown characters in a row: their bytes if each of these has a piece, else one unknown token."""
        tokens = [self.byte_tokens.get(bytes([byte])) for byte in characters.encode()]
        return [self.unknown] if None in tokens else tokens

    def to_dict(self) -> dict:
        own = {"texts": self.texts, "scores": self.scores, "options": asdict(self.options)}
        return super().to_dict() | own

    @classmethod
    def from_dict(cls, d: dict[str, Any]) -> Self:
        options = UnigramOptions(**d["options"])
        return cls(d["texts"], d["scores"], Pipeline.from_dict(d["pipeline"]), options, d["unknown"])
