"""Python's own documentation as a corpus: the language manual and the standard library's docstrings on this machine.

The manual's pages are those of `help("topics")`. Docstrings are parsed from the source files of the standard library,
which are not imported, so nothing runs (`import antigravity` would open a browser); only modules written in C, which
have no source, are imported. A document is a title, an empty line and the text. Other versions of Python have other
documents.
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
COMPILED = [  # modules that are written in C, at least in part
    *(
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
    ),
    *("io", "itertools", "lzma", "marshal", "math", "mmap", "operator", "os", "pickle", "select", "signal", "socket"),
    *("sqlite3", "ssl", "struct", "sys", "threading", "time", "unicodedata", "weakref", "zlib"),
]
Definition = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def python_docs() -> list[str]:
    """Every page and docstring once, in a fixed order. Raises ValueError if this Python has no sources."""
    library = Path(sysconfig.get_path("stdlib"))
    titled = {title: text for path in _sources(library) for title, text in _parsed(path, library)}
    for module in COMPILED:
        for title, text in _imported(module):
            titled.setdefault(title, text)  # a parsed docstring wins, because it has the signature
    documents = [*_topics(), *(f"{title}\n\n{text.strip()}\n" for title, text in titled.items())]
    if not documents:
        raise ValueError(
            f"python-docs = {library}: expected the standard library's sources, found none; choose another data.corpus"
        )
    return list(dict.fromkeys(documents))


def _topics() -> list[str]:
    try:
        from pydoc_data.topics import topics
    except ImportError:  # missing on some systems
        return []
    return [f"{name}\n\n{text.strip()}\n" for name, text in sorted(topics.items())]


def _sources(library: Path) -> Iterator[Path]:
    """The source files of public modules, sorted."""
    for folder, folders, names in os.walk(library):
        # a folder whose name is no identifier (site-packages, config-3.11) is no package
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
        warnings.simplefilter("ignore")  # invalid escapes in old sources
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


def _imported(module: str) -> Iterator[tuple[str, str]]:
    """Titles and docstrings of the classes, methods and functions of a compiled module."""
    try:
        members = vars(importlib.import_module(module))
    except ImportError:  # not every Python has every module
        return
    for name, value in sorted(members.items()):
        foreign = getattr(value, "__module__", None) not in (module, f"_{module}", "posix", "nt")
        # subtle: the running program may have replaced sys.excepthook and the other hooks
        if foreign or name.startswith("_") or name.endswith("hook"):
            continue
        if isinstance(value, type):
            yield from _described(f"class {module}.{name}", value)
            for method, description in sorted(vars(value).items()):
                yield from _described(f"{module}.{name}.{method}", description)
        else:
            yield from _described(f"{module}.{name}", value)


def _described(name: str, value: object) -> Iterator[tuple[str, str]]:
    """Yield the title and the docstring of a public object, if it has a docstring of its own."""
    value = getattr(value, "__func__", value)  # the function in a staticmethod
    text, signature = getattr(value, "__doc__", None), getattr(value, "__text_signature__", None)
    own = isinstance(value, type) or text != type(value).__doc__  # a constant inherits the docstring of its type
    public = not name.rpartition(".")[2].startswith("_")
    if own and public and isinstance(text, str) and text.strip() and not hasattr(value, "__code__"):
        signature = " ".join(re.sub(r"\$module(, /)?(, )?", "", signature or "()").replace("$", "").split())
        yield name if name.startswith("class ") else name + signature, text
