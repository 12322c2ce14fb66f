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
    "encoder-tiny": [
        ("`train.py --config encoder-tiny`", "seconds", "{:.0f} s"),
        ("blanks of held-out stories that it fills in rightly", "test_masked_accuracy", "{:.1%}"),
    ],
    "finetuning": [
        ("endings that it tells after fine-tuning on 400 stories (`benchmarks.finetuning`)", "fine_tuned_accuracy", "{:.1%}"),
        ("the same from nothing, without what it learned from blanks", "from_nothing_accuracy", "{:.1%}"),
    ],
    "moe": [
        ("loss of 8 experts, 2 for each token, after 400 steps (`benchmarks.moe`)", "experts_loss", "{:.3f}"),
        ("loss of the dense model with as many active parameters", "dense_loss", "{:.3f}"),
        ("time of a step with experts over that of the dense model", "time_ratio", "{:.2f} x"),
    ],
    "specialization": [
        ("bits that an expert tells about the source of its tokens, of 1.58 (`benchmarks.specialization`)", "none_bits", "{:.2f}"),
        ("with a balancing loss", "loss_bits", "{:.2f}"),
        ("with a balancing bias", "bias_bits", "{:.2f}"),
    ],
    "lora": [
        ("loss on a new kind of story after 300 steps of an adapter (`benchmarks.lora`)", "LoRA_diary", "{:.3f}"),
        ("the same with all weights", "full_diary", "{:.3f}"),
        ("parameters that the adapter trains", "LoRA_share", "{:.2f} %"),
    ],
    "recurrent-lstm": [("training throughput of an LSTM, 2 x 256, over `torch.nn.LSTM`'s (`benchmarks.recurrent`)", "ratio", "{:.2f} x")],
    "recurrent-gru": [("of a GRU over `torch.nn.GRU`'s", "ratio", "{:.2f} x")],
    "recurrent-rnn": [("of a vanilla network over `torch.nn.RNN`'s", "ratio", "{:.2f} x")],
    "ngram-counting": [
        ("10 million tokens counted to order 5 (`benchmarks.ngram`)", "seconds", "{:.0f} s"),
        ("memory of the whole process then", "peak_megabytes", "{:.0f} MB"),
    ],
    "allocator": [("time of a training step where freed memory is kept, over one where it is not", "time_share", "{:.2f} x")],
    "head": [("memory of head and cross-entropy at vocabulary 50,000 over torch's (`benchmarks.head`)", "memory_share", "{:.2f}")],
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
