"""Run every benchmark in its own process, one after the other: python -m benchmarks [--only NAME ...] [--runs DIR]

Results go to benchmarks/figures.json and benchmarks/ladder.json; at the end README.md and benchmarks/figures.md are
generated from them. A benchmark that fails does not stop the others, and is named at the end. All of them take hours.
"""

import re
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks import readme
from benchmarks.record import ROOT
from minillm.config.flags import Parser
from minillm.runs.config import load_config

COMMANDS = {  # name -> module and arguments; {runs}: folder of runs, {corpus}: flag for tiny Shakespeare, if given
    "adapters": "adapters --run {runs}/gpt-tiny --seeds 3",
    "allocator": "allocator",
    "attention": "attention",
    "beam": "beam",
    "cache-frontier": "cache_frontier --seeds 3",
    "chat-model": "chat_model",
    "cold-start": "figures gpt-tiny cold-start --seeds 3",
    "data-cleaning": "data_cleaning --seeds 3",
    "decode": "decode",
    "distillation": "distillation --teacher {runs}/gpt-tiny --seeds 3",
    "engine": "engine",
    "figures": "figures gpt-stories gpt-docs ngram-tiny translate-tiny",
    "finetuning": "finetuning --seeds 3",
    "head": "head",
    "imports": "imports",
    "kernels": "kernels",
    "ladder": "ladder --seconds 40 --write",
    "lora": "lora --run {runs}/gpt-tiny --seeds 3",
    "moe": "moe",
    "ngram": "ngram",
    "recurrent": "recurrent --repeats 31",
    "shakespeare": "figures gpt-shakespeare gpt-nano --seeds 3{corpus}",
    "shakespeare-race": "shakespeare --steps 130 --look-every 5 --classic-steps 2000{corpus}",
    "specialization": "specialization",
    "speculative": "speculative --precision bf16 --run {runs}/gpt-target --draft {runs}/gpt-draft",
    "speculative-distilled": "speculative --precision bf16 --run {runs}/gpt-target --draft {runs}/gpt-draft-distilled "
    "--name speculative-distilled",
    "throughput": "throughput",
    "tuning": "tuning --seeds 3",
    "tokenizers": "tokenizers",
    "weights": "weights",
    "weights-loss": "weights --run {runs}/gpt-tiny",
}


def trained(command: str) -> list[str]:
    """Configs whose runs a command needs."""
    return re.findall(r"\{runs\}/(\S+)", command)


def words(command: str, runs: Path, corpus: str | None) -> list[str]:
    """The command of a benchmark, as a list of words."""
    given = f" --corpus {shlex.quote(corpus)}" if corpus else ""
    return [
        sys.executable,
        "-m",
        *shlex.split("benchmarks." + command.format(runs=shlex.quote(str(runs)), corpus=given)),
    ]


def training(run: str, runs: Path) -> list[str]:
    """The command that trains a config, beside companions from the same folder of runs."""
    beside = load_config(run).task.companions()
    where = [word for key, one in beside.items() for word in (f"--task.{key}", str(runs / Path(one.run).name))]
    return [sys.executable, "train.py", "--config", run, *where, "--train.run", str(runs / run)]


def succeeds(command: list[str]) -> bool:
    """Run a command; return whether its exit status is 0."""
    print(f"\n$ {shlex.join(command)}", flush=True)
    return subprocess.run(command, cwd=ROOT).returncode == 0


def measure(names: list[str], runs: Path, corpus: str | None) -> list[str]:
    """Run the named benchmarks, after training missing runs; return the names of those that failed."""
    failed = []
    for name in names:
        missing = [run for run in trained(COMMANDS[name]) if not (runs / run / "summary.json").exists()]
        train = [training(run, runs) for run in missing]
        if not all(map(succeeds, [*train, words(COMMANDS[name], runs, corpus)])):
            failed.append(name)
    return failed


def main() -> None:
    """Measure, write the tables, and print the failures."""
    parser = Parser(description=__doc__)
    parser.add_argument(
        "--only", nargs="+", choices=COMMANDS, default=list(COMMANDS), metavar="NAME", help=", ".join(COMMANDS)
    )
    parser.add_argument(
        "--skip", nargs="+", choices=COMMANDS, default=[], metavar="NAME", help="benchmarks to leave out"
    )
    parser.add_argument(
        "--runs", type=Path, help="folder of trained runs, each named after its config; missing ones are trained"
    )
    parser.add_argument("--corpus", help="a copy of tiny Shakespeare; default: downloaded once")
    args = parser.parse()
    names = [name for name in args.only if name not in args.skip]
    with tempfile.TemporaryDirectory() as folder:
        runs = (args.runs or Path(folder)).resolve()
        failed = measure(names, runs, args.corpus and str(Path(args.corpus).resolve()))
    readme.main()
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
