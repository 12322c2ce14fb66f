"""Tensors in a file, by name: the contract of the readers of `safetensors_file` and `gguf_file`.

A checkpoint may be larger than the memory that is free. So opening a file reads names, shapes and dtypes only, and each
tensor is loaded when it is asked for: from a memory map, whose pages the system reads when they are used and drops when
memory is short. Unquantized tensors are views of that map, and nothing that is done to them changes the file.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

CHUNK = 2**20  # numbers checked at a time


class Tensors(Mapping[str, Tensor], ABC):
    """A read-only mapping of names to tensors in a file; what is known without loading any is in `shapes` and `dtypes`.

    `tensors[name]` raises KeyError for another name, and ValueError for a tensor that has a NaN or an infinity.
    """

    path: Path
    shapes: Mapping[str, tuple[int, ...]]
    dtypes: Mapping[str, torch.dtype]

    @abstractmethod
    def load(self, name: str) -> Tensor:
        """Load a tensor that the file has, unchecked."""

    def __getitem__(self, name: str) -> Tensor:
        if name not in self.shapes:
            raise KeyError(f"{self.path}: tensor {name!r}: expected one of its {len(self)} tensors")
        x = self.load(name)
        self.check(name, x)
        return x

    def __contains__(self, name: object) -> bool:
        return name in self.shapes

    def __iter__(self) -> Iterator[str]:
        return iter(self.shapes)

    def __len__(self) -> int:
        return len(self.shapes)

    def check(self, name: str, *parts: Tensor) -> None:
        """Raise ValueError if a part of a tensor has a NaN or an infinity."""
        for part in parts:
            refuse_non_finite(f"{self.path}: tensor {name!r}", part, "take another copy of the file")


def refuse_non_finite(what: str, x: Tensor, how: str = "train again from before it") -> None:
    """Raise ValueError, which ends with the remedy, if a number is NaN or infinite.

    Done in chunks, without a second tensor of this size.
    """
    if not x.is_floating_point():
        return
    for chunk in x.detach().flatten().split(CHUNK):
        # subtle: torch converts 8-bit floats, but does not compare them
        if not (chunk.float() if chunk.element_size() == 1 else chunk).isfinite().all():
            raise ValueError(f"{what} has a NaN or an infinity: expected finite weights; {how}")


def without_ties(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors without further names of one that was named before, and those names: name -> first name.

    >>> x = torch.zeros(3)
    >>> without_ties({"embed.weight": x, "head.weight": x})[1]
    {'head.weight': 'embed.weight'}
    """
    first: dict[tuple, str] = {}
    ties: dict[str, str] = {}
    for name, x in tensors.items():
        same = (x.data_ptr(), x.dtype, x.shape, x.stride()) if x.numel() else (name,)
        kept = first.setdefault(same, name)
        if kept != name:
            ties[name] = kept
    return {name: x for name, x in tensors.items() if name not in ties}, ties
