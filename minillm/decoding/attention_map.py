"""Attention maps: the attention weight of each query token on each key token, as text and as a picture.

Rows are query tokens and columns are key tokens; the weights of a row sum to 1. `self_attention` computes the maps of
any model with self-attention. In a translation model the large weights form an alignment of the two languages, although
no alignment is given in training (Bahdanau et al. 2015); where the word order differs, they leave the diagonal. Read
before: `layers/attention.py`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from minillm.cache.kv_cache import NO_CACHE, KVCache, KVView, Positions, Rotate, Weigh
from minillm.layers.attention import Attention

N_STRONGEST = 3  # columns listed for each row of a long text
SIDE = 20.0  # maximum width and height of one picture, in inches


class AttentionMap(NamedTuple):
    """The attention weights of one text."""

    rows: list[str]  # texts of the query tokens, T of them
    columns: list[str]  # texts of the key tokens, S of them
    weights: Tensor  # (L, H, T, S)

    def choose(self, layer: int, head: int) -> tuple[Tensor, str]:
        """Select a layer and a head: weights (L', T, S), and a description of the choice.

        Both count from 1. layer 0: all layers; head 0: the mean over heads. Raises ValueError as `check_choice` does.
        """
        L, H = self.weights.shape[:2]
        check_choice(layer, head, L, H)
        weights = self.weights[:, head - 1] if head else self.weights.mean(1)
        weights = weights[layer - 1 : layer] if layer else weights
        return weights, f"layer {layer or L} of {L}, {f'head {head} of {H}' if head else f'mean over {H} heads'}"


def check_choice(layer: int, head: int, n_layers: int, n_heads: int) -> None:
    """Raise ValueError for a layer or a head, counted from 1, that the model does not have; 0 means all."""
    for name, value, n in (("layer", layer, n_layers), ("head", head, n_heads)):
        if not 0 <= value <= n:
            raise ValueError(
                f"attention {name} = {value}: expected at most {n}, as many as the model has; choose from 1 to {n}"
            )


class _Watched:
    """A cache around the one of a layer that records the weights of its last read, for all queries or the last ones.

    Virtual tokens of an adapter, which stand before the text, have no columns.
    """

    def __init__(self, n_last: int | None) -> None:
        self.queries = slice(None if n_last is None else -n_last, None)
        self.rest: KVCache = NO_CACHE
        self.weights = torch.empty(0)  # (B, H, T, T)

    def put_around(self, _: nn.Module, args: tuple) -> tuple:
        """Replace the cache among the arguments of an attention."""
        self.rest = args[2]
        return *args[:2], self, *args[3:]

    def extend(self, k: Tensor, v: Tensor, positions: Positions, rotate: Rotate) -> KVView:
        """See `KVCache.extend`."""
        self.n_own = k.shape[2]
        return self.rest.extend(k, v, positions, rotate)._replace(observe=self._observe)

    def _observe(self, weigh: Weigh, q: Tensor, positions: Tensor) -> None:
        self.weights = weigh(q[:, :, self.queries], positions[:, self.queries])[..., -self.n_own :]


def attentions(model: nn.Module) -> list[Attention]:
    """The attention of each layer, in order."""
    return [module for module in model.modules() if isinstance(module, Attention)]


def attends(model: nn.Module) -> bool:
    """Whether a model has attention."""
    return bool(attentions(model))


@torch.no_grad()
def self_attention(model: nn.Module, tokens: Tensor, layer: int = 0, n_last: int | None = None) -> Tensor:
    """The self-attention weights of each layer for tokens (B, T): (L, B, H, T, T).

    layer: only this one, counted from 1; 0: all. n_last: only for this many queries, the last ones; None: for all.
    """
    layers = attentions(model)[layer - 1 if layer else 0 : layer or None]
    watched = [_Watched(n_last) for _ in layers]
    hooks = [layer.register_forward_pre_hook(each.put_around) for layer, each in zip(layers, watched, strict=True)]
    try:
        model(tokens)
    finally:
        for hook in hooks:
            hook.remove()
    return torch.stack([each.weights for each in watched])


def strongest(rows: Sequence[str], columns: Sequence[str], weights: Tensor, n: int = N_STRONGEST) -> str:
    """weights (T, S) as text: each row with its n largest weights, and the text and number of their columns."""
    side = max(map(len, rows))
    best = weights.topk(min(n, weights.shape[1]))
    lines = []
    for number, (row, values, places) in enumerate(zip(rows, best.values.tolist(), best.indices.tolist(), strict=True)):
        cells = "   ".join(
            f"{value:.2f} {columns[i]} [{i}]" for value, i in zip(values, places, strict=True) if value > 0
        )
        lines.append(f"{number:>4}  {row:<{side}}  {cells}")
    return "\n".join(lines)


def table(rows: Sequence[str], columns: Sequence[str], weights: Tensor) -> str:
    """weights (T, S) as a table, the largest of each row in brackets."""
    side = max(map(len, rows))
    widths = [max(len(column), 4) + 1 for column in columns]
    lines = [" " * side + "".join(f"{column:>{width}} " for column, width in zip(columns, widths, strict=True))]
    for row, values in zip(rows, weights.tolist(), strict=True):
        cells = [f"[{value:.2f}]" if value == max(values) else f"{value:.2f} " for value in values]
        lines.append(
            f"{row:<{side}}" + "".join(f"{cell:>{width + 1}}" for cell, width in zip(cells, widths, strict=True))
        )
    return "\n".join(lines)


def save_heat_maps(rows: Sequence[str], columns: Sequence[str], weights: Tensor, path: Path, first: int = 1) -> bool:
    """Save weights (L, T, S) as heat maps side by side, one for each layer, numbered from `first`.

    Returns False, and saves nothing, if matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        return False
    width, height = min(0.5, SIDE / len(columns)), min(0.4, SIDE / len(rows))  # inches of a cell
    figure = Figure(figsize=(1 + width * len(columns) * len(weights), 1.5 + height * len(rows)), layout="constrained")
    FigureCanvasAgg(figure)
    for i, (axes, layer) in enumerate(
        zip(figure.subplots(1, len(weights), squeeze=False)[0], weights, strict=True), first
    ):
        axes.imshow(layer.tolist(), cmap="Greys", vmin=0, vmax=1, aspect="auto")
        axes.set_title(f"layer {i}")
        axes.set_xticks(
            range(len(columns)), columns, rotation=60 if width > 0.2 else 90, ha="right", fontsize=min(10, 60 * width)
        )
        axes.set_yticks(range(len(rows)), rows, fontsize=min(10, 60 * height))
    figure.savefig(path, dpi=120)
    return True
