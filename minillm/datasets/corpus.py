"""Where documents come from: a corpus that ships with minillm, or your own text.

A file is one document, a folder is one document per file of prose or source code, a .jsonl file is one document per line; `files` reads
them. Several names with commas between them are one corpus, which remembers the parts that its documents are from. In Python, any
iterable of strings is a corpus:

    >>> corpus_of(["One text.", "Another."]).documents
    ['One text.', 'Another.']
"""

import difflib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from minillm.config.fields import Fraction, Positive, Seed, validate
from minillm.datasets.files import read_text, read_with_account
from minillm.datasets.pairs import Pair, read_pairs
from minillm.datasets.python_docs import python_docs
from minillm.datasets.shakespeare import shakespeare
from minillm.datasets.stories import DIARY, STORIES, World
from minillm.datasets.translation import TranslationWorld
from minillm.tokenizers.tokenizer import to_utf8

WORLDS = {"stories": STORIES, "diary": DIARY}  # corpora that are made up
BUILT_IN = [*WORLDS, "python-docs", "shakespeare", "french", "translation"]
PAGE = 10  # sentences of a French document


@dataclass(frozen=True)
class DataConfig:
    """What to train on."""

    corpus: str = "stories"  # stories | diary | python-docs | shakespeare | french | translation | a file or folder | several, with commas
    n_stories: Positive = 20_000  # how many stories to make up, where they are made up
    n_pairs: Positive = 40_000  # how many sentences to make up, where corpus is "translation" or "french"
    seed: Seed = 0  # which stories or sentences they are
    clean: bool = False  # normalize the text and remove junk and near-duplicates, by section [cleaning]
    val_fraction: Fraction = (
        0.05  # share of documents to validate on; a single text gives its last val_fraction + test_fraction
    )
    test_fraction: Fraction = 0.05  # share of documents that are kept for the end

    def __post_init__(self) -> None:
        validate(self)


class Corpus(NamedTuple):
    """Documents and where they are from."""

    name: str
    documents: list[str]
    world: World | None  # what made the stories, and so knows their exact probabilities; None for all other texts
    parts: tuple["Corpus", ...] = ()  # what it was mixed from, where it was; `documents` are theirs, one after another
    account: str = ""  # what was read of whose files


def load_corpus(config: DataConfig) -> Corpus:
    """The documents of `config.corpus`. A built-in name wins over a file of that name (write ./stories for the file).

    Raises ValueError for an unknown name and for a text that is missing, empty or not UTF-8.
    """
    if "," in config.corpus and not _is_there(config.corpus):
        return _mix(config)
    name = config.corpus
    if name in WORLDS:
        world = World(WORLDS[name])
        return Corpus(name, world.generate(config.n_stories, config.seed), world)
    if name == "python-docs":
        return Corpus(name, python_docs(), None)
    if name == "shakespeare":
        return Corpus(name, [shakespeare()], None)
    if name == "french":
        lines = [pair.source for pair in TranslationWorld().generate(config.n_pairs, config.seed)]
        return Corpus(name, ["\n".join(lines[i : i + PAGE]) for i in range(0, len(lines), PAGE)], None)
    if name == "translation" or name.endswith(".tsv"):
        raise ValueError(
            f"data.corpus = {name!r}: expected texts, and these are pairs; translate them with --config translate-tiny"
        )
    documents, account = read_with_account(_find(name))
    return Corpus(name, documents, None, account=account)


def corpus_of(texts: Iterable[str], name: str = "texts") -> Corpus:
    """A corpus of documents that are at hand, for `runs.wiring.build_data`: a list of strings, or anything that yields strings.

    Raises ValueError for a single string, for what is no string, and where there is no text.
    """
    if isinstance(texts, str | bytes):
        raise ValueError(
            f"texts = {texts[:40]!r}: expected a list of strings, one a document; put it in brackets: [text]"
        )
    documents = list(texts)
    for i, document in enumerate(documents):
        if not isinstance(document, str):
            raise ValueError(
                f"texts[{i}] = {document!r:.40}: expected a string, found {type(document).__name__}; convert or drop it"
            )
        to_utf8(document)  # refuses what is not text
    if not any(document.strip() for document in documents):
        raise ValueError(
            f"texts = {len(documents)} blank strings: expected some with words in them; check where they come from"
        )
    return Corpus(name, documents, None)


def load_pairs(config: DataConfig) -> list[Pair]:
    """The sentences of `config.corpus` with their translations. Raises ValueError where it is no corpus of pairs."""
    name = config.corpus
    if name == "translation":
        return TranslationWorld().generate(config.n_pairs, config.seed)
    if not name.endswith(".tsv"):
        raise ValueError(
            f"data.corpus = {name!r}: expected translation, or a .tsv file with a source, a tab and a target on each line"
        )
    path = _find(name)
    return read_pairs(path, read_text(path))


def _is_there(name: str) -> bool:
    try:
        return Path(name).expanduser().exists()
    except (OSError, RuntimeError):
        return False


def _find(name: str) -> Path:
    """A file or folder that exists. Raises ValueError."""
    try:
        path = Path(name).expanduser()
        exists = bool(name) and path.exists()
    except (OSError, RuntimeError) as e:  # a name that is too long, a user who does not exist
        raise ValueError(
            f"data.corpus = {name[:60]!r}: expected a file or folder, got an error ({e}); check the path"
        ) from e
    if not exists:
        near = difflib.get_close_matches(name, BUILT_IN, n=1)
        raise ValueError(
            f"data.corpus = {name!r}: expected {', '.join(BUILT_IN)}, or a file or folder that exists; "
            + (f"did you mean {near[0]}?" if near else "check the path")
        )
    return path


def _mix(config: DataConfig) -> Corpus:
    names = [name.strip() for name in config.corpus.split(",")]
    parts = tuple(load_corpus(replace(config, corpus=name)) for name in names)
    for part in parts:
        if names.count(part.name) > 1 or len(part.documents) == 1:
            found = "it twice" if names.count(part.name) > 1 else "one document, which could not be split"
            raise ValueError(
                f"data.corpus = {config.corpus!r}: expected parts of many documents, each once; of {part.name} found {found}"
            )
    account = "; ".join(part.account for part in parts if part.account)
    return Corpus(config.corpus, [document for part in parts for document in part.documents], None, parts, account)
