"""Table of derivatives by hand: module class -> its functions of `backprop`.

`forward(module, x)` gives (y, kept); `backward(module, dy, kept)` gives dx and adds the derivatives of the module's own
parameters to their .grad, as autograd does. A tied parameter is added to twice, a frozen one never. The walk through a
whole model is made of these two calls; see `manual_decoder`.
"""

from collections.abc import Callable, Iterable
from types import BuiltinFunctionType, FunctionType
from typing import Any, NamedTuple

from torch import Tensor, nn

from minillm.backprop.feedforward import ACTIVATIONS as DERIVED
from minillm.backprop.feedforward import mlp, mlp_backward, swiglu, swiglu_backward
from minillm.backprop.linear import linear, linear_backward
from minillm.backprop.norm import layer_norm, layer_norm_backward, rms_norm, rms_norm_backward
from minillm.layers.feedforward import ACTIVATIONS, MLP, SwiGLU
from minillm.layers.norm import LayerNorm, NoNorm, RMSNorm


class Backprop(NamedTuple):
    """forward(x, *arguments(module)) -> y, kept; backward(dy, kept) -> dx and the derivatives of those arguments that are tensors."""

    forward: Callable[..., tuple[Tensor, Any]]
    backward: Callable[[Tensor, Any], tuple[Tensor | None, ...]]
    arguments: Callable[[Any], tuple]


PAIRS: dict[type[nn.Module], Backprop] = {
    NoNorm: Backprop(lambda x: (x, None), lambda dy, kept: (dy,), lambda m: ()),
    nn.Linear: Backprop(linear, linear_backward, lambda m: (m.weight, m.bias)),
    LayerNorm: Backprop(layer_norm, layer_norm_backward, lambda m: (m.weight, m.bias, m.eps)),
    RMSNorm: Backprop(rms_norm, rms_norm_backward, lambda m: (m.weight, m.eps)),
    MLP: Backprop(mlp, mlp_backward, lambda m: (*_both(m.up), *_both(m.down), _name_of(m.activation))),
    SwiGLU: Backprop(swiglu, swiglu_backward, lambda m: (*_both(m.gate), *_both(m.up), *_both(m.down))),
}


def forward(module: nn.Module, x: Tensor) -> tuple[Tensor, Any]:
    """The module's output, and what `backward` needs."""
    pair = PAIRS[type(module)]
    return pair.forward(x, *pair.arguments(module))


def backward(module: nn.Module, dy: Tensor, kept: Any) -> Tensor:
    """dx; the derivatives of the module's parameters are added to their .grad."""
    pair = PAIRS[type(module)]
    dx, *derivatives = pair.backward(dy, kept)
    for parameter, derivative in zip(
        pair.arguments(module), derivatives, strict=False
    ):  # eps and names come last and have none
        add(parameter, derivative)
    return dx


def add(parameter: Tensor | None, derivative: Tensor | None) -> None:
    """Into .grad, in place where there is one."""
    if parameter is None or not parameter.requires_grad:
        return
    parameter.grad = derivative if parameter.grad is None else parameter.grad.add_(derivative)


def refuse_unknown(model: nn.Module, known: Iterable[type[nn.Module]]) -> None:
    """ValueError for the first part of a model that is not exactly of a kind in `known` or in PAIRS, or that drops out."""
    known = {*known, *PAIRS}
    for path, module in model.named_modules():
        if type(module) not in known:
            raise ValueError(
                f"task.backward = manual: no derivative of {path} ({type(module).__name__}) is written; use autograd"
            )
        if isinstance(module, MLP) and _name_of(module.activation) not in DERIVED:
            name = _name_of(module.activation)
            raise ValueError(f"task.backward = manual: no derivative of {name} in {path} is written; use autograd")
        if isinstance(module, nn.Dropout) and module.p:
            raise ValueError(
                f"task.backward = manual: expected model.dropout = 0, not {module.p}; set it to 0, or use autograd"
            )


def _both(module: nn.Linear) -> tuple[Tensor, Tensor | None]:
    return module.weight, module.bias


def _name_of(activation: Callable[[Tensor], Tensor]) -> str:
    named = (name for name, function in ACTIVATIONS.items() if function is activation)
    return next(
        named, activation.__name__ if isinstance(activation, FunctionType | BuiltinFunctionType) else repr(activation)
    )
