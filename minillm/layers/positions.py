"""Where a token stands: attention alone sees a bag of tokens, so order has to be told.

    learned      x + table[position]                                                  Radford et al. 2018
    sinusoidal   x + (sin(position / 10000^(2i/D)), cos(...))                          Vaswani et al. 2017
    rotary       turn pair i of every query and key by position * base^(-2i/K):        Su et al. 2021
                 the score of two tokens then depends on their distance only

The first two are added once, below the stack. The rotary one acts inside every attention; the cache decides when keys are turned.
"""

import torch
from torch import Tensor, nn


class LearnedPositions(nn.Module):
    """One trained vector a position: positions (B or 1, T) -> (B or 1, T, D). EMPTY positions get some vector, never a read error."""

    def __init__(self, context_length: int, d_model: int):
        super().__init__()
        self.table = nn.Embedding(context_length, d_model)

    def forward(self, positions: Tensor) -> Tensor:
        return self.table(positions.clamp(min=0))


class SinusoidalPositions(nn.Module):
    """Fixed waves of geometrically growing length, as one table: positions (B or 1, T) -> (B or 1, T, D)."""

    def __init__(self, context_length: int, d_model: int):
        super().__init__()
        angles = _angles(context_length, d_model, base=10000.0)
        table = torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)[:, :d_model]  # sine and cosine take turns
        self.register_buffer("table", table.float(), persistent=False)

    def forward(self, positions: Tensor) -> Tensor:
        return self.table[positions.clamp(min=0)]


class NoPositions(nn.Module):
    """Adds nothing: for rotary models, and for those that learn order from the causal mask alone."""

    def forward(self, positions: Tensor) -> float:
        return 0.0


class Rotary:
    """Turns the pairs (x_i, x_{i + K/2}) of every head, the layout of Llama's weights.

    subtle: the angles are computed once, in float64, and kept outside of the module's buffers, so that `model.to(bfloat16)` cannot
    round them: in bfloat16 positions beyond 256 already collide. Only their cosines and sines take the dtype of what they multiply.
    """

    def __init__(self, d_head: int, context_length: int, base: float = 10000.0):
        if d_head % 2:
            raise ValueError(f"d_head = {d_head}: expected an even number, since rotary positions turn pairs; change d_model or n_heads")
        angles = _angles(context_length, d_head, base)
        self.cos = torch.cat([angles.cos(), angles.cos()], dim=-1)  # (positions, K)
        self.sin = torch.cat([-angles.sin(), angles.sin()], dim=-1)
        self.at: dict[tuple[torch.device, torch.dtype], tuple[Tensor, Tensor]] = {}

    def __call__(self, x: Tensor, positions: Tensor) -> Tensor:
        """x (B, G, T, K) at positions (B or 1, T) -> the same shape and dtype, turned."""
        cos, sin = (table[positions.clamp(min=0)][:, None] for table in self._tables(x.device, x.dtype))  # (B or 1, 1, T, K)
        return _Turn.apply(x, cos, sin)

    def _tables(self, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        if (device, dtype) not in self.at:
            with torch.inference_mode(False):  # subtle: a table first made while sampling must serve training too
                self.at[device, dtype] = self.cos.to(device, dtype), self.sin.to(device, dtype)
        return self.at[device, dtype]


class _Turn(torch.autograd.Function):
    """The derivative of a rotation is the rotation back: one pass each way, where autograd would keep and multiply every part."""

    @staticmethod
    def forward(ctx, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
        ctx.save_for_backward(cos, sin)
        return _turn(x, cos, sin)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[no-untyped-def]
        cos, sin = ctx.saved_tensors
        return _turn(gradient, cos, -sin), None, None


def _turn(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """(a, b) -> (a cos - b sin, b cos + a sin), a and b the halves of the last dimension; `sin` carries the signs."""
    a, b = x.chunk(2, dim=-1)
    return torch.cat([b, a], dim=-1).mul_(sin).addcmul_(x, cos)


def no_rotation(x: Tensor, positions: Tensor) -> Tensor:
    """What models without rotary positions hand to attention and caches."""
    return x


def _angles(n_positions: int, width: int, base: float) -> Tensor:
    """position * base^(-2i / width), float64: (n_positions, width / 2)."""
    frequencies = base ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
    return torch.outer(torch.arange(n_positions, dtype=torch.float64), frequencies)
