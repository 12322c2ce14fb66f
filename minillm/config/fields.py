"""Fields of a config: types with ranges or choices, and the checks of their values.

A range is part of the type, `Annotated[int, AtLeast(1)]`, and so is a choice among the keys of a dictionary,
`Annotated[str, Choice(ACTIVATIONS)]`. A wrong type, a value out of range or an unknown name raises ValueError with the
key, the expected value, and the nearest known name. Read after this: `loading`, which fills dataclasses from
TOML files.
"""

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal


@dataclass(frozen=True)
class AtLeast:
    """The range [low, infinity)."""

    low: float

    def allows(self, value: float) -> bool:
        return value >= self.low

    def __str__(self) -> str:
        return f">= {self.low}"


@dataclass(frozen=True)
class Above:
    """The range (low, infinity)."""

    low: float

    def allows(self, value: float) -> bool:
        return value > self.low

    def __str__(self) -> str:
        return f"> {self.low}"


@dataclass(frozen=True)
class AtMost:
    """The range (-infinity, high]."""

    high: float

    def allows(self, value: float) -> bool:
        return value <= self.high

    def __str__(self) -> str:
        return f"<= {self.high}"


@dataclass(frozen=True)
class Between:
    """The range [low, high]."""

    low: float
    high: float

    def allows(self, value: float) -> bool:
        return self.low <= value <= self.high

    def __str__(self) -> str:
        return f"{self.low} ... {self.high}"


class Choice:
    """The keys of dictionaries, `Annotated[str, Choice(ACTIVATIONS)]`: each new entry is a new choice.

    >>> describe(Annotated[str, Choice({"relu": max})])
    'one of relu'
    """

    def __init__(self, *tables: Mapping[str, Any]):
        """Several tables allow the keys of each; they are read when a value is checked, not before."""
        self.tables = tables

    @property
    def names(self) -> list[str]:
        return [name for table in self.tables for name in table]


Positive = Annotated[int, AtLeast(1)]

Count = Annotated[int, AtLeast(0)]

Fraction = Annotated[float, Between(0, 1)]

Seed = Annotated[int, Between(0, 2**32 - 1)]  # one 32-bit word, so that different (seed, step) never coincide


def validate(config: object) -> None:
    """Check a dataclass built in Python as strictly as one read from a file. Raises ValueError."""
    hints = typing.get_type_hints(type(config), include_extras=True)
    for field in dataclasses.fields(config):  # type: ignore[arg-type]
        if not kinds_of(hints[field.name]):
            fit(getattr(config, field.name), hints[field.name], f"{type(config).__name__}.{field.name}")


def suggest(name: str, known: list[str]) -> str:
    """The expected names for an unknown one: "did you mean" the nearest, or all if none is near.

    >>> suggest("tempreature", ["temperature", "top_p"])
    'one of 2 names; did you mean temperature?'
    """
    stem, tail = name.lstrip("-"), _tail(name)
    near = [k for k in known if len(stem) > 1 and k.lstrip("-").startswith(stem)]  # names that it abbreviates
    near = near or [k for k in known if len(tail) > 1 and _tail(k).startswith(tail)]
    if not near:
        tails = {_tail(k): k for k in known}
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.6)
        near += [tails[t] for t in difflib.get_close_matches(tail, list(tails), n=1) if tails[t] not in near]
    if near:
        return f"one of {len(known)} names; did you mean {' or '.join(near[:3])}?"
    return f"one of {', '.join(known)}" if len(known) <= 20 else f"one of {len(known)} names; see --help"


def _tail(name: str) -> str:
    """The last part of a key or a flag, without leading dashes."""
    return name.rpartition(".")[2].lstrip("-")


def describe(hint: Any) -> str:
    """A type with its range as text.

    >>> describe(Positive), describe(Literal["a", "b"])
    ('int >= 1', 'one of a, b')
    """
    if (names := names_of(hint)) is not None:
        return "one of " + ", ".join(map(str, names))
    if typing.get_origin(hint) is Annotated:
        base, *ranges = typing.get_args(hint)
        return f"{describe(base)} {' and '.join(map(str, ranges))}"
    if typing.get_origin(hint) is tuple:
        return "comma-separated " + describe(typing.get_args(hint)[0])
    return {str: "text", bool: "true or false"}.get(hint, hint.__name__)


def names_of(hint: Any) -> list[Any] | None:
    """The values that a Literal or a Choice allows; None for any other type."""
    if typing.get_origin(hint) is Literal:
        return list(typing.get_args(hint))
    if typing.get_origin(hint) is Annotated:
        return next((each.names for each in typing.get_args(hint) if isinstance(each, Choice)), None)
    return None


def kinds_of(hint: Any) -> dict[str, type]:
    """The dataclasses of a section, by their kind: those of a union, or one under ""; {} for a leaf."""
    members = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if not all(map(dataclasses.is_dataclass, members)):
        return {}
    return {member.kind: member for member in members} if len(members) > 1 else {"": members[0]}


def fit(value: Any, hint: Any, name: str) -> Any:
    """The value, converted to the type of a field. Raises ValueError if it does not fit.

    >>> fit(3, float, "lr"), fit([1, 2], tuple[int, ...], "sizes")
    (3.0, (1, 2))
    """
    if (names := names_of(hint)) is not None:
        if value not in names:
            raise ValueError(f"{name} = {value!r}: expected {suggest(str(value), list(map(str, names)))}")
        return value
    if typing.get_origin(hint) is Annotated:
        base, *ranges = typing.get_args(hint)
        if base is not int or type(value) is not int:  # an integer's range is checked before its 64 bits
            value = fit(value, base, name)
        for allowed in ranges:
            if not allowed.allows(value):
                raise ValueError(f"{name} = {value!r}: expected {describe(hint)}")
        return fit(value, base, name)
    if typing.get_origin(hint) is tuple and isinstance(value, list | tuple):
        items = typing.get_args(hint)
        if items[-1] is not Ellipsis and len(value) != len(items):
            raise ValueError(f"{name} = {value!r}: expected {len(items)} values")
        return tuple(fit(v, items[0], name) for v in value)
    if hint is float and type(value) is int:
        return float(value)
    if type(value) is not hint:
        raise ValueError(f"{name} = {value!r}: expected {describe(hint)}")
    if hint is float and not math.isfinite(value):
        raise ValueError(f"{name} = {value!r}: expected a finite number")
    if hint is int and not -(2**63) <= value < 2**63:
        raise ValueError(f"{name} = {value!r}: expected an integer of 64 bits, less than 2^63; take a smaller one")
    return value
