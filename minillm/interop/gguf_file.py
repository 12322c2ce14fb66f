"""GGUF: the file format of llama.cpp, with a model's settings, tokenizer and weights in one file (2023). Read.

    "GGUF", version, number of tensors, number of values
    values:  name, type, value                             such as llama.block_count, tokenizer.ggml.tokens
    tensors: name, dimensions, type, place                 places count from the start of the data
    data, which starts, as each tensor does, at a multiple of general.alignment

The reader is strict, because such files come from strangers: versions 2 and 3, little-endian; every count, length,
dimension and place is compared with the file before it is used; no two names are equal, no two tensors overlap.
Dimensions are stored fastest first and turned around here, as torch has them. Read before: `gguf_values` and
`gguf_blocks`, the two languages of a file, and `tensors`.
"""

import math
from itertools import pairwise
from mmap import ACCESS_COPY, mmap
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from minillm.interop.gguf_blocks import BLOCKS, FOUR_BITS, int4
from minillm.interop.gguf_values import Values
from minillm.interop.tensors import Tensors
from minillm.quantization.int4 import Int4

PLAIN = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
NAMES = (  # of ggml's types, in order of their numbers; most are not read
    "F32 F16 Q4_0 Q4_1 Q4_2 Q4_3 Q5_0 Q5_1 Q8_0 Q8_1 Q2_K Q3_K Q4_K Q5_K Q6_K Q8_K "
    "IQ2_XXS IQ2_XS IQ3_XXS IQ1_S IQ4_NL IQ3_S IQ2_S IQ4_XS I8 I16 I32 I64 F64 IQ1_M BF16"
)
TYPES = dict(enumerate(NAMES.split())) | {34: "TQ1_0", 35: "TQ2_0", 39: "MXFP4", 40: "NVFP4", 41: "Q1_0"}
ALIGNMENT = "general.alignment"
MAX_DIMS = 4


class Place(NamedTuple):
    """The type and the place of a tensor in the file."""

    kind: str
    begin: int
    n_bytes: int


class GGUF(Tensors):
    """An opened file. `metadata`: name -> value; `types`: tensor -> its ggml type, such as "Q4_1".

    A quantized tensor is dequantized to float32 when it is asked for; `int4` has its levels instead.
    """

    def __init__(
        self,
        path: Path,
        data: mmap,
        metadata: dict[str, Any],
        shapes: dict[str, tuple[int, ...]],
        places: dict[str, Place],
    ):
        self.path, self.metadata, self.shapes = path, metadata, shapes
        self.types = {name: place.kind for name, place in places.items()}
        self.dtypes = {name: PLAIN.get(kind, torch.float32) for name, kind in self.types.items()}
        self._data, self._places = data, places

    def load(self, name: str) -> Tensor:
        kind = self.types[name]
        if kind in PLAIN:
            return self._bytes(name).view(PLAIN[kind]).view(self.shapes[name])
        return BLOCKS[kind].dequantize(self._blocks(name)).view(self.shapes[name])

    def int4(self, name: str) -> Int4 | None:
        """A matrix of Q4_0, Q4_1 or Q4_K as packed int4, its levels not rounded again; None for any other tensor.

        Raises ValueError for scales that are NaN or infinite.
        """
        if self.types[name] not in FOUR_BITS or len(self.shapes[name]) != 2:
            return None
        packed = int4(self.types[name], self._blocks(name), n_rows=self.shapes[name][0])
        self.check(name, packed.scales, packed.offsets)
        return packed

    def _bytes(self, name: str) -> Tensor:
        """A tensor's bytes, a view of the file."""
        _, begin, n_bytes = self._places[name]
        return torch.frombuffer(self._data, dtype=torch.uint8, count=n_bytes, offset=begin)

    def _blocks(self, name: str) -> Tensor:
        """A tensor's blocks, (N, bytes of a block)."""
        return self._bytes(name).view(-1, BLOCKS[self.types[name]].n_bytes)


def open_gguf(path: Path) -> GGUF:
    """Open a file and read its metadata. Raises ValueError for a file that is not well formed, or has unknown types."""
    if not path.is_file():
        raise ValueError(f"{path}: expected a GGUF file, found none; check the path")
    if not path.stat().st_size:
        raise ValueError(f"{path}: expected a GGUF file, found an empty one; take another copy of the file")
    with path.open("rb") as file:
        # subtle: a private copy on write, since torch wants memory that it may write to
        data = mmap(file.fileno(), 0, access=ACCESS_COPY)
    try:
        return GGUF(path, data, *_read(Values(data)))
    except ValueError as e:
        raise ValueError(f"{path}: {e}; take another copy of the file, or convert the model again") from e


def _read(values: Values) -> tuple[dict[str, Any], dict[str, tuple[int, ...]], dict[str, Place]]:
    """Metadata, shapes and places of a file."""
    n_tensors, n_values = _header(values)
    metadata: dict[str, Any] = {}
    for _ in range(n_values):
        name = _new_name(values, metadata)
        metadata[name] = values.value(values.number("I"))
    shapes: dict[str, tuple[int, ...]] = {}
    places: dict[str, Place] = {}
    for _ in range(n_tensors):
        name = _new_name(values, shapes)
        shapes[name], places[name] = _tensor(values, name)
    alignment = metadata.get(ALIGNMENT, 32)
    if type(alignment) is not int or alignment < 8 or alignment & alignment - 1:
        raise ValueError(f"{ALIGNMENT} = {str(alignment)[:40]}: expected a power of two from 8")
    start = values.place + -values.place % alignment
    return metadata, shapes, _placed(places, start, alignment, len(values.data))


def _header(values: Values) -> tuple[int, int]:
    """The numbers of tensors and of values."""
    magic = values.data[: values.skip(4) + 4]
    if magic != b"GGUF":
        raise ValueError(f"first bytes = {magic!r}: expected b'GGUF'")
    version = values.number("I")
    if version not in (2, 3):
        raise ValueError(f"version = {version}: expected 2 or 3, little-endian")
    return values.number("Q"), values.number("Q")


def _new_name(values: Values, known: dict[str, Any]) -> str:
    name = values.string()
    if name in known:
        raise ValueError(f"name {name[:80]!r}: expected it once, found it twice")
    return name


def _tensor(values: Values, name: str) -> tuple[tuple[int, ...], Place]:
    """The shape of the next tensor, and its place in the data."""
    values.charge()
    n_dims = values.number("I")
    if not 1 <= n_dims <= MAX_DIMS:
        raise ValueError(f"tensor {name[:80]!r} of {n_dims:,} dimensions: expected 1 to {MAX_DIMS}")
    shape = tuple(values.number("Q") for _ in range(n_dims))[::-1]
    number = values.number("I")
    kind = TYPES.get(number, f"number {number}")
    if kind not in PLAIN and kind not in BLOCKS:
        raise ValueError(f"tensor {name[:80]!r} of type {kind}: expected one of {', '.join([*PLAIN, *BLOCKS])}")
    n_weights, n_bytes = BLOCKS[kind][:2] if kind in BLOCKS else (1, PLAIN[kind].itemsize)
    if 0 in shape or shape[-1] % n_weights:
        raise ValueError(
            f"tensor {name[:80]!r} of shape {shape}: expected rows of {n_weights}, 2 x {n_weights} ... weights"
        )
    return shape, Place(kind, values.number("Q"), math.prod(shape) // n_weights * n_bytes)


def _placed(places: dict[str, Place], start: int, alignment: int, size: int) -> dict[str, Place]:
    """Places counted from the start of the file. Raises ValueError if one is out of the file, or two overlap."""
    placed = {name: place._replace(begin=start + place.begin) for name, place in places.items()}
    in_order = sorted(placed, key=lambda name: placed[name].begin)
    for name, (_, begin, n_bytes) in placed.items():
        if begin % alignment or begin + n_bytes > size:
            raise ValueError(
                f"tensor {name[:80]!r} of {n_bytes:,} bytes at byte {begin:,}: expected a multiple of {alignment} "
                f"within the {size:,} bytes of the file"
            )
    for name, following in pairwise(in_order):
        if placed[name].begin + placed[name].n_bytes > placed[following].begin:
            raise ValueError(f"tensors {name[:80]!r} and {following[:80]!r}: expected places that do not overlap")
    return placed
