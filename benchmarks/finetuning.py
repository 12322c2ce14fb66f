"""The gain from pre-training for a classifier: python -m benchmarks.finetuning [--seeds 3]

Trains encoder-tiny on masked tokens, and then configs/encoder-ending.toml twice: from those weights, and from random
ones. Both train on the same few hundred labelled stories for as many steps; accuracies are on held-out stories, where a
guess is right half of the time.
"""

import tempfile
from pathlib import Path

from benchmarks.figures import measure_training
from benchmarks.record import record
from minillm.config.flags import Parser


def main() -> None:
    """Train, compare, and record."""
    parser = Parser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=1, help="repeats of both, each with another seed")
    args = parser.parse()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        encoder = measure_training("encoder-tiny", 0, folder, [])
        record("encoder-tiny", [encoder])
        ways = {"fine_tuned": ["--init-from", str(folder / "encoder-tiny-0")], "from_nothing": []}
        rows = []
        for way in ways:
            (folder / way).mkdir()
        for seed in range(args.seeds):
            found = {way: measure_training("encoder-ending", seed, folder / way, more) for way, more in ways.items()}
            rows.append({f"{way}_accuracy": result["test_accuracy"] for way, result in found.items()})
        record("finetuning", rows)


if __name__ == "__main__":
    main()
