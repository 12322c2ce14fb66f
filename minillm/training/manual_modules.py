"""Hand-written derivatives of modules: a table from module class to its functions of `backprop`.

`forward(module, x)` returns (y, kept). `backward(module, dy, kept)` returns dx and adds the derivatives of the module's
own parameters to their .grad, as autograd does: twice for a tied parameter, never for a frozen one. Backpropagation
through a whole model consists of these two calls; see `manual_decoder`.
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
    """forward(x, *arguments(module)) -> y, kept; backward(dy, kept) -> dx and the derivatives of tensor arguments."""

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
    """The module's output, and the values that `backward` needs."""
    pair = PAIRS[type(module)]
    return pair.forward(x, *pair.arguments(module))


def backward(module: nn.Module, dy: Tensor, kept: Any) -> Tensor:
    """Return dx, and add the derivatives of the module's parameters to their .grad."""
    pair = PAIRS[type(module)]
    dx, *derivatives = pair.backward(dy, kept)
    # not strict: arguments that have no derivative (eps, names) come last
    for parameter, derivative in zip(pair.arguments(module), derivatives, strict=False):
        add(parameter, derivative)
    return dx


def add(parameter: Tensor | None, derivative: Tensor | None) -> None:
    """Add a derivative to the parameter's .grad, in place if there is one; does nothing for a frozen parameter."""
    if parameter is None or not parameter.requires_grad:
        return
    parameter.grad = derivative if parameter.grad is None else parameter.grad.add_(derivative)


def refuse_unknown(model: nn.Module, known: Iterable[type[nn.Module]]) -> None:
    """Raise ValueError for a part whose exact class is not in `known` or PAIRS, an unknown activation, or dropout."""
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
