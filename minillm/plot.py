"""Plot the losses of one run, or compare several runs (python -m minillm.plot RUN [RUN ...] [--out FILE]).

For one run the terminal shows its training and validation loss; for several, the training loss of each and a table with
one line per run. With matplotlib (pip install -e ".[plots]") a picture is saved too; it has the validation losses of
all runs.
"""

import sys
from pathlib import Path

from minillm.config.flags import Parser
from minillm.training.curves import TITLES, Curve, curves_of, save_plot, terminal_plot
from minillm.training.metrics import read_metrics, read_summary

TRAINING, VALIDATION = TITLES["loss"], TITLES["val_loss"]


def main(argv: list[str] | None = None) -> int:
    """Parse the command line and draw; return the exit status."""
    parser = Parser(prog="python -m minillm.plot", description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folder of a run; several runs are compared")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="the picture; default: loss.png in the run's folder, losses.png for several",
    )
    args = parser.parse(argv)
    try:
        print(draw(args.runs, args.out))
    except (ValueError, OSError) as e:
        print(f"plot: {e}", file=sys.stderr)
        return 2
    return 0


def draw(runs: list[Path], out: Path | None = None) -> str:
    """Save the picture; return the terminal plot and a line that says where the picture is. Raises ValueError."""
    names = [run.resolve().name for run in runs]
    if len(set(names)) < len(names):
        names = [str(run) for run in runs]
    rows = {name: read_rows(run) for name, run in zip(names, runs, strict=True)}
    curves = {name: curves_of(each) for name, each in rows.items()}
    summaries = {name: read_summary(run) for name, run in zip(names, runs, strict=True)}
    floors = {summary.get("source_loss") for summary in summaries.values()}
    if len(runs) == 1:
        [shown], table, place = curves.values(), [], out or runs[0] / "loss.png"
        pictured = shown
    else:
        shown = {name: each[TRAINING] for name, each in curves.items() if TRAINING in each}
        table, place = [compare(rows, summaries)], out or Path("losses.png")
        pictured = {f"{name}, {title}": curve for name, each in curves.items() for title, curve in each.items()}
    floor = floors.pop() if len(floors) == 1 else None
    saved = save_plot(pictured, place, floor)
    where = (
        f"picture in {place}" if saved else 'no picture, since matplotlib is not installed; pip install -e ".[plots]"'
    )
    return "\n".join([terminal_plot(shown), *table, where])


def read_rows(run: Path) -> list[dict]:
    """The rows of a run's metrics.jsonl. Raises ValueError if there are none."""
    rows = read_metrics(run / "metrics.jsonl")
    if not rows:
        raise ValueError(
            f"{run}: expected the folder of a run with rows in metrics.jsonl; name one in runs/, or train one first"
        )
    return rows


def compare(rows: dict[str, list[dict]], summaries: dict[str, dict]) -> str:
    """One line per run: steps, training seconds, last training loss, best validation loss, and final bits per byte.

    Losses per token are comparable only between runs with the same tokenizer; bits per byte, between all runs on the
    same text.
    """
    width = max(map(len, rows))
    lines = [f"{'run':<{width}}  {'steps':>7}  {'seconds':>8}  {'training':>9}  {'validation':>10}  {'bits/byte':>9}"]
    for name, each in rows.items():
        curves = curves_of(each)
        best = min((row for row in each if "val_loss" in row), key=lambda row: row["val_loss"], default={})
        seconds = max((row["seconds"] for row in each if "seconds" in row), default=0.0)
        cells = [
            last(curves.get(TRAINING, [])),
            number(best.get("val_loss")),
            number(summaries[name].get("bits_per_byte")),
        ]
        lines.append(
            f"{name:<{width}}  {each[-1]['step']:>7}  {seconds:>8.1f}  {cells[0]:>9}  {cells[1]:>10}  {cells[2]:>9}"
        )
    return "\n".join(lines)


def last(curve: Curve) -> str:
    """The last value of a curve."""
    return number(curve[-1][1] if curve else None)


def number(value: float | None) -> str:
    """A number for the table, or a dash for None."""
    return "-" if value is None else f"{value:.4f}"


if __name__ == "__main__":
    sys.exit(main())
