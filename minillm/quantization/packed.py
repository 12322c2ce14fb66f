"""Layers that hold packed weights and are called as those that they replace.

Every format is a NamedTuple of tensors with two methods: `dequantize` unpacks the whole matrix, `rows` some of its rows. A layer
registers the tensors as buffers, so that they are what its state_dict holds, and unpacks them in every call: the written-out
version, which any device and dtype can run. `kernels` has faster ones. Read `int8` for the simplest format.
"""

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Packed(Protocol):
    """A matrix (out, in) in fewer bytes; floating-point tensors in it are bfloat16, so that casting a model changes none."""

    def dequantize(self) -> Tensor:
        """The matrix that it stands for, (out, in) float32."""
        ...

    def rows(self, ids: Tensor) -> Tensor:
        """Row `ids[...]` of it for each id: (...) -> (..., in) float32."""
        ...

    def _asdict(self) -> dict[str, Tensor]: ...


class PackedLinear(nn.Module):
    """nn.Linear on a packed weight: (..., in) -> (..., out)."""

    def __init__(self, packed: Packed, bias: nn.Parameter | None = None):
        super().__init__()
        self.format = type(packed)
        for name, tensor in packed._asdict().items():
            self.register_buffer(name, tensor)
        self.bias = bias

    @property
    def packed(self) -> Packed:
        """The weight as it is held."""
        return self.format(**dict(self.named_buffers(recurse=False)))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.packed.dequantize().to(x.dtype), self.bias)


class PackedEmbedding(PackedLinear):
    """nn.Embedding on the packed weight of the head that is tied to it: tokens (...) -> (..., D) of a dtype."""

    def __init__(self, packed: Packed, dtype: torch.dtype):
        super().__init__(packed)
        self.dtype = dtype

    def forward(self, tokens: Tensor) -> Tensor:
        return self.packed.rows(tokens).to(self.dtype)


def steps(x: Tensor) -> Tensor:
    """The nearest bfloat16 to each x >= 0, within a part in 512; 1 for 0, since a step is divided by."""
    near = x.bfloat16()
    return torch.where(near > 0, near, 1.0)


def check_groups(weight: Tensor, group: int) -> None:
    """Raise ValueError unless every row of a matrix is a whole number of groups, two values a byte."""
    if group < 2 or group % 2 or weight.shape[1] % group:
        raise ValueError(
            f"group = {group}: expected an even number that divides the width of every linear layer, here {weight.shape[1]}; "
            "choose 32, 64 or 128, or weights int8, which has no groups"
        )


def nbytes(model: nn.Module) -> int:
    """Bytes of all parameters and buffers that are really held, shared ones once."""
    tensors = [*model.parameters(), *model.buffers()]
    return sum({x.untyped_storage().data_ptr(): x.untyped_storage().nbytes() for x in tensors}.values())
