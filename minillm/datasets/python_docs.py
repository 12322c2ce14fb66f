"""Real prose that is already on your disk: the language manual and the docstrings that ship with Python.

The manual's pages are those that `help("topics")` shows. The docstrings are read out of the standard library's source files,
which are parsed and not imported, so nothing runs (`import antigravity` would open a browser); only what is written in C, and
so has no source file, is asked for its docstrings. Each document is a title, an empty line and the text. Another version of
Python has other documents.
"""

import ast
import importlib
import os
import re
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path

NOT_LIBRARY = {"test", "tests", "idlelib", "turtledemo", "lib2to3", "pydoc_data"}
COMPILED = [
    "array",
    "binascii",
    "builtins",
    "bz2",
    "cmath",
    "collections",
    "datetime",
    "decimal",
    "errno",
    "functools",
    "gc",
    "io",
    "itertools",
    "lzma",
    "marshal",
    "math",
    "mmap",
    "operator",
    "os",
    "pickle",
    "select",
    "signal",
    "socket",
    "sqlite3",
    "ssl",
    "struct",
    "sys",
    "threading",
    "time",
    "unicodedata",
    "weakref",
    "zlib",
]
Definition = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def python_docs() -> list[str]:
    """Every page and docstring once, in an order that is the same on each run. Raises ValueError where Python ships without."""
    library = Path(sysconfig.get_path("stdlib"))
    titled = {title: text for path in _sources(library) for title, text in _parsed(path, library)}
    for module in COMPILED:
        for title, text in _asked(module):
            titled.setdefault(title, text)  # what has a source was read there, with its signature
    documents = [*_topics(), *(f"{title}\n\n{text.strip()}\n" for title, text in titled.items())]
    if not documents:
        raise ValueError(
            f"python-docs = {library}: expected the standard library's sources, found none; choose another data.corpus"
        )
    return list(dict.fromkeys(documents))


def _topics() -> list[str]:
    try:
        from pydoc_data.topics import topics
    except ImportError:  # some systems leave it out
        return []
    return [f"{name}\n\n{text.strip()}\n" for name, text in sorted(topics.items())]


def _sources(library: Path) -> Iterator[Path]:
    """The source files of public modules, sorted."""
    for folder, folders, names in os.walk(library):
        # what cannot be imported by its name (site-packages, config-3.11) is no module
        folders[:] = sorted(
            name for name in folders if name.isidentifier() and name[0] != "_" and name not in NOT_LIBRARY
        )
        for name in sorted(names):
            if name.endswith(".py") and (name[0] != "_" or name == "__init__.py"):
                yield Path(folder, name)


def _parsed(path: Path, library: Path) -> Iterator[tuple[str, str]]:
    """Titles and docstrings of one source file."""
    parts = path.relative_to(library).with_suffix("").parts
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about odd escapes in old sources, none of our business
        tree = ast.parse(path.read_bytes())
    yield from _walk(tree, ".".join(parts[:-1] if parts[-1] == "__init__" else parts))


def _walk(node: Definition, name: str) -> Iterator[tuple[str, str]]:
    """The docstring of a module, class or function, then those of the public classes and functions in it."""
    if text := ast.get_docstring(node):
        yield _title(node, name), text
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        for child in node.body:
            if isinstance(child, Definition) and not child.name.startswith("_"):
                yield from _walk(child, f"{name}.{child.name}")


def _title(node: Definition, name: str) -> str:
    if isinstance(node, ast.Module):
        return f"module {name}"
    if isinstance(node, ast.ClassDef):
        return f"class {name}"
    return f"{name}({ast.unparse(node.args)})"


def _asked(module: str) -> Iterator[tuple[str, str]]:
    """Titles and docstrings of what a module has from C: classes, their methods, functions."""
    try:
        members = vars(importlib.import_module(module))
    except ImportError:  # not every Python has every module
        return
    for name, value in sorted(members.items()):
        foreign = getattr(value, "__module__", None) not in (module, f"_{module}", "posix", "nt")
        if (
            foreign or name.startswith("_") or name.endswith("hook")
        ):  # subtle: sys.excepthook is whatever the program has put there
            continue
        if isinstance(value, type):
            yield from _described(f"class {module}.{name}", value)
            for method, description in sorted(vars(value).items()):
                yield from _described(f"{module}.{name}.{method}", description)
        else:
            yield from _described(f"{module}.{name}", value)


def _described(name: str, value: object) -> Iterator[tuple[str, str]]:
    value = getattr(value, "__func__", value)  # out of its staticmethod
    text, signature = getattr(value, "__doc__", None), getattr(value, "__text_signature__", None)
    own = isinstance(value, type) or text != type(value).__doc__  # a constant has the docstring of its type
    public = not name.rpartition(".")[2].startswith("_")
    if own and public and isinstance(text, str) and text.strip() and not hasattr(value, "__code__"):
        signature = " ".join(re.sub(r"\$module(, /)?(, )?", "", signature or "()").replace("$", "").split())
        yield name if name.startswith("class ") else name + signature, text
