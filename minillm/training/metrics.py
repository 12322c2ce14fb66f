"""What a run says about itself: one JSON object a line in metrics.jsonl, and the same as a curve.

The log can be cut back to a step, because a run that was killed goes on from its last checkpoint and repeats what came after.
"""

import json
from pathlib import Path
from typing import Any, TextIO

from minillm.datasets.atomic import write_atomically


class MetricsLog:
    """metrics.jsonl of one run; every row has a "step"."""

    def __init__(self, path: Path, last_step: int = 0):
        """Rows after `last_step` (the step that the run goes on from) are dropped, and so is a line that was cut short."""
        self.path = path
        rows = [row for row in read_metrics(path) if row["step"] <= last_step]
        write_atomically(path, "".join(json.dumps(row) + "\n" for row in rows).encode())

    def write(self, row: dict[str, Any]) -> None:
        """Append one row."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The rows of a metrics.jsonl, without a last line that was cut short; none where there is no file."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


def told(metrics: dict[str, float]) -> dict[str, str]:
    """Metrics as people read them: the regret in percent of the source's own loss, which nothing can take away."""
    texts = {name: f"{value:.4f}" if isinstance(value, float) else str(value) for name, value in metrics.items()}
    for name in metrics:
        if name.endswith("regret"):
            texts[name] = f"{100 * metrics[name] / metrics[name.replace('regret', 'source_loss')]:.1f} %"
    return texts


class PlainLines:
    """A text stream for progress bars where no terminal is: each new state is a line, and blank ones are dropped."""

    def __init__(self, stream: TextIO):
        self.stream = stream

    def write(self, text: str) -> None:
        """Write one state without the carriage returns that would go back to the beginning of a line."""
        if line := text.replace("\r", "").strip():
            self.stream.write(line + "\n")

    def flush(self) -> None:
        """See `TextIO.flush`."""
        self.stream.flush()


def terminal_plot(curves: dict[str, list[tuple[int, float]]], width: int = 72, height: int = 12) -> str:
    """Curves of (step, value) as text: one mark a curve, the range on the left, the steps below."""
    points = [(x, y, name[0]) for name, curve in curves.items() for x, y in curve]
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
    legend = ", ".join(f"{name[0]} = {name}" for name in curves)
    axis = f"{'':9}+{'-' * width}\n{'':10}{x_low:<{width // 2}}{x_high:>{width - width // 2}}"
    return "\n".join([*(label + "".join(line) for label, line in zip(labels, grid, strict=True)), axis, f"{'':10}{legend} over steps"])


def save_plot(curves: dict[str, list[tuple[int, float]]], path: Path) -> bool:
    """The curves as a picture; False where matplotlib is not installed."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        return False
    figure = Figure(figsize=(7, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot(xlabel="step", ylabel="nats per token")
    for name, curve in curves.items():
        axes.plot(*zip(*curve, strict=True), label=name, alpha=0.5 if len(curve) > 100 else 1.0)
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)
    return True
