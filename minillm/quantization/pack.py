"""Pack a trained decoder: every linear layer, and an embedding tied to the head, in one of the formats.

Post-training quantization (Jacob et al. 2018): nothing is trained, every weight is rounded to its nearest level. A tied
embedding shares the packed tensors of the head, which are still stored only once, and dequantizes the rows that are
looked up. Other tensors (norms, biases, positions, value embeddings, an untied embedding) are cast to `dtype`.
`kernels` makes the result fast. Read before: `int8`, `int4`, `nf4`.
"""

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor, nn

from minillm.config.fields import suggest
from minillm.models.decoder import Decoder
from minillm.quantization import int4, int8, nf4
from minillm.quantization.packed import Packed, PackedEmbedding, PackedLinear, as_floats

FORMATS: tuple[type[Packed], ...] = (int8.Int8, int4.Int4, nf4.NF4)
WEIGHTS = ("bf16", "int8", "int4", "nf4")


def pack(model: nn.Module, weights: str, group: int = 64, dtype: torch.dtype = torch.bfloat16) -> None:
    """Replace the weights of a model in place; unpacked tensors become `dtype`. `bf16` packs nothing.

    group: inputs that share a scale, in int4 and nf4. Raises ValueError, before any change, for a model that cannot be
    packed.
    """
    quantize = quantizer(weights, group)
    refuse(model, weights)
    if quantize is None:
        model.to(torch.bfloat16)
        return
    linear = {path: module for path, module in model.named_modules() if isinstance(module, nn.Linear)}
    packed = {path: quantize(module.weight) for path, module in linear.items()}
    tied = model.head.weight is model.embed.weight
    model.to(dtype)
    for path, module in linear.items():
        model.set_submodule(path, PackedLinear(packed[path], module.bias).train(module.training))
    if tied:
        model.embed = PackedEmbedding(model.head, dtype).train(model.training)


def unpack(model: nn.Module) -> None:
    """Replace packed layers by ordinary ones in float32, and cast all other weights to it; the inverse of `pack`.

    The weights are those that the packed layers stand for.
    """
    tied = isinstance(model, Decoder) and isinstance(model.embed, PackedEmbedding)
    model.float()
    for path, module in packed_weights(model).items():
        if isinstance(module, PackedEmbedding):
            continue
        weight = module.packed.dequantize()
        linear = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
        linear.weight, linear.bias = nn.Parameter(weight), module.bias
        model.set_submodule(path, linear.train(module.training))
    if tied:
        embed = nn.Embedding(*model.head.weight.shape, device="meta")
        embed.weight = model.head.weight
        model.embed = embed.train(model.training)


def pack_as(model: nn.Module, state: Mapping[str, Tensor], dtype: torch.dtype = torch.bfloat16) -> None:
    """Replace each linear layer that is packed in a state_dict by a packed layer that shares the parts in it.

    Nothing is rounded. `dtype`: of the vectors that a packed embedding returns. Raises ValueError for parts of no known
    format.
    """
    for path, module in list(model.named_modules()):
        if isinstance(module, nn.Linear) and f"{path}.values" in state:
            found = {name.removeprefix(f"{path}."): part for name, part in state.items() if name.startswith(f"{path}.")}
            parts = {name: as_floats(part) for name, part in found.items() if name != "bias"}
            kinds = [kind for kind in FORMATS if set(kind._fields) == parts.keys()]
            if not kinds:
                raise ValueError(f"{path}: parts {', '.join(parts)}: expected those of a packed format; save it again")
            model.set_submodule(path, PackedLinear(kinds[0](**parts), module.bias).train(module.training))
    if isinstance(model, Decoder) and "embed.values" in state:
        model.embed = PackedEmbedding(model.head, dtype).train(model.training)


def quantizer(weights: str, group: int = 64) -> Callable[[Tensor], Packed] | None:
    """The quantizing function for a format, with its group size; None for bf16. Raises ValueError for another name."""
    if weights not in WEIGHTS:
        raise ValueError(f"weights = {weights!r}: expected {suggest(weights, list(WEIGHTS))}")
    return {
        "bf16": None,
        "int8": int8.quantize,
        "int4": partial(int4.quantize, group=group),
        "nf4": partial(nf4.quantize, block=group),
    }[weights]


def refuse(model: nn.Module, weights: str) -> None:
    """Raise ValueError for a model that is not a decoder, is already packed, or has an adapter, or experts to pack."""
    if len({parameter.requires_grad for parameter in model.parameters()}) > 1:
        raise ValueError(
            f"weights = {weights}: expected no adapter beside it; python -m minillm.quantize merges one first"
        )
    if not isinstance(model, Decoder):
        raise ValueError(
            f"weights = {weights}: expected model.kind = decoder, not a {type(model).__name__}; leave it out"
        )
    if packed_weights(model):
        raise ValueError(
            f"weights = {weights}: expected weights that are not packed yet; "
            "start from the run that they were packed from"
        )
    if weights != "bf16" and model.config.n_experts:
        raise ValueError(
            f"weights = {weights}: expected a model without experts, whose stacked weights cannot be packed; take bf16"
        )


def packed_weights(model: nn.Module) -> Mapping[str, PackedLinear]:
    """Path -> packed layer."""
    return {path: module for path, module in model.named_modules() if isinstance(module, PackedLinear)}
