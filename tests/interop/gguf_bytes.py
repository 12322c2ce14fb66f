"""GGUF files byte by byte, to write what no writer writes."""

import struct
from typing import Any

CODES = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "B", 10: "Q", 11: "q", 12: "d"}


def text(value: str | bytes, length: int | None = None) -> bytes:
    """A string; `length`: what is said of it."""
    data = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(data) if length is None else length) + data


def number(kind: int, value: Any, name: str = "some.number") -> bytes:
    """A value with its name and its type, a number."""
    return text(name) + struct.pack(f"<I{CODES[kind]}", kind, value)


def array(kind: int, n: int, items: bytes = b"", name: str = "some.array") -> bytes:
    """A value with its name and its type, an array that says it has n items."""
    return text(name) + struct.pack("<IIQ", 9, kind, n) + items


def tensor(name: str = "w", dims: tuple[int, ...] = (32,), kind: int = 0, place: int = 0, n_dims: int | None = None):
    """The entry of a tensor."""
    header = text(name) + struct.pack("<I", len(dims) if n_dims is None else n_dims)
    return header + struct.pack(f"<{len(dims)}QIQ", *dims, kind, place)


def gguf_file(
    values: tuple[bytes, ...] = (),
    tensors: tuple[bytes, ...] = (),
    data: bytes = b"",
    version: int = 3,
    n_tensors: int | None = None,
    n_values: int | None = None,
) -> bytes:
    """A whole file, its data from the next multiple of 32; the counts are those of the parts, or what is said."""
    counts = len(tensors) if n_tensors is None else n_tensors, len(values) if n_values is None else n_values
    head = b"GGUF" + struct.pack("<IQQ", version, *counts) + b"".join(values) + b"".join(tensors)
    return head + bytes(-len(head) % 32) + data
