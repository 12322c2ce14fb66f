"""The sentencepiece package (Kudo and Richardson 2018): BPE or Unigram in C++; fast, and the default.

The same two algorithms are written out in `bpe` and `unigram`; read those before. Options of the package that would
change the text are turned off: no Unicode normalization, no added or removed spaces; a character outside the vocabulary
becomes its UTF-8 bytes (<0xE2> and so on). No piece crosses the start of a word, and each digit is a piece, so that the
model sees the decimal system. The package writes a space as U+2581 and cannot tell the two apart; so it never sees
U+2581, which is written in bytes instead. Ids: 0 is END (the package requires an unknown piece, which byte fallback
never uses), 1 ... 256 the bytes, then pieces.
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
SPACE = "\u2581"  # the package's notation for " "
WORDS = re.compile(f"{SPACE}| *[^ {SPACE}]+| +")
SAMPLE = {"bpe": 4_000_000, "unigram": 1_000_000}  # characters to learn from, for some seconds of training
CHUNK = 4000  # characters
FIXED = 1 + 256  # END and the bytes


def sample_chunks(texts: Iterable[str], size: int) -> list[str]:
    """About `size` characters of the texts, in chunks drawn at random, the same on every call.

    A random sample, because every k-th of alternating texts (source, target, source ...) would be of one kind only.
    """
    chunks = [text[i : i + CHUNK] for text in texts if to_utf8(text) for i in range(0, len(text), CHUNK)]
    total = sum(map(len, chunks))
    if total <= size:
        return chunks
    drawn = random.Random(0).sample(range(len(chunks)), len(chunks) * size // total)
    return [chunks[i] for i in sorted(drawn)]


class SentencePieceTokenizer(Tokenizer):
    """A model trained by `train`; other sentencepiece models may normalize text, and so lose some of it."""

    def __init__(self, model: bytes, algorithm: Algorithm):
        import sentencepiece  # here, because it takes 0.1 seconds

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

        A small text may give fewer. At most half of the pieces are single characters; the rarer characters of a large
        alphabet are written in bytes. Raises ValueError.
        """
        import sentencepiece

        if algorithm not in SAMPLE:
            raise ValueError(f"algorithm = {algorithm!r}: expected one of {list(SAMPLE)}")
        if vocab_size <= FIXED:
            raise ValueError(
                f"vocab_size = {vocab_size}: expected more than {FIXED}, END and the bytes; "
                "ask for more, or take kind 'byte'"
            )
        chunks = sample_chunks(texts, SAMPLE[algorithm])
        counts = Counter(chain.from_iterable(chunks))
        by_frequency = [char for char, _ in counts.most_common()]
        # subtle: no piece contains NUL, so it replaces everything that must not be learned: the package's own two marks
        # and rare characters. A NUL at the end also prevents the package from stripping a last newline.
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
        """Encode texts with one call of the package for their distinct words: each word is segmented once.

        This equals the segmentation of whole texts, because no piece crosses the start of a word. For Unigram it is
        more exact: the package adds up scores in 32 bits, which cannot distinguish segmentations of a long text.
        """
        for text in texts:
            to_utf8(text)  # raises ValueError for a lone surrogate
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
