"""A registry: a dict of the names that a setting may have; a missing name raises ValueError with the remedy.

A name that a config allows but a registry lacks is half of an addition: an activation or a kind of model was added in
one place and not yet in the other.
"""

from typing import TypeVar

K = TypeVar("K")
V = TypeVar("V")


class Registry(dict[K, V]):
    """A dict that raises ValueError for an unknown key, with the setting and the place to add it."""

    def __init__(self, setting: str, place: str, entries: dict[K, V]):
        """`setting`: the config key that names an entry; `place`: where this registry is defined."""
        super().__init__(entries)
        self.setting, self.place = setting, place

    def __missing__(self, key: K) -> V:
        name, *known = (str(getattr(each, "kind", each)) for each in (key, *self))
        raise ValueError(
            f"{self.setting} = {name}: expected one of {', '.join(known)}; add it to {self.place}, or take one of these"
        )
