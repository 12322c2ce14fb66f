"""Distillation in three ways, against the data alone: python -m benchmarks.distillation --teacher runs/gpt-tiny

Trains the student of configs/distill-tiny.toml on 5, 10 and 100 % of the teacher's stories: on the data alone, on texts
that the teacher wrote, on the teacher's probabilities, and on-policy. Each is trained three times: for as many steps,
for as many counted tokens, and for as many seconds as the data alone takes in its steps. The learning rate follows the
share of that budget which is used up. Texts of the teacher are written before, and their seconds do not count. Prints
and records the regret on held-out stories, in percent of their known entropy, and the percent of sampled texts that are
whole, consistent stories.
"""

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from benchmarks.figures import valid_share
from benchmarks.record import record
from minillm.config.flags import Parser, override
from minillm.runs import companions, wiring
from minillm.runs.config import RunConfig, load_config
from minillm.tasks.next_token import NextToken
from minillm.tasks.task import Data, Frozen

WAYS = {"alone": {}, "data": {"task.how": "data"}, "knowledge": {}, "on_policy": {"task.how": "on_policy"}}
BUDGETS = ("steps", "tokens", "seconds")
ALIKE = {"alone": BUDGETS, "data": BUDGETS[:2], "knowledge": BUDGETS[:2], "on_policy": BUDGETS[:1]}  # one run for these


class Trained(NamedTuple):
    """A student at the end of its training."""

    model: nn.Module
    used: dict[str, float]  # budget -> what the training took of it


def trained(config: RunConfig, data: Data, frozen: Frozen, budget: str, amount: float) -> Trained:
    """Train a student until `amount` of a budget is used up."""
    batch, model = wiring.build_batches(config, data, frozen), wiring.build_model(config, data.tokenizer.vocab_size)
    step, used, n_steps = wiring.build_step(config, model, frozen), dict.fromkeys(BUDGETS, 0.0), config.train.max_steps
    planned = step.rate
    step.rate = lambda _: planned(min(n_steps - 1, int(n_steps * used[budget] / amount)))
    while used[budget] < amount:
        began = time.perf_counter()
        metrics = step(batch(int(used["steps"])))
        took = {"steps": 1, "tokens": metrics["tokens"], "seconds": time.perf_counter() - began}
        used = {name: used[name] + took[name] for name in BUDGETS}
    return Trained(model, used)


def figures(config: RunConfig, data: Data, model: nn.Module, n_texts: int) -> dict[str, float]:
    """The regret and the whole stories of a student."""
    text = config.task.text(model.eval(), data.tokenizer, data.documents)
    found = wiring.build_validation(config, data)(model)
    return {
        "regret": 100 * found["regret"] / found["source_loss"],
        "valid": 100 * valid_share(text, config.model.context_length, n_texts),
    }


def compare(config: RunConfig, data: Data, frozen: Frozen, label: str, n_texts: int) -> dict[str, float]:
    """The figures of every way under every budget, on this data."""
    found, limits = {}, {"steps": float(config.train.max_steps)}
    for way, flags in WAYS.items():
        ours = override(config, flags)
        ours = replace(ours, task=NextToken()) if way == "alone" else ours
        for budget in BUDGETS:
            if budget == "steps" or budget not in ALIKE[way]:
                student = trained(ours, data, frozen, budget, limits[budget])
                limits = limits if len(limits) > 1 else student.used  # what the data alone takes
                told = figures(ours, data, student.model, n_texts)
                print(json.dumps({"data": label, "way": way, "budget": budget, **student.used, **told}), flush=True)
            found |= {f"{way}_{label}_{budget}_{name}": value for name, value in told.items()}
    return found


def main() -> None:
    """Train, measure, and record."""
    parser = Parser(description=__doc__)
    parser.add_argument("--teacher", type=Path, required=True, help="a run of gpt-tiny")
    parser.add_argument("--seeds", type=int, default=1, help="repeats, each with another seed")
    parser.add_argument("--steps", type=int, default=0, help="steps of the data alone; 0: those of distill-tiny")
    parser.add_argument("--percents", default="5,10,100", help="shares of the data, in percent")
    parser.add_argument("--texts", type=int, default=200, help="sampled texts of each student")
    parser.add_argument("--threads", type=int, default=2, help="threads that torch may use")
    args = parser.parse()
    torch.set_num_threads(args.threads)
    flags = {"task.teacher": str(args.teacher), "train.precision": "fp32"}
    flags |= {"train.max_steps": str(args.steps), "schedule.warmup_steps": str(args.steps // 10)} if args.steps else {}
    config = override(load_config("distill-tiny"), flags)
    opened = companions.open_companions(config)
    config = companions.with_tokenizer(config, opened, ())
    tokenizer, frozen = companions.tokenizer_of(opened), companions.models(opened, "cpu")
    rows: list[dict[str, float]] = [{} for _ in range(args.seeds)]
    for percent in args.percents.split(","):
        thinned = override(config, {"task.share": str(float(percent) / 100)})
        data = wiring.build_data(thinned, tokenizer)
        wiring.build_batches(override(thinned, WAYS["data"]), data, frozen)  # lets the teacher write its texts
        for seed, row in enumerate(rows):
            row |= compare(override(thinned, {"train.seed": str(seed)}), data, frozen, percent, args.texts)
    record("distillation", rows)


if __name__ == "__main__":
    main()
