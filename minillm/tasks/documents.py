"""From a corpus to token streams: documents, cleaned if asked for, split, and tokenized. All tasks on texts begin so."""

from typing import NamedTuple

from minillm.datasets.cleaning import clean
from minillm.datasets.corpus import Corpus, load_corpus
from minillm.datasets.source import Source, find_source
from minillm.datasets.split import Splits, split
from minillm.datasets.stories import World
from minillm.datasets.tokens import token_stream
from minillm.tasks.settings import Settings
from minillm.tasks.task import Data, Say
from minillm.tokenizers.build_tokenizer import train_tokenizer
from minillm.tokenizers.tokenizer import Tokenizer


class Texts(NamedTuple):
    """A corpus before it is tokenized."""

    splits: Splits
    many: bool  # many documents, or one long text
    world: World | None  # what wrote them, where it is known
    source: Source | None  # the same as a model to compare with, given what cleaning kept; None where there is none
    remark: str  # about the source, "" where there is nothing to say


def read_texts(settings: Settings, say: Say, corpus: Corpus | None = None) -> Texts:
    """The documents of `corpus`, or else of the settings', cleaned if asked for, by what they are for.

    Raises ValueError where there is nothing to validate on.
    """
    corpus = corpus or load_corpus(settings.data)
    if corpus.account:
        say(corpus.account)
    documents, report = corpus.documents, None
    if settings.data.clean:
        documents, report = clean(documents, settings.cleaning)
        say(str(report))
    splits = split(documents, settings.data.val_fraction, settings.data.test_fraction)
    if not splits.val:
        raise ValueError("data.val_fraction = 0: expected some text to validate on; raise it")
    return Texts(
        splits, len(documents) > 1, corpus.world, *find_source(corpus.world, corpus.documents, documents, report)
    )


def tokenized(settings: Settings, texts: Texts, tokenizer: Tokenizer | None) -> Data:
    """Tokenize texts by `tokenizer`, or by one that is trained on the training part."""
    tokenizer = tokenizer or train_tokenizer(settings.tokenizer, texts.splits.train)
    return Data(tokenizer, texts.many, *(token_stream(part, tokenizer) if part else None for part in texts.splits))
