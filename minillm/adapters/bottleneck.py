"""Bottleneck adapters: a small trained network after each attention and each feed-forward (Houlsby et al. 2019).

    y = f(x) + up(activation(down(f(x))))        f: the frozen sublayer; down: D -> width, up: width -> D

The first adapters of transformers. They stand before the sum with the residual stream. `up` starts at zero, so a fresh
adapter is exactly the identity (the paper starts both matrices near zero). The activation between the two matrices
makes it more than a correction of a weight: no weight computes the same, so it cannot be merged, and every token pays
for it. Read before: `inject`, `layers/block.py`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal

from torch import Tensor, nn

from minillm.adapters.adapter import Adapter
from minillm.adapters.inject import Adapted, inject, matching, wrapped
from minillm.config.fields import Choice, Positive, validate
from minillm.layers.attention import Attention
from minillm.layers.feedforward import ACTIVATIONS


@dataclass(frozen=True)
class BottleneckConfig(Adapter):
    """A bottleneck adapter."""

    kind: Literal["bottleneck"] = "bottleneck"  # kind of adapter
    width: Positive = 16  # hidden units of each bottleneck
    activation: Annotated[str, Choice(ACTIVATIONS)] = "gelu"  # activation of the hidden units
    targets: tuple[str, ...] = ("to_out", "feedforward")  # layers that are followed by a bottleneck, by their path

    def __post_init__(self) -> None:
        validate(self)
        if not self.targets:
            raise ValueError("adapter.targets = []: expected names of layers, such as to_out,feedforward; name some")

    def add(self, model: nn.Module) -> nn.Module:
        """See `Adapter.add`. Raises ValueError for a target that does not end in the residual stream."""
        streams = [module.to_out for module in model.modules() if isinstance(module, Attention)]
        if not streams:
            raise ValueError(
                f"adapter.kind = bottleneck: expected a transformer, not {type(model).__name__}; take lora"
            )
        sublayers = matching(model, self.targets, (nn.Module,))
        ends = {*streams, *(m for path, m in model.named_modules() if path.rpartition(".")[2] == "feedforward")}
        for path, layer in sublayers.items():
            if layer not in ends:
                raise ValueError(
                    f"adapter.targets: expected to_out of attentions and feedforward of blocks, found {path}; "
                    "leave it out"
                )
        like, activation = streams[0].weight, ACTIVATIONS[self.activation]
        inject(model, wrapped(sublayers, lambda layer: Bottleneck(layer, like, self.width, activation)))
        return model


class Bottleneck(Adapted):
    """A frozen sublayer and a small network behind it: (..., in) -> (..., D)."""

    def __init__(self, base: nn.Module, like: Tensor, width: int, activation: Callable[[Tensor], Tensor]):
        """like: a matrix (D, in) of the model, for width, dtype and device."""
        super().__init__(base)
        self.down, self.up = nn.Linear(len(like), width).to(like), nn.Linear(width, len(like)).to(like)
        self.activation = activation
        nn.init.zeros_(self.down.bias)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, x: Tensor) -> Tensor:
        y = self.base(x)
        return y + self.up(self.activation(self.down(y)))

    def merged(self) -> nn.Module:
        """See `Adapted.merged`; always refused."""
        raise ValueError(
            "adapter.kind = bottleneck: expected an adapter that is a change of weights, since between the two "
            "matrices of a bottleneck stands an activation; use it beside its base"
        )
