"""Loss curves of a run, drawn as text for the terminal and as a picture for the run's folder.

A curve is a list of (step, value). If the entropy of the text's source is known, the picture shows it as a line: it is
the irreducible loss, the lowest that any model can reach. Read `metrics` before.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

Curve = Sequence[tuple[int, float]]

TITLES = {"loss": "training loss", "val_loss": "validation loss"}  # key of a row of metrics.jsonl -> name of its curve
SPARE_MARKS = "ox+*#@%&=~123456789"


def curves_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, Curve]:
    """The curves in rows of metrics.jsonl, by title; values that are not finite are left out."""
    curves = {
        title: [(row["step"], row[name]) for row in rows if math.isfinite(row.get(name, math.nan))]
        for name, title in TITLES.items()
    }
    return {title: curve for title, curve in curves.items() if curve}


def terminal_plot(curves: Mapping[str, Curve], width: int = 72, height: int = 12) -> str:
    """Draw curves as text: one mark per curve, the range of values on the left, the steps below.

    >>> print(terminal_plot({"loss": [(0, 3.0), (1, 2.0), (2, 1.0)]}, width=5, height=3))
       3.000 |l
       2.000 |  l
       1.000 |    l
             +-----
              0   2
              l = loss over steps
    """
    points = [(x, y, mark) for mark, curve in zip(marks(list(curves)), curves.values(), strict=True) for x, y in curve]
    if len(points) < 2:
        return "(too few points for a plot)"
    x_low, x_high = min(x for x, _, _ in points), max(x for x, _, _ in points)
    y_low, y_high = min(y for _, y, _ in points), max(y for _, y, _ in points)
    grid = [[" "] * width for _ in range(height)]
    for x, y, mark in points:
        column = round((x - x_low) / max(x_high - x_low, 1) * (width - 1))
        row = round((y_high - y) / max(y_high - y_low, 1e-12) * (height - 1))
        grid[row][column] = mark
    labels = [f"{y_high - (y_high - y_low) * i / (height - 1):8.3f} |" for i in range(height)]
    body = [(label + "".join(line)).rstrip() for label, line in zip(labels, grid, strict=True)]
    legend = ", ".join(f"{mark} = {name}" for mark, name in zip(marks(list(curves)), curves, strict=True))
    steps = f"{x_low}{x_high:>{width - len(str(x_low))}}"
    return "\n".join([*body, f"{'':9}+{'-' * width}", f"{'':10}{steps}", f"{'':10}{legend} over steps"])


def marks(names: Sequence[str]) -> list[str]:
    """One character for each name, all different: its first letter, or a spare sign if that is taken.

    >>> marks(["training loss", "validation loss", "test loss"])
    ['t', 'v', 'o']
    """
    taken: list[str] = []
    for name in names:
        taken.append(next((mark for mark in name[:1] + SPARE_MARKS if mark not in taken), "?"))
    return taken


def save_plot(curves: Mapping[str, Curve], path: Path, floor: float | None = None) -> bool:
    """Save curves as a picture; returns False without matplotlib. `floor`: entropy of the source, drawn as a line."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        return False
    figure = Figure(figsize=(7, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot(xlabel="step", ylabel="nats per token")
    for name, curve in curves.items():
        few = len(curve) <= 40
        axes.plot(*zip(*curve, strict=True), label=name, marker="o" if few else "", alpha=1.0 if few else 0.6)
    if floor is not None:
        axes.axhline(floor, color="black", linestyle=":", label=f"entropy of the source, {floor:.3f}")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)
    return True
