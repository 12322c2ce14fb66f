"""Byte-pair encoding or a Unigram model by the sentencepiece package: the tokenizer for speed, and the default.

The same two ideas are written out in `bpe` and `unigram`; read those. The package (Kudo & Richardson 2018, "SentencePiece")
adds C++ and its own habits, all of which are turned off here where they would change the text: no Unicode normalization,
no space put in front, none taken away; a character outside the vocabulary falls back to its UTF-8 bytes, <0xE2> and so on.
Pieces never reach across the start of a word, digits stand alone, so that a model sees the decimal system.
The package writes a space as U+2581 and so confuses the two; we give it no U+2581 and write that character in bytes.

Ids: 0 is END (the package insists on an unknown piece, which byte fallback never uses), 1 ... 256 the bytes, then pieces.
"""

import base64
import io
import random
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Literal, Self

from minillm.tokenizers.tokenizer import END, Tokenizer, join_pieces, no_text_error, to_utf8

Algorithm = Literal["bpe", "unigram"]
SPACE = "\u2581"  # what the package writes for " "
WORDS = re.compile(f"{SPACE}| *[^ {SPACE}]+| +")
SAMPLE = {"bpe": 4_000_000, "unigram": 1_000_000}  # characters to learn from: a second or some seconds of training
CHUNK = 4000  # characters
FIXED = 1 + 256  # END and the bytes


def sample_chunks(texts: Iterable[str], size: int) -> list[str]:
    """About `size` characters of the texts, in chunks drawn from all over them, and always the same ones.

    Drawn, since every k-th of texts that alternate (source, target, source ...) would be of one sort only.
    """
    chunks = [text[i : i + CHUNK] for text in texts if to_utf8(text) for i in range(0, len(text), CHUNK)]
    total = sum(map(len, chunks))
    if total <= size:
        return chunks
    drawn = random.Random(0).sample(range(len(chunks)), len(chunks) * size // total)
    return [chunks[i] for i in sorted(drawn)]


class SentencePieceTokenizer(Tokenizer):
    """Wraps a model trained by `train`; any other sentencepiece model may normalize, and then loses text."""

    def __init__(self, model: bytes, algorithm: Algorithm):
        import sentencepiece  # not with the module: a tenth of a second, for those alone who need it

        self.model, self.algorithm = model, algorithm
        self.processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        self.vocab_size = self.processor.vocab_size()
        self.special_tokens = {END: self.processor.unk_id()}
        self.pieces = [self._bytes_of(token) for token in range(self.vocab_size)]
        self.space_tokens = [self.processor.piece_to_id(f"<0x{byte:02X}>") for byte in SPACE.encode()]

    def _bytes_of(self, token: int) -> bytes:
        piece = self.processor.id_to_piece(token)
        if self.processor.is_unknown(token):
            return b""
        if self.processor.is_byte(token):
            return bytes([int(piece[1:-1], 16)])
        return piece.replace(SPACE, " ").encode()

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int, algorithm: Algorithm = "bpe") -> Self:
        """Learn at most `vocab_size` ids, END and bytes included, from a sample of SAMPLE[algorithm] characters.

        A small text has fewer pieces to offer: the real number is `vocab_size` of the result. Half of the pieces at most
        are single characters; the rarer characters of a large alphabet are left to their bytes.
        """
        import sentencepiece

        if algorithm not in SAMPLE:
            raise ValueError(f"algorithm = {algorithm!r}: expected one of {list(SAMPLE)}")
        if vocab_size <= FIXED:
            raise ValueError(
                f"vocab_size = {vocab_size}: expected more than {FIXED}, END and the bytes; ask for more, or take kind 'byte'"
            )
        chunks = sample_chunks(texts, SAMPLE[algorithm])
        counts = Counter(chain.from_iterable(chunks))
        by_frequency = [char for char, _ in counts.most_common()]
        # subtle: NUL is in no piece, so it ends pieces where it stands for what must not be learned: the package's own two
        # marks and rare characters. One at the end also keeps the package from stripping a last newline.
        barriers = dict.fromkeys([0x2581, 0x2585, *map(ord, by_frequency[max(1, (vocab_size - FIXED) // 2) :])], "\0")
        sentences = [chunk.translate(barriers) + "\0" for chunk in chunks]
        if not any(sentence.strip("\0") for sentence in sentences):
            raise no_text_error()
        model = io.BytesIO()
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(sentences),
            model_writer=model,
            model_type=algorithm,
            vocab_size=vocab_size,
            hard_vocab_limit=False,
            unk_id=0,
            unk_piece=END,
            bos_id=-1,
            eos_id=-1,
            pad_id=-1,
            byte_fallback=True,
            character_coverage=1.0,
            normalization_rule_name="identity",
            add_dummy_prefix=False,
            remove_extra_whitespaces=False,
            allow_whitespace_only_pieces=True,
            split_digits=True,
            max_sentence_length=8 * CHUNK,  # bytes; longer ones would be skipped
            num_threads=4,  # fixed: the order of Unigram's sums depends on it
            minloglevel=2,
        )
        return cls(model.getvalue(), algorithm)

    def encode(self, text: str) -> list[int]:
        return self.encode_many([text])[0]

    def encode_many(self, texts: Sequence[str]) -> list[list[int]]:
        """One call of the package for the distinct words of all texts: each word is segmented once.

        Exactly the segmentation of the whole, since no piece reaches across the start of a word; for Unigram better than
        that, because the package adds up scores in 32 bits, which cannot tell segmentations of a long text apart.
        """
        for text in texts:
            to_utf8(text)  # refuses what is not text
        split = [WORDS.findall(text) for text in texts]
        distinct = list(set(chain.from_iterable(split)) - {SPACE})
        tokens_of = dict(zip(distinct, self.processor.encode(distinct), strict=True))
        tokens_of[SPACE] = self.space_tokens
        return [list(chain.from_iterable(map(tokens_of.__getitem__, words))) for words in split]

    def decode_bytes(self, tokens: Sequence[int]) -> bytes:
        return join_pieces(self.pieces, tokens)

    def to_dict(self) -> dict:
        return {"kind": f"sentencepiece-{self.algorithm}", "model": base64.b64encode(self.model).decode("ascii")}

    @classmethod
    def from_dict(cls, d: dict) -> Self:
        return cls(base64.b64decode(d["model"]), d["kind"].removeprefix("sentencepiece-"))
