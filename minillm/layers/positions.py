"""Positional encodings: attention alone does not depend on the order of tokens, so the order is added.

    learned      x + table[position]                                                  Radford et al. 2018
    sinusoidal   x + (sin(position / 10000^(2i/D)), cos(...))                          Vaswani et al. 2017
    rotary       turn pair i of every query and key by position * base^(-2i/K):        Su et al. 2021
                 the score of two tokens then depends on their distance only
    ALiBi        score - slope of the head * distance                                  Press et al. 2022

The first two are added once, before the first block. The last two act inside every attention. With rotary positions the
cache decides when keys are turned; ALiBi does not change the keys, so it works with any cache.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from minillm.cache.kv_cache import Positions, Rotate
from minillm.constants import EMPTY
from minillm.layers.rotary_scaling import SCALINGS, Scaling, frequencies_of

UNSCALED = Scaling()

# (positions of queries (B or 1, T), of slots (B or 1, G or 1, S), dtype) -> added to the scores, (B or 1, H, T, S)
Bias = Callable[[Tensor, Tensor, torch.dtype], Tensor | float]


def positions_of(tokens: Tensor, limit: int, lengths: Tensor | None = None, what: str = "") -> Positions:
    """The positions of tokens (B, T) in rows that already hold `lengths` (B,) tokens; EMPTY at padding.

    Raises ValueError, with a message that begins with `what`, if a row would be longer than `limit`.

    >>> positions_of(torch.tensor([[-1, -1, 7, 4], [5, 6, 7, 8]]), limit=9).ids
    tensor([[-1, -1,  0,  1],
            [ 0,  1,  2,  3]])
    """
    filled = tokens >= 0
    dense = bool(filled.all())
    count = torch.arange(tokens.shape[1], device=tokens.device)[None] if dense else filled.cumsum(1) - 1
    positions = count if lengths is None else lengths[:, None] + count
    # subtle: if the width already fits, the maximum is not computed: reading it would wait for all queued GPU work
    fits = not positions.numel() or (lengths is None and tokens.shape[1] <= limit)
    longest = 0 if fits else int(positions.max()) + 1
    if longest > limit:
        raise ValueError(f"{what}{longest} tokens: expected at most model.context_length = {limit}; shorten the text")
    positions = positions if dense else positions.masked_fill(~filled, EMPTY)
    if positions.is_inference():
        # subtle: caches of look-ups recognize positions by their version counter, which inference tensors do not have
        with torch.inference_mode(False):
            positions = positions.clone()
    return Positions(positions, dense)


class LearnedPositions(nn.Module):
    """One trained vector per position: positions (B or 1, T) -> (B or 1, T, D). EMPTY gets the vector of position 0."""

    def __init__(self, context_length: int, d_model: int):
        super().__init__()
        self.table = nn.Embedding(context_length, d_model)

    def forward(self, positions: Tensor) -> Tensor:
        return self.table(positions.clamp(min=0))


class SinusoidalPositions(nn.Module):
    """A fixed table of sines and cosines of growing wavelength: positions (B or 1, T) -> (B or 1, T, D)."""

    def __init__(self, context_length: int, d_model: int):
        super().__init__()
        angles = _angles(context_length, frequencies_of(d_model, base=10000.0))
        table = torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)[:, :d_model]  # sine and cosine alternate
        self.register_buffer("table", table.float(), persistent=False)

    def forward(self, positions: Tensor) -> Tensor:
        return self.table[positions.clamp(min=0)]


class NoPositions(nn.Module):
    """Adds nothing: for rotary models and ALiBi, and for models that learn order from the causal mask alone."""

    def forward(self, positions: Tensor) -> float:
        return 0.0


class Rotary:
    """Rotary positions: turns the pairs (x_i, x_{i + K/2}) of every head, which is the layout of Llama's weights.

    subtle: the angles are computed once for each dtype, in float64, and are not buffers of a module, so
    `model.to(bfloat16)` cannot round them: in bfloat16 positions beyond 256 already collide. Only their cosines and
    sines are cast to the dtype of the input.

    >>> turn, x = Rotary(d_head=2, context_length=99), torch.tensor([[[[1.0, 0.0]]]])
    >>> turn(x, torch.tensor([[1]]))[0, 0, 0]  # position 1: by 1 radian
    tensor([0.5403, 0.8415])
    >>> q, k, other = (turn(x, torch.tensor([[place]])).flatten() for place in (7, 5, 3))
    >>> q @ k, k @ other  # the same distance, the same score: cos(2)
    (tensor(-0.4161), tensor(-0.4161))
    """

    def __init__(self, d_head: int, context_length: int, base: float = 10000.0, scaling: Scaling = UNSCALED):
        if d_head % 2:
            raise ValueError(
                f"d_head = {d_head}: expected an even number, since rotary positions turn pairs; "
                "change d_model or n_heads"
            )
        self.context_length = context_length
        self.frequencies, self.gain = SCALINGS[scaling.kind](d_head, base, scaling)  # radians per token, (K / 2)
        self.at: dict[tuple[torch.device, torch.dtype], tuple[Tensor, Tensor]] = {}

    def __call__(self, x: Tensor, positions: Tensor) -> Tensor:
        """Turn x (B, G, T, K) at positions (B or 1, T); returns the same shape and dtype."""
        cos, sin = (table[positions.clamp(min=0)][:, None] for table in self.tables(x.device, x.dtype))
        a, b = x.chunk(2, dim=-1)
        return x * cos + torch.cat([b, a], dim=-1) * sin  # (a cos - b sin, b cos + a sin): `sin` carries the signs

    def tables(self, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Cosines and sines of all positions, (positions, K) each, on a device and in a dtype; cached."""
        if (device, dtype) not in self.at:
            with torch.inference_mode(False):  # subtle: a table first made while sampling must serve training too
                angles = _angles(self.context_length, self.frequencies)
                cos, sin = self.gain * angles.cos(), self.gain * angles.sin()
                tables = torch.cat([cos, cos], dim=-1), torch.cat([-sin, sin], dim=-1)  # (positions, K)
                self.at[device, dtype] = tuple(table.to(device, dtype) for table in tables)
        return self.at[device, dtype]


def no_rotation(x: Tensor, positions: Tensor) -> Tensor:
    """Return x unchanged: the `Rotate` of models without rotary positions."""
    return x


class Alibi:
    """ALiBi, a `Bias` of -slope * distance; the slope differs by head, steep in the first and close to 0 in the last.

    Nothing is learned. If the number of heads n is a power of two, the slopes are 2^(-8/n), 2^(-16/n), ..., 2^-8. For
    other n they are the slopes of the power of two below n, followed by every second slope of the power above, from the
    first on.

    >>> Alibi(4).slopes
    tensor([0.2500, 0.0625, 0.0156, 0.0039], dtype=torch.float64)
    >>> places = torch.arange(3)[None]
    >>> Alibi(4)(places, places[:, None], torch.float32)[0, 0]  # the first head
    tensor([[-0.0000, -0.2500, -0.5000],
            [-0.2500, -0.0000, -0.2500],
            [-0.5000, -0.2500, -0.0000]])
    """

    def __init__(self, n_heads: int):
        power = 2 ** (n_heads.bit_length() - 1)
        self.slopes = torch.cat([_slopes(power), _slopes(2 * power)[::2]])[:n_heads]  # (H,)

    def __call__(self, q_positions: Tensor, k_positions: Tensor, dtype: torch.dtype) -> Tensor:
        """See `Bias`. Computed in float32 or wider; the value at EMPTY positions has no meaning."""
        distance = (q_positions[:, None, :, None] - k_positions[:, :, None, :]).abs()  # (B or 1, G or 1, T, S)
        slopes = self.slopes.to(distance.device, torch.promote_types(dtype, torch.float32)).view(
            distance.shape[1], -1, 1, 1
        )
        return (-slopes * distance[:, :, None]).flatten(1, 2).to(dtype)


def no_bias(q_positions: Tensor, k_positions: Tensor, dtype: torch.dtype) -> float:
    """The `Bias` that adds nothing."""
    return 0.0


class PositionalEncoding(NamedTuple):
    """The parts of a model that depend on positions; at most one of the three does anything."""

    embed: nn.Module  # positions (B or 1, T) -> vectors added to the token embeddings, (B or 1, T, D)
    rotate: Rotate  # turns queries and keys
    score_bias: Bias


class Sizes(NamedTuple):
    """The sizes that positional encodings are built from."""

    context_length: int
    d_model: int
    n_heads: int
    d_head: int
    base: float = 10000.0  # of rotary positions
    scaling: Scaling = UNSCALED  # of rotary positions


POSITIONS: dict[str, Callable[[Sizes], PositionalEncoding]] = {
    "rotary": lambda s: PositionalEncoding(
        NoPositions(), Rotary(s.d_head, s.context_length, s.base, s.scaling), no_bias
    ),
    "learned": lambda s: PositionalEncoding(LearnedPositions(s.context_length, s.d_model), no_rotation, no_bias),
    "sinusoidal": lambda s: PositionalEncoding(SinusoidalPositions(s.context_length, s.d_model), no_rotation, no_bias),
    "alibi": lambda s: PositionalEncoding(NoPositions(), no_rotation, Alibi(s.n_heads)),
    "none": lambda s: PositionalEncoding(NoPositions(), no_rotation, no_bias),
}


def _slopes(n_heads: int) -> Tensor:
    """2^(-8/n), 2^(-16/n), ..., 2^-8, float64."""
    return 2.0 ** (-8 * torch.arange(1, n_heads + 1, dtype=torch.float64, device="cpu") / n_heads)


def _angles(n_positions: int, frequencies: Tensor) -> Tensor:
    """position * frequency, float64: (n_positions, K / 2)."""
    return torch.outer(torch.arange(n_positions, dtype=torch.float64, device="cpu"), frequencies)
