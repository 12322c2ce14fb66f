"""Tokenizers by name: trained on texts, or restored from the dictionary that `to_dict` returned.

Two dictionaries are the registry: kinds that can be trained here, and kinds that only come with the models of other
people. A tokenizer is trained once, on the training text of a run, and stored in the checkpoint as JSON; it is never
trained again, because the weights mean nothing without the ids they were trained on.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Annotated, NamedTuple

from minillm.config.fields import Choice, Positive, fit, validate
from minillm.tokenizers.bpe import BPETokenizer
from minillm.tokenizers.byte import ByteTokenizer
from minillm.tokenizers.char import CharTokenizer
from minillm.tokenizers.extended import ExtendedTokenizer
from minillm.tokenizers.imported_bpe import ByteLevelBPE, FallbackBPE
from minillm.tokenizers.imported_unigram import FallbackUnigram
from minillm.tokenizers.sentencepiece import SentencePieceTokenizer
from minillm.tokenizers.tokenizer import Tokenizer
from minillm.tokenizers.unigram import UnigramTokenizer
from minillm.tokenizers.wordpiece import WordPieceTokenizer


class Kind(NamedTuple):
    """One kind of tokenizer."""

    cls: type[Tokenizer]  # its `from_dict` restores a tokenizer
    train: Callable[[Iterable[str], int], Tokenizer]  # from texts and vocab_size


TOKENIZERS = {
    "sentencepiece-bpe": Kind(SentencePieceTokenizer, partial(SentencePieceTokenizer.train, algorithm="bpe")),
    "sentencepiece-unigram": Kind(SentencePieceTokenizer, partial(SentencePieceTokenizer.train, algorithm="unigram")),
    "bpe": Kind(BPETokenizer, BPETokenizer.train),
    "unigram": Kind(UnigramTokenizer, UnigramTokenizer.train),
    "wordpiece": Kind(WordPieceTokenizer, WordPieceTokenizer.train),
    "char": Kind(CharTokenizer, lambda texts, vocab_size: CharTokenizer.train(texts)),
    "byte": Kind(ByteTokenizer, lambda texts, vocab_size: ByteTokenizer.train(texts)),
}
IMPORTED: dict[str, type[Tokenizer]] = {cls.kind: cls for cls in (ByteLevelBPE, FallbackBPE, FallbackUnigram)}
Name = Annotated[str, Choice(TOKENIZERS, IMPORTED)]


@dataclass(frozen=True)
class TokenizerConfig:
    """The algorithm of the tokenizer, and the size of its vocabulary."""

    kind: Name = (
        "sentencepiece-bpe"  # sentencepiece-bpe, -unigram (fast); bpe, unigram, wordpiece (by hand); char, byte
    )
    vocab_size: Positive = 2048  # most ids, END included; a small text may give fewer; char and byte fix their own size

    def __post_init__(self) -> None:
        validate(self)


def train_tokenizer(config: TokenizerConfig, texts: Iterable[str]) -> Tokenizer:
    """Train a tokenizer on texts. Raises ValueError for a vocabulary that is too small, or a kind that is only read."""
    if config.kind in IMPORTED:
        raise ValueError(
            f"tokenizer.kind = {config.kind!r}: expected a kind that can be trained, one of {', '.join(TOKENIZERS)}; "
            "this one comes only with the model of other people"
        )
    return TOKENIZERS[config.kind].train(texts, config.vocab_size)


def tokenizer_from_dict(d: dict) -> Tokenizer:
    """The inverse of `Tokenizer.to_dict`: the same ids for the same text. Raises ValueError for an unknown kind."""
    if d.get("kind") == "extended":
        return ExtendedTokenizer(tokenizer_from_dict(d["base"]), d["special"], d["ordinary"], d["stops"])
    kind = fit(d.get("kind"), Name, "kind")
    return (IMPORTED[kind] if kind in IMPORTED else TOKENIZERS[kind].cls).from_dict(d)
