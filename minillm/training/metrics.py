"""The log of a run: one JSON object a line in metrics.jsonl.

The log can be cut back to a step, because a run that was killed goes on from its last checkpoint and repeats what came
after. Next: `curves`, which draws it.
"""

import json
from pathlib import Path
from typing import Any, TextIO

from minillm.system.atomic import write_atomically


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


def read_summary(run: Path) -> dict[str, Any]:
    """The summary.json of a run: its final figures on all held-out text. Empty before the run has ended."""
    path = run / "summary.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def told(metrics: dict[str, float]) -> dict[str, str]:
    """Metrics as people read them: the regret in percent of the source's own loss, the irreducible entropy."""
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
