"""AWQ, activation-aware quantization: scale weights before rounding, so important ones lose less (Lin et al. 2023).

    W x = (W diag(s)) (x / s)       s = mean |x|^alpha of each input channel       alpha in 0 ... 1 with the least error

A weight that multiplies large activations contributes more to the output's error. Scaled by s > 1 before rounding, its
relative error is smaller, and its input is divided by s, so the product is unchanged. The division is free where a norm
precedes the layer: it is folded into the norm's weight, so all layers that read this norm share s. These are queries,
keys and values, and the feed-forward's up and gate; layers that read a product of activations (to_out, down) stay
unscaled. alpha = 0 gives s = 1, so no layer's error on the calibration text gets larger. Read before: `pack`.
"""

from collections.abc import Iterable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minillm.layers.block import PostNormBlock
from minillm.models.decoder import Decoder
from minillm.quantization.pack import quantizer, refuse

N_ALPHAS = 11  # 0, 0.1 ... 1
N_ROWS = 2048  # input vectors on which a layer's error is measured


@torch.no_grad()
def calibrate(model: Decoder, batches: Iterable[Tensor], weights: str, group: int = 64) -> dict[str, float]:
    """Scale weights and norms in place, for `pack` with the same `weights` and `group`; the outputs do not change.

    batches: tokens (B, T). Returns, for each norm, the output error with scales divided by that without, on these
    tokens. Raises ValueError for a model that cannot be packed or has post-norm blocks.
    """
    refuse(model, weights)
    quantize = quantizer(weights, group)
    if quantize is None:
        raise ValueError(
            f"weights = {weights}: expected int8, int4 or nf4 beside a calibration, since bf16 packs nothing; "
            "leave one out"
        )
    if any(isinstance(block, PostNormBlock) for block in model.blocks):
        raise ValueError(
            "model.norm_place = post: expected pre beside a calibration, which folds scales into norms; leave it out"
        )
    readers = dict(_readers(model))
    remaining = {}
    for path, seen in _inputs(model, list(readers), batches).items():
        layers = [layer.weight for layer in readers[path]]
        importance = seen.abs().mean(0).clamp(min=1e-8)

        def error(s: Tensor, seen: Tensor = seen, layers: list[nn.Parameter] = layers) -> float:
            packed = (quantize(w * s).dequantize().to(w.dtype) / s - w for w in layers)
            return sum(float(F.linear(seen, difference).square().sum()) for difference in packed)

        powers = [importance ** (i / (N_ALPHAS - 1)) for i in range(N_ALPHAS)]
        scales = [s / (s.max() * s.min()).sqrt() for s in powers]
        errors = [error(s) for s in scales]
        best = min(range(N_ALPHAS), key=errors.__getitem__)
        remaining[path] = errors[best] / errors[0] if errors[0] else 1.0
        _fold(model.get_submodule(path), layers, scales[best])
    return remaining


def _readers(model: Decoder) -> Iterator[tuple[str, list[nn.Linear]]]:
    """Yield the path of each norm whose output only linear layers read, and these layers."""
    for i, block in enumerate(model.blocks):
        attention = block.attention
        yield f"blocks.{i}.norm_1", [attention.to_q, attention.to_k, attention.to_v]
        widening = [layer for name, layer in block.feedforward.named_children() if name in ("up", "gate")]
        yield f"blocks.{i}.norm_2", widening


def _inputs(model: Decoder, norms: list[str], batches: Iterable[Tensor]) -> dict[str, Tensor]:
    """The outputs of each norm for the first tokens, (at most N_ROWS, D)."""
    seen: dict[str, list[Tensor]] = {path: [] for path in norms}

    def keep(path: str, out: Tensor) -> None:
        room = N_ROWS - sum(map(len, seen[path]))
        seen[path].append(out.flatten(0, -2)[:room])

    hooks = [
        model.get_submodule(path).register_forward_hook(lambda _, __, out, path=path: keep(path, out)) for path in norms
    ]
    was_training = model.training
    model.eval()
    try:
        for tokens in batches:
            model(tokens)
    finally:
        model.train(was_training)
        for hook in hooks:
            hook.remove()
    return {path: torch.cat(parts) for path, parts in seen.items()}


def _fold(norm: nn.Module, layers: list[nn.Parameter], s: Tensor) -> None:
    """Multiply the columns of the layers by s, and divide the norm's weight by s."""
    for weight in layers:
        weight.mul_(s)
    for parameter in norm.parameters():
        parameter.div_(s)
