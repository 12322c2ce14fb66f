"""The fields of a request's body: each is read by name and type, and one that nobody reads is refused by its name.

A client that sends a field wants it to have an effect. A field that would be ignored is therefore an error, with the
nearest known name; null always means the default. Read before: `strict_json`, `config/fields.py`.
"""

from collections.abc import Callable
from typing import Any, NoReturn

from minillm.config.fields import fit, suggest
from minillm.serving.errors import ApiError
from minillm.serving.strict_json import kind_of

# fields about the account and its bills, which change no answer
HARMLESS = ("user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key")


class BodyFields:
    """The fields of one body. Read all, then call `finish`."""

    def __init__(self, body: dict[str, Any]):
        self.left, self.known = dict(body), [*HARMLESS]

    def take(self, name: str, read: Callable[[Any], Any], default: Any = None) -> Any:
        """The field `name` as `read` returns it; the default if it is absent or null.

        A ValueError of `read` becomes an ApiError that names the field.
        """
        self.known.append(name)
        value = self.left.pop(name, None)
        if value is None:
            return default
        try:
            return read(value)
        except ValueError as e:
            raise ApiError(400, str(e), name, "invalid_value") from None

    def typed(self, name: str, hint: Any, default: Any = None) -> Any:
        """A field of a simple type, with its range, such as `Annotated[int, AtLeast(0)]`."""
        return self.take(name, lambda value: fit(value, hint, name), default)

    def needed(self, name: str, read: Callable[[Any], Any]) -> Any:
        """A field that must be there."""
        found = self.take(name, read)
        if found is None:
            raise ApiError(400, f"{name}: expected this field, found none; add it", name, "missing_field")
        return found

    def refuse(self, **reasons: str) -> None:
        """Refuse fields that other servers know, each with its reason."""
        for name, reason in reasons.items():

            def no(value: Any, name: str = name, reason: str = reason) -> NoReturn:
                raise ApiError(400, f"{name}: {reason}; leave it out", name, "unsupported_field")

            self.take(name, no)

    def finish(self) -> None:
        """Refuse the fields that nobody has read."""
        for name in HARMLESS:
            self.left.pop(name, None)
        for name in self.left:
            raise ApiError(400, f"{name}: unknown field; expected {suggest(name, self.known)}", name, "unknown_field")


def expected(name: str, value: Any, what: str) -> ValueError:
    """The error of a value of the wrong kind."""
    shown = repr(value) if isinstance(value, int | float | str) else kind_of(value)
    return ValueError(f"{name} = {shown}: expected {what}")
