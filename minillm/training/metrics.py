"""The log of a run: metrics.jsonl, with one JSON object per line.

A resumed run continues from its last checkpoint and repeats the steps after it, so rows of later steps are dropped.
Next: `curves`, which draws the log.
"""

import json
from pathlib import Path
from typing import Any, TextIO

from minillm.system.atomic import write_atomically


class MetricsLog:
    """metrics.jsonl of one run; every row has a "step"."""

    def __init__(self, path: Path, last_step: int = 0):
        """Open the log; rows after `last_step`, from which the run resumes, and an incomplete line are dropped."""
        self.path = path
        rows = [row for row in read_metrics(path) if row["step"] <= last_step]
        write_atomically(path, "".join(json.dumps(row) + "\n" for row in rows).encode())

    def write(self, row: dict[str, Any]) -> None:
        """Append one row."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The rows of a metrics.jsonl, without an incomplete last line; [] if there is no file."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


def read_summary(run: Path) -> dict[str, Any]:
    """The summary.json of a run, its final figures on all held-out text; {} before the run has ended."""
    path = run / "summary.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def told(metrics: dict[str, float]) -> dict[str, str]:
    """Format metrics for the console; the regret is given in percent of the source's own loss, the entropy."""
    texts = {name: f"{value:.4f}" if isinstance(value, float) else str(value) for name, value in metrics.items()}
    for name in metrics:
        if name.endswith("regret"):
            texts[name] = f"{100 * metrics[name] / metrics[name.replace('regret', 'source_loss')]:.1f} %"
    return texts


class PlainLines:
    """A text stream for progress bars without a terminal: each new state is a line, blank ones are dropped."""

    def __init__(self, stream: TextIO):
        self.stream = stream

    def write(self, text: str) -> None:
        """Write one state without the carriage returns that would go back to the beginning of a line."""
        if line := text.replace("\r", "").strip():
            self.stream.write(line + "\n")

    def flush(self) -> None:
        """See `TextIO.flush`."""
        self.stream.flush()
