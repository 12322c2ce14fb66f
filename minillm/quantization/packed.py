"""Layers with packed weights, called like the layers that they replace.

A format is a NamedTuple of tensors with two methods: `dequantize` restores the whole matrix, `rows` some of its rows. A
layer registers the tensors as buffers, so its state_dict contains them, and dequantizes them in every call. Scales are
held as their bits, in integers, because casting a model rounds its floating-point buffers. This plain version runs on
any device and in any dtype; `kernels` has faster ones. Jacob et al. 2018 describe the scheme; `int8` is the simplest
format.
"""

from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BITS = {torch.bfloat16: torch.int16, torch.float32: torch.int32}  # no format has a part of int16 or int32 itself
FLOATS = {bits: floats for floats, bits in BITS.items()}


class Packed(Protocol):
    """A matrix (out, in) in fewer bytes. Floating-point parts are bfloat16 or float32."""

    def dequantize(self) -> Tensor:
        """The matrix, (out, in) float32."""
        ...

    def rows(self, ids: Tensor) -> Tensor:
        """Row `ids[...]` of the matrix for each id: (...) -> (..., in) float32."""
        ...

    def _asdict(self) -> dict[str, Tensor]: ...


def as_bits(part: Tensor) -> Tensor:
    """The bits of floating-point numbers as integers of that width, which no cast changes; integers as they are."""
    return part.view(BITS.get(part.dtype, part.dtype))


def as_floats(part: Tensor) -> Tensor:
    """The inverse of `as_bits`.

    >>> as_floats(as_bits(torch.tensor([0.1])))
    tensor([0.1000])
    """
    return part.view(FLOATS.get(part.dtype, part.dtype))


class PackedLinear(nn.Module):
    """nn.Linear with a packed weight: (..., in) -> (..., out)."""

    def __init__(self, packed: Packed, bias: nn.Parameter | None = None, persistent: bool = True):
        """`persistent`: whether a state_dict contains the packed weight."""
        super().__init__()
        self.format = type(packed)
        for name, tensor in packed._asdict().items():
            self.register_buffer(name, as_bits(tensor), persistent=persistent)
        self.bias = bias

    @property
    def packed(self) -> Packed:
        """The packed weight."""
        return self.format(**{name: as_floats(bits) for name, bits in self.named_buffers(recurse=False)})

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args: Any) -> None:
        """Load saved parts, in the precision in which they were saved."""
        for name, held in self.named_buffers(recurse=False):
            if prefix + name in state_dict:
                saved = state_dict[prefix + name] = as_bits(state_dict[prefix + name])
                if {held.dtype, saved.dtype} <= FLOATS.keys():
                    held.data = held.data.to(saved.dtype)  # subtle: in place; a tied embedding holds this tensor too
        super()._load_from_state_dict(state_dict, prefix, *args)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.packed.dequantize().to(x.dtype), self.bias)


class PackedEmbedding(PackedLinear):
    """nn.Embedding with the packed weight of the tied head: tokens (...) -> (..., D) in `dtype`."""

    def __init__(self, head: PackedLinear, dtype: torch.dtype):
        super().__init__(head.packed)
        for name, bits in head.named_buffers(recurse=False):
            self.register_buffer(name, bits)  # subtle: not a view of it, which loading would part from it
        self.dtype = dtype

    def forward(self, tokens: Tensor) -> Tensor:
        return self.packed.rows(tokens).to(self.dtype)


def steps(x: Tensor) -> Tensor:
    """The nearest bfloat16 to each scale x >= 0, within 1 in 512; 1 instead of 0, because weights are divided by it."""
    near = x.bfloat16()
    return torch.where(near > 0, near, 1.0)


def check_groups(weight: Tensor, group: int) -> None:
    """Raise ValueError unless each row of a matrix is a whole number of groups with an even size."""
    if group < 2 or group % 2 or weight.shape[1] % group:
        raise ValueError(
            f"group = {group}: expected an even number that divides the width of every linear layer, "
            f"here {weight.shape[1]}; choose 32, 64 or 128, or weights int8, which has no groups"
        )


def nbytes(model: nn.Module) -> int:
    """Bytes of all parameters and buffers, shared memory counted once."""
    tensors = [*model.parameters(), *model.buffers()]
    return sum({x.untyped_storage().data_ptr(): x.untyped_storage().nbytes() for x in tensors}.values())
