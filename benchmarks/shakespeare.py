"""The speed-up of the fast recipe to a given loss: python -m benchmarks.shakespeare --corpus FILE [--seeds 5]

configs/gpt-shakespeare.toml and the classic recipe of configs/gpt-nano.toml (float32, AdamW) train on tiny Shakespeare
until the loss on the whole validation split is at most 1.886 nats. Evaluations are not timed. Both are trained in one
process for each seed:

    ours       sum of its steps up to the loss, batches included, in the precision that a short trial finds faster
    classic    number of its steps up to the loss, times the median time of those in turns with ours; without batches

The classic recipe continues alone, untimed, once ours is done; --classic-steps gives its number of steps instead. If it
never reaches the loss, all its steps count, and the ratio is a lower limit: its schedule of 2,000 steps ends at 1.90
(see gpt-nano in figures.md).
"""

import argparse
import statistics

from benchmarks.record import record
from benchmarks.throughput import faster
from benchmarks.timing import timed
from minillm.config.flags import Parser, override
from minillm.runs import wiring
from minillm.runs.config import RunConfig, load_config
from minillm.speed.allocator import keep_freed_memory
from minillm.tasks.task import Data


class Trainee:
    """One recipe in training; from one step on it is evaluated at regular intervals, until it reaches the loss."""

    def __init__(self, config: RunConfig, data: Data, loss: float, look_from: int, look_every: int):
        self.max_steps, self.loss, self.look_from, self.look_every = config.train.max_steps, loss, look_from, look_every
        self.batch, self.validation = wiring.build_batches(config, data), wiring.build_validation(config, data)
        self.model = wiring.build_model(config, data.tokenizer.vocab_size)
        self.step, self.n_steps = wiring.build_step(config, self.model), 0

    def advance(self) -> tuple[float, float]:
        """One training step: seconds of making its batch, and of learning from it."""
        batch, cutting = timed(lambda: self.batch(self.n_steps))
        learning = timed(lambda: self.step(batch))[1]
        self.n_steps += 1
        return cutting, learning

    def there(self) -> bool:
        """Whether the loss is reached, evaluated at fixed steps. Exits if it was reached before the first one."""
        past = self.n_steps - self.look_from
        if past < 0 or (past % self.look_every and not self.over()):
            return False
        found = self.validation(self.model)["val_loss"]
        print(f"  step {self.n_steps:>5}  val_loss {found:.4f}", flush=True)
        if found <= self.loss and past == 0 and self.look_from > self.look_every:
            raise SystemExit(f"{found:.4f} at the first look, step {self.n_steps}: look earlier")
        return found <= self.loss

    def over(self) -> bool:
        return self.n_steps == self.max_steps


def race(configs: dict[str, RunConfig], data: Data, args: argparse.Namespace) -> dict[str, float]:
    """Train both: seconds, steps and the ratio."""
    ours = Trainee(configs["ours"], data, args.loss, args.look_from, args.look_every)
    classic = Trainee(configs["classic"], data, args.loss, args.classic_look_from, args.classic_look_every)
    seconds, learning, reached = 0.0, [], False
    while not reached:
        if ours.over():
            raise SystemExit(f"the fast recipe never reached {args.loss}; raise --steps")
        seconds += sum(ours.advance())
        if not classic.over():
            learning.append(classic.advance()[1])
        reached = ours.there()
    classic_reached = bool(args.classic_steps)
    while not classic_reached and not classic.over():
        classic.advance()
        classic_reached = classic.there()
    if not classic_reached:
        print(f"  the classic recipe never reached {args.loss}: all its steps count")
    n_classic = args.classic_steps or classic.n_steps
    classic_seconds = n_classic * statistics.median(learning)
    found = {"seconds": seconds, "classic_seconds": classic_seconds, "ratio": classic_seconds / seconds}
    return found | {"steps": ours.n_steps, "classic_steps": n_classic}


def main() -> None:
    """Race with every seed and record the results."""
    parser = Parser(description=__doc__)
    parser.add_argument("--corpus", default="shakespeare", help="a file with the plays; default: the configs' corpus")
    parser.add_argument("--seeds", type=int, default=5, help="repeats, each with other weights and batches")
    parser.add_argument("--loss", type=float, default=1.886, help="nats per character to reach")
    parser.add_argument("--steps", type=int, help="length of the fast recipe's schedule; default: the config's")
    parser.add_argument("--look-from", type=int, default=100, help="step of the fast recipe's first evaluation")
    parser.add_argument("--look-every", type=int, default=10, help="steps between evaluations")
    parser.add_argument(
        "--classic-look-from", type=int, default=1500, help="step of the classic recipe's first evaluation"
    )
    parser.add_argument("--classic-look-every", type=int, default=50)
    parser.add_argument("--classic-steps", type=int, default=0, help="steps of the classic recipe, if known already")
    args = parser.parse()
    keep_freed_memory()
    both = {"ours": load_config("gpt-shakespeare"), "classic": load_config("gpt-nano")}
    both = {name: override(config, {"data.corpus": args.corpus}) for name, config in both.items()}
    if args.steps:
        both["ours"] = override(both["ours"], {"train.max_steps": str(args.steps)})
    data = wiring.build_data(both["ours"])
    both["ours"] = faster(both["ours"], data.tokenizer.vocab_size, wiring.build_batches(both["ours"], data)(0))
    print(f"the fast recipe in {both['ours'].train.precision}, for {both['ours'].train.max_steps} steps at most")
    rows = []
    for seed in range(args.seeds):
        seeded = {name: override(config, {"train.seed": str(seed)}) for name, config in both.items()}
        rows.append(race(seeded, data, args))
        print(f"seed {seed}: {rows[-1]['ratio']:.2f} x  {rows[-1]}", flush=True)
    record("shakespeare-race", rows)


if __name__ == "__main__":
    main()
