"""Corpora: those that ship with minillm, and texts from files, folders or Python.

A text file is one document, a folder is one document per file of prose or source code, a .jsonl file is one document
per line (`files` reads them). Several names separated by commas make one mixed corpus, which keeps its parts. In
Python, any iterable of strings is a corpus:

    >>> corpus_of(["One text.", "Another."]).documents
    ['One text.', 'Another.']
"""

import difflib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from minillm.config.fields import Fraction, Positive, Seed, validate
from minillm.datasets.files import read_text, read_with_account
from minillm.datasets.pairs import Pair, read_pairs
from minillm.datasets.python_docs import python_docs
from minillm.datasets.shakespeare import shakespeare
from minillm.datasets.stories import DIARY, STORIES, World
from minillm.datasets.translation import TranslationWorld
from minillm.datasets.worlds.catalog import EXERCISES, world_and_size
from minillm.tokenizers.tokenizer import to_utf8

WORLDS = {"stories": STORIES, "diary": DIARY}  # generated corpora
BUILT_IN = [*WORLDS, *EXERCISES, "python-docs", "shakespeare", "french", "translation"]
N_SENTENCES = 10  # in a document of the French corpus


@dataclass(frozen=True)
class DataConfig:
    """Which texts to train on, how to split them, and in which order to read them."""

    corpus: str = (
        "stories"  # stories, diary, python-docs, shakespeare, french, translation, a world, or paths; "a,b" mixes two
    )
    n_stories: Positive = 20_000  # number of generated stories, where corpus is "stories" or "diary"
    n_exercises: Positive = 20_000  # exercises of each world; "safety:500" in corpus sets those of one world
    n_pairs: Positive = 40_000  # number of generated sentences, where corpus is "translation" or "french"
    seed: Seed = 0  # seed of the generated stories or sentences
    clean: bool = False  # normalize the text and remove junk and near-duplicates, by the rules of section [cleaning]
    val_fraction: Fraction = 0.05  # share for validation; of a single text, its last val_fraction + test_fraction
    test_fraction: Fraction = 0.05  # share of documents for the final test

    def __post_init__(self) -> None:
        validate(self)


class Corpus(NamedTuple):
    """Documents and their origin."""

    name: str
    documents: list[str]
    world: World | None  # the generator of the stories, which knows their exact probabilities; None for other texts
    parts: tuple["Corpus", ...] = ()  # the parts of a mixed corpus; `documents` are theirs, one part after another
    account: str = ""  # a line that says which files were read


def load_corpus(config: DataConfig) -> Corpus:
    """Load the documents of `config.corpus`. A built-in name wins over a file of that name (write ./stories for it).

    Raises ValueError for an unknown name and for a text that is missing, empty or not UTF-8.
    """
    if "," in config.corpus and not _exists(config.corpus):
        return _mix(config)
    name, n_exercises = world_and_size(config.corpus, config.n_exercises)
    if name in WORLDS:
        world = World(WORLDS[name])
        return Corpus(name, world.generate(config.n_stories, config.seed), world)
    if name in EXERCISES:
        return Corpus(name, list(islice(EXERCISES[name]().documents(config.seed), n_exercises)), None)
    if name == "python-docs":
        return Corpus(name, python_docs(), None)
    if name == "shakespeare":
        return Corpus(name, [shakespeare()], None)
    if name == "french":
        lines = [pair.source for pair in TranslationWorld().generate(config.n_pairs, config.seed)]
        return Corpus(name, ["\n".join(lines[i : i + N_SENTENCES]) for i in range(0, len(lines), N_SENTENCES)], None)
    if name == "translation" or name.endswith(".tsv"):
        raise ValueError(
            f"data.corpus = {name!r}: expected texts, and these are pairs; translate them with --config translate-tiny"
        )
    documents, account = read_with_account(existing(name))
    return Corpus(name, documents, None, account=account)


def corpus_of(texts: Iterable[str], name: str = "texts") -> Corpus:
    """Make a corpus from strings, for `runs.wiring.build_data`: a list of documents, or any iterable of them.

    Raises ValueError for a single string, for an element that is not a string, and if there is no text.
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
        to_utf8(document)  # raises ValueError for a lone surrogate
    if not any(document.strip() for document in documents):
        raise ValueError(
            f"texts = {len(documents)} blank strings: expected some with words in them; check where they come from"
        )
    return Corpus(name, documents, None)


def load_pairs(config: DataConfig) -> list[Pair]:
    """Load the sentence pairs of `config.corpus`. Raises ValueError if it is not a corpus of pairs."""
    name = config.corpus
    if name == "translation":
        return TranslationWorld().generate(config.n_pairs, config.seed)
    if not name.endswith(".tsv"):
        raise ValueError(
            f"data.corpus = {name!r}: expected translation, or a .tsv file; "
            "write a source, a tab and a target on each line"
        )
    path = existing(name)
    return read_pairs(path, read_text(path))


def corpus_files(name: str) -> list[Path]:
    """The files of `data.corpus`, also of each part of a mixture; none for a built-in corpus."""
    if "," in name and not _exists(name):
        return [file for part in name.split(",") for file in corpus_files(part.strip())]
    if name in BUILT_IN or not _exists(name):
        return []
    path = Path(name).expanduser()
    return sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]


def _exists(name: str) -> bool:
    try:
        return Path(name).expanduser().exists()
    except (OSError, RuntimeError):
        return False


def existing(name: str) -> Path:
    """The path of an existing file or folder. Raises ValueError."""
    try:
        path = Path(name).expanduser()
        exists = bool(name) and path.exists()
    except (OSError, RuntimeError) as e:  # the name is too long, or names an unknown user (~name)
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
    parts = tuple(load_corpus(replace(config, corpus=name.strip())) for name in config.corpus.split(","))
    names = [part.name for part in parts]
    for part in parts:
        if names.count(part.name) > 1 or len(part.documents) == 1:
            found = "it twice" if names.count(part.name) > 1 else "one document, which could not be split"
            raise ValueError(
                f"data.corpus = {config.corpus!r}: expected parts of many documents, each once; "
                f"of {part.name} found {found}"
            )
    account = "; ".join(part.account for part in parts if part.account)
    return Corpus(config.corpus, [document for part in parts for document in part.documents], None, parts, account)
