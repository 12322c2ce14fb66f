"""Where documents come from: a corpus that ships with minillm, or your own text.

A file is one document, a folder is one document per .txt or .md file, a .jsonl file is one document per line. Text must be
UTF-8; whatever cannot be read is refused with a sentence that says where and what to do, never skipped or repaired. Several names
with commas between them are one corpus, which remembers the parts that its documents are from.
"""

import difflib
import json
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple

from minillm.config import Fraction, Positive, Seed, validate
from minillm.datasets.pairs import Pair, read_pairs
from minillm.datasets.python_docs import python_docs
from minillm.datasets.shakespeare import shakespeare
from minillm.datasets.stories import DIARY, STORIES, World
from minillm.datasets.translation import TranslationWorld

WORLDS = {"stories": STORIES, "diary": DIARY}  # corpora that are made up
BUILT_IN = [*WORLDS, "python-docs", "shakespeare", "french", "translation"]
PAGE = 10  # sentences of a French document
SUFFIXES = (".txt", ".md")  # what is read from a folder


@dataclass(frozen=True)
class DataConfig:
    """What to train on."""

    corpus: str = "stories"  # stories | diary | python-docs | shakespeare | french | translation | a file or folder | several, with commas
    n_stories: Positive = 20_000  # how many stories to make up, where they are made up
    n_pairs: Positive = 40_000  # how many sentences to make up, where corpus is "translation" or "french"
    seed: Seed = 0  # which stories or sentences they are
    clean: bool = False  # normalize the text and remove junk and near-duplicates, by section [cleaning]
    val_fraction: Fraction = 0.05  # share of documents to validate on; a single text gives its last val_fraction + test_fraction
    test_fraction: Fraction = 0.05  # share of documents that are kept for the end
    order: Literal["epochs", "random", "contiguous"] = "epochs"  # windows once an epoch, at random, or with the state carried (rnn)

    def __post_init__(self) -> None:
        validate(self)


class Corpus(NamedTuple):
    """Documents and where they are from."""

    name: str
    documents: list[str]
    world: World | None  # what made the stories, and so knows their exact probabilities; None for all other texts
    parts: tuple["Corpus", ...] = ()  # what it was mixed from, where it was; `documents` are theirs, one after another


def load_corpus(config: DataConfig) -> Corpus:
    """The documents of `config.corpus`. A built-in name wins over a file of that name (write ./stories for the file).

    Raises ValueError for an unknown name and for a text that is missing, empty or not UTF-8.
    """
    if "," in config.corpus and not Path(config.corpus).expanduser().exists():
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
        raise ValueError(f"data.corpus = {name!r}: expected texts, and these are pairs; translate them with --model.kind encoder_decoder")
    return Corpus(name, read_documents(_find(name)), None)


def load_pairs(config: DataConfig) -> list[Pair]:
    """The sentences of `config.corpus` with their translations. Raises ValueError where it is no corpus of pairs."""
    name = config.corpus
    if name == "translation":
        return TranslationWorld().generate(config.n_pairs, config.seed)
    if not name.endswith(".tsv"):
        raise ValueError(f"data.corpus = {name!r}: expected translation, or a .tsv file with a source, a tab and a target on each line")
    path = _find(name)
    return read_pairs(path, read_text(path))


def _find(name: str) -> Path:
    """A file or folder that exists. Raises ValueError."""
    path = Path(name).expanduser()
    if not name or not path.exists():
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
            raise ValueError(f"data.corpus = {config.corpus!r}: expected parts of many documents, each once; of {part.name} found {found}")
    return Corpus(config.corpus, [document for part in parts for document in part.documents], None, parts)


def read_documents(path: Path) -> list[str]:
    """The documents in a file or folder. Raises ValueError."""
    if path.is_dir():
        documents = _read_folder(path)
    elif path.suffix.lower() == ".jsonl":
        documents = _read_jsonl(path)
    else:
        documents = [read_text(path)]
    if not any(document.strip() for document in documents):
        found = "only white space" if any(documents) else "nothing"
        raise ValueError(f"{path}: expected text, found {found}; give a text with words in it")
    return documents


def read_text(path: Path) -> str:
    """A UTF-8 file without its byte order mark, every line ended by a plain newline. Raises ValueError."""
    try:
        data = path.read_bytes()
    except OSError as e:
        raise ValueError(f"{path}: expected a file that can be read, got {e.strerror}; check the path and its permissions") from e
    if b"\0" in data:
        raise ValueError(f"{path}: expected text, found a zero byte at offset {data.index(0)}; save it as plain UTF-8 text")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as e:
        raise ValueError(
            f"{path}: expected UTF-8, found byte {data[e.start]:#04x} at offset {e.start} ({e.reason}); save it as UTF-8 "
            f"(iconv -f latin1 -t utf-8, if it is Latin-1)"
        ) from e
    return text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")


def _read_folder(folder: Path) -> list[str]:
    def refuse(e: OSError) -> None:
        raise ValueError(f"{e.filename}: expected a folder that can be read, got {e.strerror}; check its permissions") from e

    paths = [Path(parent, name) for parent, _, names in os.walk(folder, onerror=refuse) for name in names]
    paths = sorted(path for path in paths if path.suffix.lower() in SUFFIXES)
    if not paths:
        raise ValueError(f"{folder}: expected {' or '.join(SUFFIXES)} files in it, found none; rename yours or give one file")
    return [text for path in paths if (text := read_text(path)).strip()]  # a blank file holds nothing that could be lost


def _read_jsonl(path: Path) -> list[str]:
    documents = []
    for number, line in enumerate(read_text(path).split("\n"), start=1):  # subtle: splitlines would also cut at U+2028
        if line.strip():
            documents.append(_text_of(line, f"{path}, line {number}"))
    return documents


def _text_of(line: str, where: str) -> str:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as e:
        raise ValueError(f"{where}: expected JSON, got an error ({e}); write one object a line") from e
    if not isinstance(record, dict) or not isinstance(record.get("text"), str):
        raise ValueError(f'{where}: expected an object whose "text" is a string; write {{"text": "..."}}')
    try:
        record["text"].encode()
    except UnicodeEncodeError as e:
        raise ValueError(f'{where}: expected Unicode, found half of a surrogate pair at character {e.start} of "text"; repair it') from e
    return record["text"]
