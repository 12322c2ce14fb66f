"""Tokenizers by name: trained on texts, or restored from the dictionary that `to_dict` returned.

Two dictionaries are the registry. A tokenizer is trained once, on the training text of a run, and stored in the
checkpoint as JSON; it is never trained again, because the weights mean nothing without the ids they were trained on.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Literal

from minillm.config.fields import Positive, validate
from minillm.tokenizers.bpe import BPETokenizer
from minillm.tokenizers.byte import ByteTokenizer
from minillm.tokenizers.char import CharTokenizer
from minillm.tokenizers.sentencepiece import SentencePieceTokenizer
from minillm.tokenizers.tokenizer import Tokenizer
from minillm.tokenizers.unigram import UnigramTokenizer

Kind = Literal["sentencepiece-bpe", "sentencepiece-unigram", "bpe", "unigram", "char", "byte"]

CLASSES: dict[str, type] = {  # kind -> class, for `from_dict`
    "sentencepiece-bpe": SentencePieceTokenizer,
    "sentencepiece-unigram": SentencePieceTokenizer,
    "bpe": BPETokenizer,
    "unigram": UnigramTokenizer,
    "char": CharTokenizer,
    "byte": ByteTokenizer,
}

TRAINERS = {  # kind -> function of (texts, vocab_size)
    "sentencepiece-bpe": lambda texts, vocab_size: SentencePieceTokenizer.train(texts, vocab_size, "bpe"),
    "sentencepiece-unigram": lambda texts, vocab_size: SentencePieceTokenizer.train(texts, vocab_size, "unigram"),
    "bpe": BPETokenizer.train,
    "unigram": UnigramTokenizer.train,
    "char": lambda texts, vocab_size: CharTokenizer.train(texts),
    "byte": lambda texts, vocab_size: ByteTokenizer.train(texts),
}


@dataclass(frozen=True)
class TokenizerConfig:
    """The algorithm of the tokenizer, and the size of its vocabulary."""

    kind: Kind = "sentencepiece-bpe"  # sentencepiece-bpe, -unigram (fast, in C++); bpe, unigram (by hand); char, byte
    vocab_size: Positive = 2048  # most ids, END included; a small text may give fewer; char and byte fix their own size

    def __post_init__(self) -> None:
        validate(self)


def _look_up(registry: dict, kind: str):
    if kind not in registry:
        guess = get_close_matches(str(kind), registry, n=1)
        raise ValueError(
            f"kind = {kind!r}: expected one of {list(registry)}" + (f"; did you mean {guess[0]!r}?" if guess else "")
        )
    return registry[kind]


def train_tokenizer(config: TokenizerConfig, texts: Iterable[str]) -> Tokenizer:
    """Train a tokenizer on texts. Raises ValueError for an unknown kind and for a vocabulary that is too small."""
    return _look_up(TRAINERS, config.kind)(texts, config.vocab_size)


def tokenizer_from_dict(d: dict) -> Tokenizer:
    """The inverse of `Tokenizer.to_dict`: the same ids for the same text."""
    return _look_up(CLASSES, d.get("kind")).from_dict(d)
