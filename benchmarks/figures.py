"""Measure the figures that the README and the configs promise: python -m benchmarks.figures gpt-tiny gpt-nano --seeds 3

Each training is the command that a user types, timed from start to end in its own process. The results are recorded in
benchmarks/figures.json, one entry per name, and `python -m benchmarks.readme` copies them into the README.
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.record import ROOT, record
from benchmarks.timing import with_bytecode
from minillm.config.flags import Parser
from minillm.datasets.stories import World
from minillm.decoding.sampler import SamplingConfig
from minillm.runs import folder
from minillm.text.model import TextModel


def measure_training(config: str, seed: int, to: Path, more: list[str], valid: bool = True) -> dict[str, float]:
    """Train a config: the figures of its summary, its seconds, and with `valid` the percent of valid stories."""
    path = to / f"{config}-{seed}"
    began = time.perf_counter()
    command = [sys.executable, ROOT / "train.py", "--config", config, "--train.run", path, "--train.seed", seed, *more]
    subprocess.run(
        [str(word) for word in command], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=to
    )
    result = {"seconds": time.perf_counter() - began, **json.loads((path / "summary.json").read_text())}
    if "regret" in result:
        result["regret_percent"] = 100 * result["regret"] / result["source_loss"]
        result |= {"valid_percent": 100 * valid_stories(path)} if valid else {}
    return result


def valid_stories(path: Path, n: int = 200, top_p: float = 0.9) -> float:
    """The share of n sampled texts of a run that are whole stories of the world."""
    opened = folder.open_run(path)
    return valid_share(opened.text, opened.config.model.context_length, n, top_p)


def valid_share(text: TextModel, limit: int, n: int, top_p: float = 0.9) -> float:
    """The share of n sampled texts of a model, of at most `limit` tokens, that are whole stories of the world."""
    world, sampling = World(), SamplingConfig(top_p=top_p)
    texts = text.generate([""] * n, sampling, max_new_tokens=limit, seeds=range(n))
    return sum(each.reason == "end" and world.is_valid(each.text) for each in texts) / n


def measure_cold_start(path: Path, to: Path) -> dict[str, float]:
    """Seconds from `python sample.py` to the first and the last character of the text, with bytecode cached."""
    began = time.perf_counter()
    command = [sys.executable, str(ROOT / "sample.py"), "--run", str(path), "--top-p", "0.9", "--stream"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=to, env=with_bytecode(to / "bytecode")) as process:
        process.stdout.readline()  # the sampling pipeline
        process.stdout.readline()  # an empty line
        process.stdout.read(1)
        first = time.perf_counter() - began
        process.stdout.read()
    return {"first_character_seconds": first, "seconds": time.perf_counter() - began}


def main() -> None:
    """Measure the named figures and record them."""
    parser = Parser(description=__doc__)
    parser.add_argument("names", nargs="+", help="configs to train, or cold-start (after gpt-tiny, on its run)")
    parser.add_argument("--seeds", type=int, default=1, help="repeats, each with another seed")
    parser.add_argument(
        "--corpus", help="a file to train on instead of the config's corpus, such as a copy of tiny Shakespeare"
    )
    args = parser.parse()
    more = ["--data.corpus", str(Path(args.corpus).resolve())] if args.corpus else []
    with tempfile.TemporaryDirectory() as place:
        to = Path(place)
        for name in args.names:
            if name == "cold-start":
                path = to / "gpt-tiny-0"
                if not path.exists():
                    measure_training("gpt-tiny", 0, to, ["--train.max_steps", "20"])
                measure_cold_start(path, to)  # writes the bytecode cache
                results = [measure_cold_start(path, to) for _ in range(max(args.seeds, 3))]
            else:
                results = [measure_training(name, seed, to, more) for seed in range(args.seeds)]
            record(name, results)


if __name__ == "__main__":
    main()
