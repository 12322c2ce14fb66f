"""Strict JSON: the body of a request as an object, or one sentence that says what is wrong with it.

Python's parser accepts more than JSON allows (NaN, Infinity) and resolves what is ambiguous without a word (of two
equal keys, the last one wins; 1e999 is infinite). A server must refuse these, and must bound what one body can cost:
the depth of nesting and the digits of a number.
"""

import json
import math
from typing import Any

MOST_DEPTH = 32  # arrays and objects inside each other; an honest request has about 5
MOST_DIGITS = 25  # of an integer; one of 64 bits has 19
MOST_SHOWN = 400  # characters of a message


def parse_object(body: bytes) -> dict[str, Any]:
    """The object that a body holds. Raises ValueError.

    >>> parse_object(b'{"n": 1}')
    {'n': 1}
    """
    try:
        found = json.loads(
            body.decode("utf-8"),
            object_pairs_hook=_once,
            parse_constant=_refuse_constant,
            parse_int=_integer,
            parse_float=_finite,
        )
    except UnicodeDecodeError as e:
        raise ValueError(f"body: expected UTF-8, found the byte {body[e.start]:#04x} at {e.start}") from None
    except json.JSONDecodeError as e:
        raise ValueError(f"body: expected JSON, found an error at character {e.pos}: {e.msg}") from None
    except RecursionError:
        raise ValueError(_too_deep()) from None
    if not isinstance(found, dict):
        raise ValueError(f"body: expected a JSON object, found {kind_of(found)}")
    _check(found)
    return found


def kind_of(value: Any) -> str:
    """The type of a JSON value, in words.

    >>> kind_of([1]), kind_of(None)
    ('an array', 'null')
    """
    kinds = {dict: "an object", list: "an array", str: "a string", bool: "a boolean", type(None): "null"}
    return kinds.get(type(value), "a number")


def clipped(message: str) -> str:
    """A message without its middle, if it is long: a wrong value may be as long as the body.

    >>> len(clipped("x" * 10**6))
    405
    """
    half = MOST_SHOWN // 2
    return message if len(message) <= MOST_SHOWN else f"{message[:half]} ... {message[-half:]}"


def _check(value: Any) -> None:
    """Raise ValueError for nesting that is too deep, and for text that is not Unicode."""
    level = [value]
    for _ in range(MOST_DEPTH):
        below: list[Any] = []
        for each in level:
            if isinstance(each, dict):
                below += [*each.keys(), *each.values()]
            elif isinstance(each, list):
                below += each
            elif isinstance(each, str) and not each.isascii():
                _refuse_surrogates(each)
        if not below:
            return
        level = below
    raise ValueError(_too_deep())


def _too_deep() -> str:
    return f"body: expected at most {MOST_DEPTH} arrays and objects inside each other"


def _refuse_surrogates(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as e:
        raise ValueError(f"body: expected Unicode text, found the lone surrogate {text[e.start]!r}") from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"body: expected each key once in an object, found {name!r} twice")
        found[name] = value
    return found


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"body: expected JSON, which has no {name}")


def _integer(text: str) -> int:
    if len(text) > MOST_DIGITS:
        raise ValueError(f"body: expected integers of at most {MOST_DIGITS} digits, found one of {len(text)}")
    return int(text)


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"body: expected finite numbers, found {text}")
    return value
