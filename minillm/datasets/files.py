"""Documents in files: a text file is one document, a folder is one per file, JSON and JSON Lines hold one per "text".

Text must be UTF-8 and may be compressed by gzip. In a folder, prose and source code are read; hidden files and files of
other kinds are skipped, and the account lists them. What cannot be read raises ValueError; nothing is repaired. Only
regular files are opened, so reading never blocks on a pipe or a device.
"""

import gzip
import json
import os
import stat
import zlib
from collections import Counter
from pathlib import Path

PROSE = (".txt", ".md", ".rst", ".tex", ".org", ".text", ".markdown")
COMPILED = (
    ".c",
    ".h",
    ".cc",
    ".cpp",
    ".hpp",
    ".cu",
    ".cs",
    ".java",
    ".kt",
    ".scala",
    ".go",
    ".rs",
    ".swift",
    ".hs",
    ".ml",
)
SCRIPTS = (
    ".py",
    ".pyi",
    ".js",
    ".jsx",
    ".ts",
    ".tsx",
    ".rb",
    ".php",
    ".jl",
    ".r",
    ".lua",
    ".pl",
    ".sh",
    ".sql",
    ".lisp",
)
CODE = (*COMPILED, *SCRIPTS, ".ex", ".erl", ".clj", ".toml", ".yaml")
LINES = (".jsonl", ".ndjson")  # one JSON object a line
IN_FOLDERS = (*PROSE, *CODE, *LINES)  # suffixes that are read in a folder
AS_TEXT = {".csv": "commas and quotes", ".html": "tags", ".htm": "tags", ".xml": "tags", ".json": "braces and quotes"}
GZIP = b"\x1f\x8b"
NOT_REGULAR = {stat.S_ISFIFO: "a pipe", stat.S_ISSOCK: "a socket", stat.S_ISCHR: "a device", stat.S_ISBLK: "a device"}


def read_documents(path: Path) -> list[str]:
    """Read the documents in a file or folder. Raises ValueError."""
    return read_with_account(path)[0]


def read_with_account(path: Path) -> tuple[list[str], str]:
    """Read the documents in a file or folder, and describe in one line what was read. Raises ValueError."""
    documents, account = _read_folder(path) if path.is_dir() else _read_file(path)
    if not any(document.strip() for document in documents):
        found = "only white space" if any(documents) else "nothing"
        raise ValueError(f"{path}: expected text, found {found}; give a text with words in it")
    return documents, f"{path}: {account}"


def read_text(path: Path) -> str:
    """Read a UTF-8 file, perhaps gzip: no byte order mark, every line ended by a plain newline. Raises ValueError."""
    try:
        _check_regular(path)
        data = path.read_bytes()
    except OSError as e:
        raise ValueError(
            f"{path}: expected a file that can be read, got {e.strerror}; check the path and its permissions"
        ) from e
    if data[:2] == GZIP or path.suffix.lower() == ".gz":
        try:
            data = gzip.decompress(data)
        except (OSError, EOFError, zlib.error) as e:
            raise ValueError(
                f"{path}: expected a file compressed by gzip, got an error ({e}); compress it again"
            ) from e
    if b"\0" in data:
        raise ValueError(
            f"{path}: expected text, found a zero byte at offset {data.index(0)}; save it as plain UTF-8 text "
            "(iconv -f utf-16 -t utf-8, if it is UTF-16); unpack it first if it is an archive"
        )
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as e:
        raise ValueError(
            f"{path}: expected UTF-8, found byte {data[e.start]:#04x} at offset {e.start} ({e.reason}); "
            "save it as UTF-8 (iconv -f latin1 -t utf-8, if it is Latin-1)"
        ) from e
    return text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")


def _check_regular(path: Path) -> None:
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode):
        kind = next((kind for is_kind, kind in NOT_REGULAR.items() if is_kind(mode)), "a folder")
        raise ValueError(f"{path}: expected a file, found {kind}; write its text to a file and give that")


def suffix(path: Path) -> str:
    """The suffix of a file name, lower-case and without .gz.

    >>> suffix(Path("a.TXT")), suffix(Path("a.txt.gz"))
    ('.txt', '.txt')
    """
    last = path.suffix.lower()
    return Path(path.stem).suffix.lower() if last == ".gz" else last


def _read_file(path: Path) -> tuple[list[str], str]:
    kind, text = suffix(path), read_text(path)
    if kind == ".json" and (documents := _read_json(path, text)) is not None:
        return documents, f"read as JSON, {len(documents):,} documents"
    if kind in LINES:
        documents = _read_lines(path, text)
        return documents, f'read as JSON Lines, {len(documents):,} documents, the "text" of each line'
    how = f"read as bare text, its {AS_TEXT[kind]} included" if kind in AS_TEXT else "read as one text"
    return [text], f"{how}, {len(text):,} characters"


def _read_folder(folder: Path) -> tuple[list[str], str]:
    found = sorted(_walk(folder, set()))
    paths = [path for path in found if suffix(path) in IN_FOLDERS]
    others = Counter(suffix(path) or "no suffix" for path in found if suffix(path) not in IN_FOLDERS)
    left_out = ", ".join(f"{n} {kind}" for kind, n in others.most_common(6))
    if not paths:
        raise ValueError(
            f"{folder}: expected .txt or .md files in it, or source code, found none"
            f"{f' ({left_out})' if left_out else ''}; rename yours or give one file"
        )
    documents = [document for path in paths for document in _read_file(path)[0]]
    kinds = ", ".join(f"{n} {kind}" for kind, n in Counter(map(suffix, paths)).most_common())
    account = f"read {len(paths)} files ({kinds})" + (f"; left out {left_out}" if left_out else "")
    return [document for document in documents if document.strip()], account  # skipping a blank file loses nothing


def _walk(folder: Path, seen: set[tuple[int, int]]) -> list[Path]:
    """List the files below a folder, without hidden ones. Links are followed, each folder once, so a cycle ends."""
    try:
        here = folder.stat()
        if (here.st_dev, here.st_ino) in seen:
            return []
        seen.add((here.st_dev, here.st_ino))
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as e:
        raise ValueError(
            f"{folder}: expected a folder that can be read, got {e.strerror}; check its permissions"
        ) from e
    files: list[Path] = []
    for entry in entries:
        if not entry.name.startswith("."):
            files += _walk(Path(entry.path), seen) if Path(entry.path).is_dir() else [Path(entry.path)]
    return files


def _read_json(path: Path, text: str) -> list[str] | None:
    """The documents of a JSON list (of strings or objects with "text"), one object, or JSON Lines; else None."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return _read_lines(path, text)
    records = found if isinstance(found, list) else [found]
    if not records or not all(
        isinstance(r, str) or (isinstance(r, dict) and isinstance(r.get("text"), str)) for r in records
    ):
        return None
    texts = [record if isinstance(record, str) else record["text"] for record in records]
    return [_unicode(document, f"{path}, entry {number}") for number, document in enumerate(texts, 1)]


def _read_lines(path: Path, text: str) -> list[str]:
    documents = []
    for number, line in enumerate(text.split("\n"), start=1):  # subtle: splitlines would also cut at U+2028
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
    return _unicode(record["text"], where)


def _unicode(text: str, where: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as e:
        raise ValueError(
            f'{where}: expected Unicode, found half of a surrogate pair at character {e.start} of "text"; repair it'
        ) from e
    return text
