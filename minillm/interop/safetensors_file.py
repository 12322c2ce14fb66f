"""safetensors: the format of Hugging Face for weights, which holds no code (2022), read and written.

A file is the length of a header, the header in JSON (name -> dtype, shape, place), and the bytes of the tensors. Large
models are cut into several files, shards, beside an index in JSON that names the shard of each tensor. The package
`safetensors` reads a single file safely: it refuses lengths, places and shapes that do not fit the file. What is added
here is the index, whose names must stay in its folder and agree with the shards. Read before: `tensors`.
"""

import json
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from minillm.interop.extra import extra
from minillm.interop.tensors import Tensors, refuse_non_finite, without_ties
from minillm.system.atomic import replacing

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
SHARD = re.compile(r"[^/\\:\0]{1,200}\.safetensors")  # a file of the same folder, on any system
MAX_DIMS = 8
MAX_INDEX = 2**25  # bytes; the index of 100,000 tensors has a third of that
AGAIN = "take another copy of the file"


class SafeTensors(Tensors):
    """The tensors of one file, or of all shards of a model. Raises ValueError for a file that is not well formed."""

    def __init__(self, path: Path, shards: list[Path]):
        self.path = path
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.dtypes: dict[str, torch.dtype] = {}
        self.shard_of: dict[str, Path] = {}
        self._opened = {shard: _open(shard) for shard in shards}
        for shard, opened in self._opened.items():
            for name in opened.keys():  # noqa: SIM118, no mapping
                self._add(name, shard, opened.get_slice(name))

    def _add(self, name: str, shard: Path, header: Any) -> None:
        if name in self.shard_of:
            other = self.shard_of[name].name
            raise ValueError(f"{shard}: tensor {name!r}: expected it in one shard, found it in {other} too; {AGAIN}")
        dtype, shape = header.get_dtype(), tuple(header.get_shape())
        if dtype not in DTYPES:
            raise ValueError(f"{shard}: tensor {name!r} of {dtype}: expected {', '.join(DTYPES)}; convert it")
        if len(shape) > MAX_DIMS or 0 in shape:
            found = f"{len(shape)} dimensions, {shape.count(0)} of them 0"
            raise ValueError(
                f"{shard}: tensor {name!r} of {found}: expected at most {MAX_DIMS}, none of them 0; {AGAIN}"
            )
        self.shapes[name], self.dtypes[name], self.shard_of[name] = shape, DTYPES[dtype], shard

    def load(self, name: str) -> Tensor:
        return self._opened[self.shard_of[name]].get_tensor(name)


def open_safetensors(path: Path) -> SafeTensors:
    """Open a file, or a folder with `model.safetensors` or with `model.safetensors.index.json` and its shards.

    Raises ValueError.
    """
    if not path.is_dir():
        return SafeTensors(path, [path])
    found = [name for name in (SINGLE, INDEX) if (path / name).is_file()]
    if len(found) != 1:
        raise ValueError(
            f"{path}: expected either {SINGLE} or {INDEX}, found {' and '.join(found) or 'none'}; "
            f"{'remove one' if found else 'name a folder with weights'}"
        )
    return SafeTensors(path, [path / SINGLE]) if found == [SINGLE] else _open_sharded(path)


def write_safetensors(path: Path, tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """Write a file, or replace it. Tied tensors, names of the same memory, are written once, under the first name.

    Returns the names that were left out: name -> the name that stands for it. Raises ValueError for NaN and infinity.
    """
    for name, x in tensors.items():
        refuse_non_finite(f"tensor {name!r}", x)
    kept, ties = without_ties(tensors)
    # subtle: overlapping views are copied, because the package refuses tensors that share memory
    whole = {name: x.detach().clone(memory_format=torch.contiguous_format) for name, x in kept.items()}
    with replacing(path) as temporary:
        extra("safetensors.torch").save_file(whole, temporary, metadata={"format": "pt"})
    return ties


def _open_sharded(folder: Path) -> SafeTensors:
    index = folder / INDEX
    shard_of = _read_index(index)
    missing = sorted({name for name in shard_of.values() if not (folder / name).is_file()})
    if missing:
        raise ValueError(f"{folder}: expected the shard {missing[0]!r} that {INDEX} names, found none; download it too")
    opened = SafeTensors(folder, [folder / name for name in sorted(set(shard_of.values()))])
    for name in {**shard_of, **opened.shard_of}:
        said, found = shard_of.get(name), opened.shard_of[name].name if name in opened else None
        if said != found:
            raise ValueError(
                f"{index}: tensor {name!r}: expected index and shards to agree, found it in {found or 'no shard'}, "
                f"where the index says {said or 'nothing'}; download index and shards again"
            )
    return opened


def _read_index(index: Path) -> dict[str, str]:
    """Tensor -> file name of its shard. Raises ValueError for any other JSON, and for paths out of the folder."""
    size = index.stat().st_size
    if size > MAX_INDEX:
        raise ValueError(f"{index} of {size:,} bytes: expected at most {MAX_INDEX:,}; {AGAIN}")
    try:
        contents = json.loads(index.read_bytes(), object_pairs_hook=_refuse_repeated)
    except (ValueError, RecursionError) as e:
        raise ValueError(f"{index}: expected JSON without repeated names ({_line(e)}); {AGAIN}") from e
    shard_of = contents.get("weight_map") if isinstance(contents, dict) else None
    if not isinstance(shard_of, dict) or not shard_of:
        raise ValueError(f'{index}: expected "weight_map" with the shard of each tensor, found none; {AGAIN}')
    for name, shard in shard_of.items():
        if not isinstance(shard, str) or not SHARD.fullmatch(shard):
            raise ValueError(
                f"{index}: shard {str(shard)[:80]!r} of tensor {name[:80]!r}: expected the name of a .safetensors file "
                f"in the same folder; {AGAIN}"
            )
    return shard_of


def _refuse_repeated(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    counts = Counter(name for name, _ in pairs)
    name, n = counts.most_common(1)[0] if counts else ("", 0)
    if n > 1:
        raise ValueError(f"{name!r} is there {n} times")
    return dict(pairs)


def _open(path: Path) -> Any:
    """An opened file of the package `safetensors`."""
    if not path.is_file():
        raise ValueError(f"{path}: expected a file of weights, found none; check the path")
    package = extra("safetensors")
    try:
        return package.safe_open(path, framework="pt")
    except package.SafetensorError as e:
        raise ValueError(f"{path}: expected a file of safetensors, found another ({_line(e)}); {AGAIN}") from e


def _line(e: Exception) -> str:
    """An error as a part of a sentence."""
    return " ".join(str(e).split())[:120]
