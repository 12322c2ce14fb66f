"""From a corpus to token streams: clean the documents if configured, split and tokenize them. For tasks on texts."""

import math
from typing import NamedTuple

from minillm.datasets.cleaning import clean
from minillm.datasets.corpus import Corpus, load_corpus
from minillm.datasets.source import Source, find_source
from minillm.datasets.split import Splits, split, unit_hash
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
    world: World | None  # the generator of the texts, if known
    source: Source | None  # the generator, conditioned on what cleaning kept; None if unknown
    remark: str  # a note about the source, or ""


def read_texts(settings: Settings, say: Say, corpus: Corpus | None = None) -> Texts:
    """Load the documents of `corpus` (default: the settings' corpus), clean them if configured, and split them.

    Raises ValueError if there is no validation text.
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


def thinned(texts: Texts, share: float) -> Texts:
    """The texts with only a share of the training part: the documents with the largest hashes; of one text, its start.

    A smaller share is a part of a larger one, and at least one document is left.
    """
    train = texts.splits.train
    if len(train) == 1:
        kept = [train[0][: math.ceil(share * len(train[0]))]]
    else:
        ordered = sorted(range(len(train)), key=lambda i: unit_hash(train[i]), reverse=True)
        kept = [train[i] for i in sorted(ordered[: math.ceil(share * len(train))])]
    return texts._replace(splits=texts.splits._replace(train=kept))


def tokenized(settings: Settings, texts: Texts, tokenizer: Tokenizer | None) -> Data:
    """Tokenize texts with `tokenizer`, or with one trained on the training part."""
    tokenizer = tokenizer or train_tokenizer(settings.tokenizer, texts.splits.train)
    return Data(tokenizer, texts.many, *(token_stream(part, tokenizer) if part else None for part in texts.splits))
