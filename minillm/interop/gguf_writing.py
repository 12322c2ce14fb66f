"""GGUF: write a file, by the package `gguf` of llama.cpp.

llama.cpp expects certain types of its settings. So a Python int is written as uint32, a float as float32, and the items
of a list as int32 or float32; a NumPy number or array keeps its own type. Read before: `gguf_file`.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from minillm.interop.extra import extra
from minillm.interop.gguf_file import MAX_DIMS, PLAIN
from minillm.interop.tensors import refuse_non_finite, without_ties
from minillm.system.atomic import replacing

ARCHITECTURE = "general.architecture"
NUMPY_TYPES = {
    "bool": "BOOL",
    **{f"{kind}{bits}": f"{kind}{bits}".upper() for kind in ("int", "uint") for bits in (8, 16, 32, 64)},
    **{f"float{bits}": f"FLOAT{bits}" for bits in (32, 64)},
}


def write_gguf(
    path: Path, metadata: Mapping[str, Any], tensors: Mapping[str, Tensor], q8_0: Collection[str] = ()
) -> dict[str, str]:
    """Write a file, or replace it: float32, float16 and bfloat16 tensors as they are, those named in `q8_0` as Q8_0.

    Tied tensors are written once, under the first name. Returns the names that were left out: name -> the name that
    stands for it. Raises ValueError for what GGUF cannot hold, before anything is written.
    """
    gguf = extra("gguf")
    architecture = metadata.get(ARCHITECTURE)
    if not isinstance(architecture, str) or not architecture:
        raise ValueError(f'{ARCHITECTURE} = {architecture!r}: expected a name, such as "llama"; add it')
    unknown = next((name for name in q8_0 if name not in tensors), None)
    if unknown is not None:
        raise ValueError(f"q8_0 = {unknown!r}: expected the names of tensors that are written; leave it out")
    writer = gguf.GGUFWriter(None, architecture)
    for name, value in metadata.items():
        if name != ARCHITECTURE:
            writer.add_key_value(name, *_typed(gguf, name, value))
    kept, ties = without_ties(tensors)
    for name, x in kept.items():
        _refuse(name, x, name in q8_0)
        kind = "Q8_0" if name in q8_0 else next(kind for kind, dtype in PLAIN.items() if dtype == x.dtype)
        writer.add_tensor(name, _bytes(gguf, x, kind), raw_dtype=gguf.GGMLQuantizationType[kind])
    with replacing(path) as temporary:
        writer.write_header_to_file(temporary)
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    return ties


def _typed(gguf: Any, name: str, value: Any) -> tuple[Any, ...]:
    """A value of the metadata as the writer wants it: plain Python, its type, and the type of its items."""
    many = isinstance(value, Sequence) and not isinstance(value, str | bytes)
    many = many or (isinstance(value, np.ndarray) and value.ndim == 1)
    items = list(value) if many else [value]
    kinds = {_kind(item, "INT32" if many else "UINT32") for item in items}
    if len(kinds) != 1 or None in kinds:
        found = " ".join(str(value).split())[:80]
        raise ValueError(
            f"{name} = {found}: expected true, false, text, a number that uint32 or float32 can hold, "
            "or a list of some of one type; give a NumPy number or array for other types"
        )
    kind = gguf.GGUFValueType[kinds.pop()]
    plain = [item.item() if isinstance(item, np.generic) else item for item in items]
    return (plain, gguf.GGUFValueType.ARRAY, kind) if many else (plain[0], kind)


def _kind(item: Any, of_int: str) -> str | None:
    """GGUF's type of one item; None if it has none, or cannot hold this number."""
    if isinstance(item, np.generic):
        return NUMPY_TYPES.get(item.dtype.name)
    if type(item) is int:
        return of_int if np.iinfo(of_int.lower()).min <= item <= np.iinfo(of_int.lower()).max else None
    if type(item) is float:
        return "FLOAT32" if not math.isfinite(item) or abs(item) <= torch.finfo(torch.float32).max else None
    return {bool: "BOOL", str: "STRING"}.get(type(item))


def _refuse(name: str, x: Tensor, quantized: bool) -> None:
    """Raise ValueError for a tensor that a file cannot hold, or that its reader refuses."""
    if x.dtype not in PLAIN.values() or not 1 <= x.ndim <= MAX_DIMS or not x.numel():
        raise ValueError(
            f"tensor {name!r} of {x.dtype} and shape {tuple(x.shape)}: expected float32, float16 or bfloat16, "
            f"1 to {MAX_DIMS} dimensions and some numbers; cast or reshape it"
        )
    if quantized and x.shape[-1] % 32:
        raise ValueError(f"tensor {name!r} of width {x.shape[-1]}: expected a multiple of 32; leave it out of q8_0")
    refuse_non_finite(f"tensor {name!r}", x)


def _bytes(gguf: Any, x: Tensor, kind: str) -> np.ndarray:
    """A tensor as the bytes of its type, (..., bytes of a row)."""
    x = x.detach().cpu().contiguous()
    if kind == "Q8_0":
        return gguf.quants.quantize(x.float().numpy(), gguf.GGMLQuantizationType.Q8_0)
    return x.view(torch.uint8).numpy()
