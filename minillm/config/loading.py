"""Load frozen dataclasses from a TOML file, strictly, and write them back.

A config section is a frozen dataclass in the file that uses it; a config is a dataclass of sections. If a section may
be one of several dataclasses (a union), the field `kind`, which all of them begin with, selects one. The TOML file is
the whole story of a run: a wrong type, a value out of range or an unknown name raises ValueError with the full name.
Ranges are part of the type, `Annotated[int, AtLeast(1)]`; the comment at the end of a field's line is its help text.
Read before: `fields`; after: `flags`, which override single values.
"""

import dataclasses
import functools
import inspect
import io
import tokenize
import tomllib
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

from minillm.config.fields import describe, fit, kinds_of, suggest

C = TypeVar("C")
LONG = 400  # characters of a value that a short text of a config shows


class Key(NamedTuple):
    """One leaf of a config: an entry of `--help`, which a flag may set."""

    name: str  # "section.key"
    hint: Any  # its type, with ranges
    default: Any
    comment: str

    def describe_type(self) -> str:
        return describe(self.hint)


def keys(cls: type, prefix: str = "", tree: Mapping[str, Any] | None = None) -> Iterator[Key]:
    """Every leaf of a dataclass, with sections in order.

    For a union, the keys of the kind that `tree` names; without a tree those of all kinds, each once, as the first kind
    defines it.
    """
    hints, comments = typing.get_type_hints(cls, include_extras=True), _comments(cls)
    for field in dataclasses.fields(cls):
        name, hint = f"{prefix}{field.name}", hints[field.name]
        if kinds := kinds_of(hint):
            below = None if tree is None else tree[field.name]
            found: dict[str, Key] = {}
            for member in kinds.values() if tree is None else [_choose(hint, below, f"{name}.")]:
                for key in keys(member, f"{name}.", below):
                    found.setdefault(key.name, key)
            if len(kinds) > 1:
                found[f"{name}.kind"] = found[f"{name}.kind"]._replace(hint=Literal[tuple(kinds)])
            yield from found.values()
        else:
            yield Key(name, hint, field.default, comments.get(field.name, ""))


def from_dict(cls: type[C], tree: Mapping[str, Any], where: str = "") -> C:
    """Build a dataclass from nested dictionaries (a parsed TOML file). Raises ValueError."""
    all_hints = typing.get_type_hints(cls, include_extras=True)
    hints = {field.name: all_hints[field.name] for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for name in tree:
        if name not in hints:
            raise ValueError(
                f"{where}{name}: unknown {'key' if where else 'section'}; expected {suggest(name, list(hints))}"
            )
    values = {}
    for name, value in tree.items():
        if kinds_of(hints[name]):
            if not isinstance(value, Mapping):
                raise ValueError(f"{where}{name} = {value!r}: expected a section; write [{where}{name}] above its keys")
            values[name] = from_dict(_choose(hints[name], value, f"{where}{name}."), value, f"{where}{name}.")
        else:
            values[name] = fit(value, hints[name], f"{where}{name}")
    return cls(**values)


def load(cls: type[C], path: Path, missing: Mapping[str, Any] | None = None) -> C:
    """Read a TOML file into `cls`; `missing`: sections that the file may leave out. Raises ValueError."""
    try:
        tree = tomllib.loads(path.read_text(encoding="utf-8-sig"))  # with or without a byte order mark
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as e:
        raise ValueError(f"{path}: expected a TOML file; {e}") from e
    return from_dict(cls, {**(missing or {}), **tree})


def to_toml(config: object) -> str:
    """The config as a TOML file, each value followed by its comment; `load` reads an equal config."""
    lines = []
    for section in dataclasses.fields(config):
        lines.append(f"[{section.name}]")
        value = getattr(config, section.name)
        lines += [f"{key.name} = {in_lines(getattr(value, key.name))}  # {key.comment}" for key in keys(type(value))]
        lines.append("")
    return "\n".join(lines)


def brief(config: object) -> str:
    """A short text of a config: one line a section, with its kind if there are several, and its non-default values."""
    lines, hints = [], typing.get_type_hints(type(config))
    for section in dataclasses.fields(config):
        value, always = getattr(config, section.name), "kind" if len(kinds_of(hints[section.name])) > 1 else ""
        told = [key.name for key in keys(type(value)) if key.name == always or getattr(value, key.name) != key.default]
        texts = [f"{name} {written(getattr(value, name))}" for name in told]
        lines += [f"{f'[{section.name}]':<12} {', '.join(map(_shortened, texts))}"] if texts else []
    return "\n".join(lines)


def written(value: Any) -> str:
    """A value as text, without quotes if it is unambiguous."""
    is_word = isinstance(value, str) and value and value.isprintable() and not set(value) & set(' ,"')
    return value if is_word else literal(value)


def in_lines(value: Any) -> str:
    """A value in TOML's notation; a text of several lines is written in several lines, to be read."""
    if not isinstance(value, str) or "\n" not in value:
        return literal(value)
    lines = [_escaped(line).replace('"""', '""\\"') for line in value.split("\n")]
    return '"""\n' + "\n".join(lines) + '"""'  # TOML drops the first newline


def _escaped(text: str) -> str:
    """A text in TOML's notation, but for quotes: backslashes and unprintable characters are escaped."""
    return "".join(c if c.isprintable() else f"\\U{ord(c):08X}" for c in text.replace("\\", "\\\\"))


def _shortened(text: str) -> str:
    """A text without its middle if it is long, such as a whole template."""
    if len(text) <= LONG:
        return text
    return f"{text[: LONG // 2]} ... {len(text) - LONG:,} characters more ... {text[-LONG // 2 :]}"


def _choose(hint: Any, tree: Mapping[str, Any], where: str) -> type:
    """The dataclass of a section with these values: the kind that they name, or the first."""
    kinds = kinds_of(hint)
    if len(kinds) == 1:
        return kinds[""]
    kind = tree.get("kind", next(iter(kinds)))
    if kind not in kinds:
        raise ValueError(f"{where}kind = {kind!r}: expected {suggest(str(kind), list(kinds))}")
    return kinds[kind]


def literal(value: Any) -> str:
    """A value in TOML's notation.

    >>> print(literal(("a", "b")), literal(True), literal(0.5))
    ["a", "b"] true 0.5
    """
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return '"' + _escaped(value).replace('"', '\\"') + '"'
    if isinstance(value, tuple):
        return "[" + ", ".join(map(literal, value)) + "]"
    return repr(value)


@functools.cache
def _comments(cls: type) -> dict[str, str]:
    """Field name -> the comment at the end of its line, in the class itself or in the dataclass that it extends."""
    parents = [parent for parent in cls.__bases__ if dataclasses.is_dataclass(parent)]
    found = {name: comment for parent in parents for name, comment in _comments(parent).items()}
    first = ""
    for token in tokenize.generate_tokens(io.StringIO(inspect.cleandoc(inspect.getsource(cls))).readline):
        if token.start[1] == 4 and token.type == tokenize.NAME:
            first = token.string
        if token.type == tokenize.COMMENT and first:
            found[first] = token.string.lstrip("# ")
        if token.type == tokenize.NEWLINE:
            first = ""
    return found
