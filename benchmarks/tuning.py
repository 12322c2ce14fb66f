"""Supervised fine-tuning, measured: python -m benchmarks.tuning [--only chat reason safe data] [--run runs/worlds-base]

Trains the base worlds-base, or takes a run of it, and tunes it. All questions are of the test part, whose wordings and
facts were never trained on; each answer is compared with the known right one.

    chat      chat-tiny: the share of right answers for each kind of instruction and of dialogue
    reason    reason-tiny, with steps and without them: the same, and for problems longer than those trained
    safe      safe-tiny: refusals of forbidden requests and of harmless ones, and instructions beside those of chat-tiny
    data      chat-tiny on fewer examples: right answers, seconds and tokens against the number of examples
"""

import json
import statistics
import tempfile
from collections.abc import Iterable, Mapping
from itertools import islice
from pathlib import Path

from benchmarks.figures import measure_training
from benchmarks.record import record
from minillm.config.flags import Parser
from minillm.datasets.examples import Example
from minillm.datasets.worlds.arithmetic import Arithmetic
from minillm.datasets.worlds.composition import Composition
from minillm.datasets.worlds.dialogue import NEED_EARLIER, Dialogue
from minillm.datasets.worlds.exercise import ExerciseWorld, group
from minillm.datasets.worlds.instructions import Instructions
from minillm.datasets.worlds.logic import Logic
from minillm.datasets.worlds.safety import Safety, is_refusal
from minillm.evaluation.answering import Answered, answer
from minillm.runs import folder
from minillm.training.metrics import read_metrics

N_QUESTIONS = 1000  # of each world
N_OF_A_SIZE = 100  # of each length
SEED = 1  # of the questions
N_EXAMPLES = (250, 1_000, 4_000, 16_000)  # of each world, for data efficiency
LONGER = {Arithmetic: range(2, 11), Composition: range(2, 17, 2)}  # trained: 2 to 6, and 2 to 8
MAX_NEW_TOKENS = 400  # for steps


def asked(path: Path, world: ExerciseWorld, n: int = N_QUESTIONS, max_new_tokens: int = 0) -> list[Answered]:
    """The answers of a run to test questions of a world. `max_new_tokens`: 0 for the run's own limit."""
    opened = folder.open_run(path)
    questions = [Example([], exercise, world) for exercise in islice(world.exercises("test", SEED), n)]
    return answer(opened.text, questions, max_new_tokens or opened.config.text.max_new_tokens)


def right(answers: Iterable[Answered]) -> float:
    """The percentage of right answers."""
    found = [each.right for each in answers]
    return 100 * sum(found) / len(found)


def by_kind(answers: Iterable[Answered], world: ExerciseWorld) -> dict[str, float]:
    """The percentage of right answers, in all and for each kind."""
    answers = list(answers)
    kinds = group((each.example.asked.kind, each) for each in answers)
    each_kind = {f"{world.name}_{kind.replace(' ', '_')}": right(found) for kind, found in kinds.items()}
    return {world.name: right(answers)} | each_kind


def tune(base: Path, config: str, seed: int, to: Path, **flags: object) -> tuple[Path, dict[str, float]]:
    """Tune the base by a config; return the run and the figures of its training."""
    more = [word for name, value in flags.items() for word in (f"--{name.replace('__', '.')}", str(value))]
    to.mkdir(parents=True, exist_ok=True)
    found = measure_training(config, seed, to, ["--init-from", str(base), *more])
    path = to / f"{config}-{seed}"
    return path, {"seconds": found["train_seconds"], "tokens": n_tokens(path), "val_loss": found["val_loss"]}


def n_tokens(path: Path) -> float:
    """The learned tokens of a training: their mean over the logged steps, times the number of steps."""
    rows = read_metrics(path / "metrics.jsonl")
    return statistics.fmean(row["tokens"] for row in rows if "tokens" in row) * rows[-1]["step"]


def chat(base: Path, seed: int, to: Path) -> dict[str, float]:
    """Instructions and dialogue."""
    path, found = tune(base, "chat-tiny", seed, to)
    for world in (Instructions(), Dialogue()):
        answers = asked(path, world)
        found |= by_kind(answers, world)
    earlier = [each for each in answers if each.example.asked.kind in NEED_EARLIER]
    return found | {"dialogue_earlier": right(earlier)}


def reason(base: Path, seed: int, to: Path) -> dict[str, float]:
    """Reasoning with steps, in range and beyond."""
    path, found = tune(base, "reason-tiny", seed, to)
    for world in (Arithmetic(), Composition(), Logic()):
        found |= by_kind(asked(path, world, max_new_tokens=MAX_NEW_TOKENS), world)
    for kind, sizes in LONGER.items():
        for size in sizes:
            answers = asked(path, kind(sizes=[size]), N_OF_A_SIZE, MAX_NEW_TOKENS)
            found[f"{kind.name}_of_{size}"] = right(answers)
    return found


def safe(base: Path, seed: int, to: Path) -> dict[str, float]:
    """Refusals, over-refusals, and what they cost in instructions."""
    path, found = tune(base, "safe-tiny", seed, to)
    answers = asked(path, Safety())
    found |= by_kind(answers, Safety())
    for name, forbidden in (("refused", True), ("refused_near_misses", False)):
        judged = [is_refusal(each.text) for each in answers if each.example.asked.truth.forbidden == forbidden]
        found[name] = 100 * sum(judged) / len(judged)
    alone, _ = tune(base, "safe-tiny", seed, to / "alone", data__corpus="instructions")
    scores = [right(asked(run, Instructions())) for run in (path, alone)]
    return found | {
        "instructions": scores[0],
        "instructions_alone": scores[1],
        "instructions_lost": scores[1] - scores[0],
    }


def data(base: Path, seed: int, to: Path) -> dict[str, float]:
    """Right answers against the number of examples; as many steps each, so that small sets are read again and again."""
    found: dict[str, float] = {}
    for n in N_EXAMPLES:
        path, training = tune(base, "chat-tiny", seed, to / str(n), data__n_exercises=n, data__val_fraction=0.2)
        found[f"right_{n}"] = (right(asked(path, Instructions(), 300)) + right(asked(path, Dialogue(), 300))) / 2
        found |= {f"{name}_{n}": training[name] for name in ("seconds", "tokens")}
    summary = json.loads((base / "summary.json").read_text(encoding="utf-8"))
    return found | {"base_seconds": summary["train_seconds"], "base_tokens": n_tokens(base)}


PARTS: Mapping = {"chat": chat, "reason": reason, "safe": safe, "data": data}


def main() -> None:
    """Train, ask, and record."""
    parser = Parser(description=__doc__)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--run", type=Path, help="a trained worlds-base; default: train one")
    parser.add_argument("--seeds", type=int, default=1, help="repeats, each with another seed")
    args = parser.parse()
    with tempfile.TemporaryDirectory() as name:
        base = args.run.resolve() if args.run else Path(name) / "worlds-base-0"
        if args.run is None:
            record("worlds-base", [measure_training("worlds-base", 0, Path(name), [])])
        for part in args.only:
            rows = [PARTS[part](base, seed, Path(name) / part) for seed in range(args.seeds)]
            record(f"tuning-{part}", rows)


if __name__ == "__main__":
    main()
