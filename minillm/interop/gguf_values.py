"""Values in a GGUF file: numbers, strings and arrays, read where they stand, and refused where they cannot be.

Everything is little-endian. A string is its length in 8 bytes, then UTF-8. An array is the type of its items in 4
bytes, their number in 8, then the items. A file may claim any length, so each is compared with the bytes that are left
before anything is made from it. Arrays stay in the file: one of numbers is a NumPy view, one of strings a sequence that
decodes an item when asked for. Python objects are made for names, single values and arrays only, and their memory is
limited by MAX_OBJECTS.
"""

import struct
from collections.abc import Sequence
from mmap import mmap
from typing import Any, overload

import numpy as np

NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 10: "Q", 11: "q", 12: "d"}  # codes of struct, NumPy
BOOL, STRING, ARRAY = 7, 8, 9
MAX_STRING = 2**20  # bytes; a chat template has thousands, a token tens
MAX_OBJECTS = 2**25  # bytes for all Python objects: those of 65,536 tensors or values
OBJECT = 256  # bytes that an object takes at most, beside its text
MAX_DEPTH = 4  # arrays in arrays
LENGTH = struct.Struct("<Q")


class Strings(Sequence[str]):
    """An array of strings in a file; read-only."""

    def __init__(self, data: mmap, begins: np.ndarray):
        """`begins`: the places of their first bytes; each length stands in the 8 bytes before."""
        self._data, self._begins = data, begins

    def __len__(self) -> int:
        return len(self._begins)

    @overload
    def __getitem__(self, i: int) -> str: ...
    @overload
    def __getitem__(self, i: slice) -> list[str]: ...
    def __getitem__(self, i: int | slice) -> str | list[str]:
        if isinstance(i, slice):
            return [self[j] for j in range(*i.indices(len(self)))]
        begin = int(self._begins[i])
        (n,) = LENGTH.unpack_from(self._data, begin - LENGTH.size)
        return str(self._data[begin : begin + n], "utf-8")


class Values:
    """The bytes of a file, read from front to back. Every method raises ValueError for bytes that are not as expected.

    `place`: number of bytes read.
    """

    def __init__(self, data: mmap):
        self.data, self.place = data, 0
        self._left = MAX_OBJECTS

    def skip(self, n: int) -> int:
        """Step over n bytes; return where they begin."""
        begin = self.place
        if n > len(self.data) - begin:
            raise ValueError(
                f"{n:,} bytes at byte {begin:,}: expected at most the {len(self.data) - begin:,} that are left"
            )
        self.place = begin + n
        return begin

    def charge(self, n: int = 0) -> None:
        """Count one more Python object, with a text of n bytes."""
        self._left -= OBJECT + n
        if self._left < 0:
            raise ValueError(f"more names and values than fit into {MAX_OBJECTS:,} bytes: expected those of a model")

    def number(self, code: str) -> int | float:
        """One number; `code` as in `struct`."""
        return struct.unpack_from(f"<{code}", self.data, self.skip(struct.calcsize(f"<{code}")))[0]

    def string(self) -> str:
        """One string."""
        text = self._string()
        self.charge(len(text))
        return text

    def value(self, kind: int, depth: int = 0) -> Any:
        """A value of a type: int, float, bool, str, a NumPy array, Strings, or a list of arrays."""
        self.charge()
        if kind in NUMBERS:
            return self.number(NUMBERS[kind])
        if kind == BOOL:
            return bool(self._bools(1)[0])
        if kind == STRING:
            return self.string()
        if kind == ARRAY:
            return self._array(self.number("I"), self.number("Q"), depth)
        raise ValueError(f"value type = {kind} at byte {self.place:,}: expected 0 ... 12")

    def _array(self, kind: int, n: int, depth: int) -> Any:
        if kind in NUMBERS:
            return self._view(f"<{NUMBERS[kind]}", n)
        if kind == BOOL:
            return self._bools(n)
        if kind == STRING:
            return self._strings(n)
        if kind == ARRAY and depth < MAX_DEPTH:
            return [self.value(ARRAY, depth + 1) for _ in range(n)]
        found = f"arrays nested more than {MAX_DEPTH} deep" if kind == ARRAY else f"array of type {kind}"
        raise ValueError(f"{found} at byte {self.place:,}: expected numbers, strings or arrays of them")

    def _view(self, dtype: str, n: int) -> np.ndarray:
        begin = self.skip(n * np.dtype(dtype).itemsize)
        view = np.frombuffer(self.data, dtype, n, begin) if n else np.empty(0, dtype)
        view.flags.writeable = False
        return view

    def _bools(self, n: int) -> np.ndarray:
        view = self._view("u1", n)
        if view.size and view.max() > 1:
            raise ValueError(f"true or false = {view.max()} before byte {self.place:,}: expected 0 or 1")
        return view.view(bool)

    def _strings(self, n: int) -> Strings:
        if n * LENGTH.size > len(self.data) - self.place:
            raise ValueError(f"{n:,} strings at byte {self.place:,}: expected no more than the file has room for")
        begins = np.empty(n, np.int64)
        for i in range(n):
            begins[i] = self.place + LENGTH.size
            self._string()
        return Strings(self.data, begins)

    def _string(self) -> str:
        (n,) = LENGTH.unpack_from(self.data, self.skip(LENGTH.size))
        if n > MAX_STRING:
            raise ValueError(f"string of {n:,} bytes at byte {self.place:,}: expected at most {MAX_STRING:,}")
        begin = self.skip(n)
        try:
            return str(self.data[begin : self.place], "utf-8")
        except UnicodeDecodeError as e:
            raise ValueError(f"string at byte {begin:,}: expected UTF-8 ({e.reason})") from e
