"""A registry: a dict of what a setting may name, which says what is to be done about a name that is not there.

A name that a config allows and a registry lacks is half of an addition: somebody has added an activation or a kind of
model in one place and not yet in the other.
"""

from typing import TypeVar

K = TypeVar("K")
V = TypeVar("V")


class Registry(dict[K, V]):
    """A dict whose look-up of an unknown key is a ValueError with the setting and the place in it."""

    def __init__(self, setting: str, place: str, entries: dict[K, V]):
        """`setting` is the key of the config that names an entry, `place` where this registry is written."""
        super().__init__(entries)
        self.setting, self.place = setting, place

    def __missing__(self, key: K) -> V:
        name, *known = (each.kind if isinstance(each, type) else str(each) for each in (key, *self))
        raise ValueError(
            f"{self.setting} = {name}: expected one of {', '.join(known)}; add it to {self.place}, or take one of these"
        )
