"""Copy the measured figures into the README: python -m benchmarks.readme

What stands between marks in README.md is generated from the .json files beside this one; a test fails when the two drift apart.
"""

import json
from pathlib import Path

from benchmarks import ladder

ROOT = Path(__file__).resolve().parents[1]
ROWS = {  # name in figures.json -> [(what it is, figure, how it is written)]
    "gpt-tiny": [
        ("`train.py --config gpt-tiny`, from command to prompt", "seconds", "{:.0f} s"),
        ("its regret on held-out stories, in percent of the known entropy", "regret_percent", "{:.1f} %"),
        ("stories sampled with `--top-p 0.9` that are whole and consistent, of 200", "valid_percent", "{:.0f} %"),
    ],
    "gpt-stories": [
        ("`train.py --config gpt-stories`", "seconds", "{:.0f} s"),
        ("its regret", "regret_percent", "{:.1f} %"),
        ("whole and consistent stories, of 200", "valid_percent", "{:.0f} %"),
    ],
    "gpt-docs": [
        ("`train.py --config gpt-docs`", "seconds", "{:.0f} s"),
        ("its bits per byte on held-out manual pages", "bits_per_byte", "{:.2f}"),
    ],
    "gpt-shakespeare": [
        ("`train.py --config gpt-shakespeare`", "seconds", "{:.0f} s"),
        ("its validation loss, nats per character", "val_loss", "{:.3f}"),
    ],
    "gpt-nano": [
        ("`train.py --config gpt-nano`", "seconds", "{:.0f} s"),
        ("its validation loss, nats per character", "val_loss", "{:.3f}"),
    ],
    "ngram-tiny": [
        ("`train.py --config ngram-tiny`", "seconds", "{:.0f} s"),
        ("its regret", "regret_percent", "{:.1f} %"),
    ],
    "translate-tiny": [
        ("`train.py --config translate-tiny`", "seconds", "{:.0f} s"),
        ("held-out sentences that it translates exactly", "test_exact_match", "{:.1%}"),
    ],
    "cold-start": [("`sample.py`, from command to the first character", "first_character_seconds", "{:.1f} s")],
}


def table(figures: dict) -> str:
    """The Markdown table of all that was measured."""
    lines = ["| measured | mean | lowest ... highest | runs |", "|---|---|---|---|"]
    for name, rows in ROWS.items():
        for what, figure, form in rows if name in figures else []:
            x = figures[name]["figures"][figure]
            lines.append(f"| {what} | {form.format(x['mean'])} | {form.format(x['low'])} ... {form.format(x['high'])} | {x['n']} |")
    machines = sorted({entry["machine"] for entry in figures.values()})
    return "\n".join([*lines, "", f"Measured on {'; '.join(machines)}.", ""])


def with_figures(readme: str) -> str:
    """The README with every table that was measured in its place."""
    for name, to_table in {"figures": table, "ladder": ladder.table}.items():
        path = ROOT / "benchmarks" / f"{name}.json"
        head, begin, rest = readme.partition(f"<!-- {name} -->\n")
        if begin and path.exists():
            _, end, rest = rest.partition(f"<!-- /{name} -->")
            readme = head + begin + to_table(json.loads(path.read_text(encoding="utf-8"))) + end + rest
    return readme


def main() -> None:
    """Rewrite README.md."""
    path = ROOT / "README.md"
    path.write_text(with_figures(path.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
