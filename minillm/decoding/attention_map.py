"""What attention looked at, for people: a table of weights in the terminal, and a picture of every layer.

Each row is a token that was written, each column one that could be looked at. In a translator the dark cells are an alignment of the
two languages that nobody taught it (Bahdanau et al. 2015): where the order of words differs, they leave the diagonal.
"""

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor


def table(rows: Sequence[str], columns: Sequence[str], weights: Tensor) -> str:
    """weights (T, S) as text, the largest of each row in brackets."""
    side = max(map(len, rows))
    widths = [max(len(column), 4) + 1 for column in columns]
    lines = [" " * side + "".join(f"{column:>{width}} " for column, width in zip(columns, widths, strict=True))]
    for row, values in zip(rows, weights.tolist(), strict=True):
        cells = [f"[{value:.2f}]" if value == max(values) else f"{value:.2f} " for value in values]
        lines.append(f"{row:<{side}}" + "".join(f"{cell:>{width + 1}}" for cell, width in zip(cells, widths, strict=True)))
    return "\n".join(lines)


def save_heat_maps(rows: Sequence[str], columns: Sequence[str], weights: Tensor, path: Path) -> bool:
    """weights (L, T, S), one picture a layer beside each other; False where matplotlib is not installed."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        return False
    figure = Figure(figsize=(1 + 0.5 * len(columns) * len(weights), 1.5 + 0.4 * len(rows)), layout="constrained")
    FigureCanvasAgg(figure)
    for i, (axes, layer) in enumerate(zip(figure.subplots(1, len(weights), squeeze=False)[0], weights, strict=True), 1):
        axes.imshow(layer.tolist(), cmap="Greys", vmin=0, vmax=1, aspect="auto")
        axes.set_title(f"layer {i}")
        axes.set_xticks(range(len(columns)), columns, rotation=60, ha="right")
        axes.set_yticks(range(len(rows)), rows)
    figure.savefig(path, dpi=120)
    return True
