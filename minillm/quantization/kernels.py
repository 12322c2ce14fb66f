"""Kernels for packed weights: linear layers that dequantize in registers, for fast generation on a CPU.

Generating one token reads every weight once and does two operations with it, so reading the weights takes most of the
time: with a quarter of the bytes, up to four times the tokens per second. Torch has such kernels for bfloat16
activations: for one or a few rows they are faster than the product with dequantized weights, for a whole prompt slower.
`arrange_for_kernels` replaces each layer that has a kernel; tests/quantization/test_kernels.py compares each with the
plain version in `packed`. Read before: `packed`.

A processor without instructions for bfloat16 emulates them. There, attention computes in float32, with the same keys
and values, which is faster.

    bf16    torch.mv for one row, faster than the matrix product      int8    torch.ops.aten._weight_int8pack_mm
    int4    torch.ops.aten._weight_int4pack_mm_for_cpu, groups of 32, 64, 128 or 256      nf4     none: dequantized
"""

from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minillm.cache.kv_cache import KVView
from minillm.cache.nibbles import unpack_nibbles
from minillm.layers.attention import Attention
from minillm.models.language_model import device_of
from minillm.quantization.int4 import Int4
from minillm.quantization.int8 import Int8
from minillm.quantization.pack import pack, packed_weights
from minillm.quantization.packed import PackedLinear, as_floats, nbytes
from minillm.system.processor import has_bfloat16

GROUPS = (32, 64, 128, 256)  # sizes that the int4 kernel supports
WRITTEN_OUT = "unpacked in every call"
N_PADDED = 64  # the int4 kernel needs a multiple of this many outputs


class Bf16Linear(nn.Linear):
    """nn.Linear that multiplies a single row by a matrix-vector product."""

    kernel = "torch.mv"

    def __init__(self, layer: nn.Linear):
        nn.Module.__init__(self)
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.weight, self.bias = layer.weight, layer.bias

    def forward(self, x: Tensor) -> Tensor:
        if x.numel() > self.in_features:
            return F.linear(x, self.weight, self.bias)
        y = torch.mv(self.weight, x.flatten())
        return (y if self.bias is None else y + self.bias).view(*x.shape[:-1], -1)


class Int8Linear(PackedLinear):
    """See `PackedLinear`: bfloat16 in and out, float32 sums, weights dequantized in registers."""

    kernel = "torch.ops.aten._weight_int8pack_mm"

    def forward(self, x: Tensor) -> Tensor:
        rows, scales = x.flatten(0, -2), as_floats(self.scales)
        y = torch.ops.aten._weight_int8pack_mm(rows, self.values, scales).unflatten(0, x.shape[:-1])
        return y if self.bias is None else y + self.bias


class Int4Linear(nn.Module):
    """See `PackedLinear`: the same with four bits per weight.

    The kernel needs the levels in an order that depends on the CPU, and offsets beside scales. Both replace the tensors
    of the format, so that no weight is stored twice; the layer cannot be saved. The kernel multiplies by scales and
    offsets in bfloat16, as it does by activations, so float32 ones are rounded to within 1 in 512.
    """

    kernel = "torch.ops.aten._weight_int4pack_mm_for_cpu"

    def __init__(self, packed: Int4, bias: nn.Parameter | None):
        super().__init__()
        padding = -len(packed.values) % N_PADDED
        levels, scales, offsets = (
            F.pad(x, (0, 0, 0, padding)) for x in (unpack_nibbles(packed.values), packed.scales, packed.offsets)
        )
        values = torch.ops.aten._convert_weight_to_int4pack_for_cpu(levels.int(), 1)
        self.out_features, self.group = len(packed.values), levels.shape[1] // scales.shape[1]
        self.register_buffer("values", values, persistent=False)  # (out, in / 2)
        both = torch.stack([scales, offsets], -1).bfloat16().transpose(0, 1).contiguous()
        self.register_buffer("scales_and_offsets", both, persistent=False)  # (n, out, 2)
        self.bias = bias

    def forward(self, x: Tensor) -> Tensor:
        rows = x.flatten(0, -2)
        y = torch.ops.aten._weight_int4pack_mm_for_cpu(rows, self.values, self.group, self.scales_and_offsets)
        y = y[:, : self.out_features].unflatten(0, x.shape[:-1])
        return y if self.bias is None else y + self.bias

    def get_extra_state(self) -> None:
        """Raise ValueError: the layer cannot be saved."""
        raise ValueError(
            "state_dict of weights that a kernel has rearranged: expected none to be saved; "
            "save before `arrange_for_kernels`"
        )


def attend_in_float32(q: Tensor, view: KVView, *how: Any, attend: Callable[..., Tensor]) -> Tensor:
    """Attention by `attend` in float32, for a processor that emulates bfloat16: q (B, H, T, K) -> (B, H, T, K)."""
    return attend(q.float(), view._replace(k=view.k.float(), v=view.v.float()), *how).to(q.dtype)


def arrange_for_kernels(model: nn.Module) -> Counter[str]:
    """Replace each linear layer of a bfloat16 model by its version with a kernel. Returns kernel -> number of layers.

    For generation only: int4 layers cannot be saved afterwards. On devices other than a CPU nothing changes.
    """
    ran: Counter[str] = Counter()
    emulated = not has_bfloat16(device_of(model))
    for path, module in list(model.named_modules()):
        if emulated and isinstance(module, Attention):
            module.attend = partial(attend_in_float32, attend=module.attend)
        if type(module) is nn.Linear or type(module) is PackedLinear:
            fast = _fast(module)
            model.set_submodule(path, fast.train(module.training))
            plain = WRITTEN_OUT if isinstance(fast, PackedLinear) else "torch's matrix product"
            ran[fast.kernel if isinstance(fast, Bf16Linear | Int8Linear | Int4Linear) else plain] += 1
    return ran


def lighten(model: nn.Module, weights: str | None) -> str:
    """Pack a model, if it is not packed yet and `weights` is given, and arrange it for kernels. Raises ValueError.

    Returns a line that says what was done, "" for nothing.
    """
    before = nbytes(model)
    if weights is not None:
        pack(model, weights)
    elif not packed_weights(model):
        return ""
    packed = nbytes(model)
    ran = ", ".join(f"{kernel} in {n} layers" for kernel, n in arrange_for_kernels(model).items())
    arranged = f"{nbytes(model) / 1e6:.3f} MB as arranged for the kernel"
    return f"weights {before / 1e6:.3f} MB -> {packed / 1e6:.3f} MB, {arranged}; {ran}"


def _fast(layer: nn.Linear | PackedLinear) -> nn.Module:
    """The version of a layer with a kernel, or the layer itself."""
    if next(layer.buffers() if isinstance(layer, PackedLinear) else layer.parameters()).device.type != "cpu":
        return layer
    if isinstance(layer, nn.Linear):
        return Bf16Linear(layer) if layer.weight.dtype == torch.bfloat16 else layer
    packed = layer.packed
    if isinstance(packed, Int8):
        return Int8Linear(packed, layer.bias)
    if isinstance(packed, Int4) and 2 * packed.values.shape[1] // packed.scales.shape[1] in GROUPS:
        return Int4Linear(packed, layer.bias)
    return layer
