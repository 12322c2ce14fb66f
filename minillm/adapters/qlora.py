"""QLoRA: LoRA over frozen weights of 4 bits, so that a model too large to train fits (Dettmers et al. 2023).

    y = dequantize(W4) x + (alpha / rank) B A x        dL/dx = dequantize(W4)^T dL/dy + ...        W4: never trained

Every linear layer of the blocks is packed in NF4, with its scales in 8 bits (double quantization), and gradients pass
through it to the corrections below. The matrix is dequantized in the forward, forgotten, and dequantized again in the
backward: of each layer only 4.13 bits per weight stay in memory. Merging adds the correction to the dequantized weight,
on which it was trained, and not to the original one; packing the sum again costs accuracy, which `requantizing_error`
measures. Read before: `lora`, `quantization/nf4.py`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from minillm.adapters.inject import Adapted, inject, matching
from minillm.adapters.lora import LoRA, LoRAConfig
from minillm.adapters.rows import with_trained_rows
from minillm.config.fields import Count
from minillm.layers.moe import StackedLinear
from minillm.quantization import nf4
from minillm.quantization.nf4 import NF4
from minillm.quantization.packed import Packed, PackedLinear


@dataclass(frozen=True)
class QLoRAConfig(LoRAConfig):
    """A QLoRA adapter: the keys of LoRA, and how the frozen weights are packed."""

    kind: Literal["qlora"] = "qlora"  # kind of adapter
    group: Count = 64  # inputs that share a scale in the packed weights; even, and a divisor of every width

    def add(self, model: nn.Module) -> nn.Module:
        """See `Adapter.add`. Only layers of the blocks are packed: no embedding and no head, as in the paper."""
        if any(isinstance(module, StackedLinear) for module in model.modules()):
            raise ValueError(
                "adapter.kind = qlora: expected a model without experts, whose stacked weights cannot be packed; "
                "take lora"
            )
        targets = matching(model, self.targets)
        linear = matching(model, ["*"])
        inside = {
            layer for blocks in model.modules() if isinstance(blocks, nn.ModuleList) for layer in blocks.modules()
        }
        packed = {path: layer for path, layer in linear.items() if layer in inside}
        for path, layer in packed.items():
            self._refuse_width(path, layer.in_features)
        swaps: dict[nn.Module, nn.Module] = {layer: Frozen4Bit(layer, self.group) for layer in packed.values()}
        for layer in targets.values():
            swaps[layer] = QLoRA(layer, swaps.get(layer, layer), self.rank, self.alpha, self.dropout)
        inject(model, with_trained_rows(model, self.rows, swaps) if self.rows else swaps)
        return model

    def _refuse_width(self, path: str, width: int) -> None:
        if self.group < 2 or self.group % 2 or width % self.group:
            raise ValueError(
                f"adapter.group = {self.group}: expected an even number that divides the width of every linear layer, "
                f"such as {width} of {path}; choose another, or take lora"
            )


class Frozen4Bit(Adapted):
    """A frozen linear layer in NF4 that gradients pass through: (..., in) -> (..., out)."""

    def __init__(self, layer: nn.Linear, group: int):
        """Its tensors are not saved with the adapter: rounding the base again gives the same."""
        super().__init__(PackedLinear(nf4.quantize(layer.weight, group), layer.bias, persistent=False))
        self.n_weights, self.dtype = layer.weight.numel(), layer.weight.dtype

    def forward(self, x: Tensor) -> Tensor:
        y = _Product.apply(x, *self.base.packed)
        return y if self.base.bias is None else y + self.base.bias

    @torch.no_grad()
    def merged(self) -> nn.Linear:
        """See `Adapted.merged`: the weights that the packed ones stand for."""
        weight = self.base.packed.dequantize().to(self.dtype)
        layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
        layer.weight, layer.bias = nn.Parameter(weight, requires_grad=False), self.base.bias
        return layer


class QLoRA(LoRA):
    """A packed linear layer and its correction: (..., in) -> (..., out)."""

    def __init__(self, layer: nn.Linear, base: nn.Module, rank: int, alpha: float, dropout: float = 0.0):
        """layer: the layer before it was packed; base: what takes its place."""
        super().__init__(layer, rank, alpha, dropout)
        self.base = base


class _Product(torch.autograd.Function):
    """x (..., in) times the transposed NF4 matrix; the backward dequantizes it again instead of keeping it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, *parts: Tensor) -> Tensor:
        ctx.save_for_backward(*parts)
        return F.linear(x, NF4(*parts).dequantize().to(x.dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        weight = NF4(*ctx.saved_tensors).dequantize().to(upstream.dtype)
        return upstream @ weight, *[None] * len(NF4._fields)


@torch.no_grad()
def requantizing_error(model: nn.Module, quantize: Callable[[Tensor], Packed] = nf4.quantize) -> float:
    """The relative error |W' - W| / |W| of rounding all merged matrices W of a QLoRA model again, to W'."""
    wrong = total = 0.0
    for layer in model.modules():
        if isinstance(layer, QLoRA):
            weight = layer.merged().weight.double()
            wrong += float((quantize(weight).dequantize().double() - weight).square().sum())
            total += float(weight.square().sum())
    return (wrong / total) ** 0.5 if total else 0.0
