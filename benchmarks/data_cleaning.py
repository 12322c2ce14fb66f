"""The gain from cleaning a corpus, at equal steps: python -m benchmarks.data_cleaning [--seeds 3] [--steps 500]

A corpus of stories is spoiled as the web is: some stories are repeated, some end with a footer of their site, some
documents are noise, and stories of the validation part leak into the training part, each copy with another number
at its end, so that the split by content does not notice. Three models train equally long:

    pure        on the stories alone
    raw         on the spoiled corpus
    cleaned     on what [cleaning] leaves of the spoiled corpus; held-out stories come first, so their copies go

Each tokenizer is trained on its own corpus. Regret is the loss above the entropy, in percent of it, which does not
depend on tokenizers. It is measured on fresh stories that nobody leaked, and on the leaked ones, where it may be
negative; then the alarm of `evaluation/validation.py` should ring.
"""

import math
import random
import string
import time
from typing import NamedTuple

from torch import nn

from benchmarks.record import record
from minillm.config.flags import Parser, override
from minillm.datasets.cleaning import CleaningConfig, clean
from minillm.datasets.corpus import load_corpus
from minillm.datasets.quality_rules import GOPHER
from minillm.datasets.source import Source
from minillm.datasets.split import Splits, split
from minillm.datasets.stories import World
from minillm.evaluation.validation import Leak
from minillm.runs import wiring
from minillm.runs.config import RunConfig, load_config
from minillm.tasks.documents import Texts, tokenized
from minillm.tasks.task import Data

FOOTERS = (
    "Did you like this story? Write to stories@example.com or call 555-010-4477.",
    "All rights reserved. Copying of this page is allowed to nobody at all.",
    "Home | About us | Contact | Terms of use | Help | More stories like this one",
    "This site uses cookies to give you the best experience of all stories.",
)
RULES = CleaningConfig(
    mask_emails=True,
    mask_phones=True,
    line_copies=1,
    **GOPHER | {"min_words": 20, "min_stop_words": 1},  # stories are short and use few words
)


class Spoiled(NamedTuple):
    """The planted noise and copies; shares are of the number of training stories."""

    footers: float = 0.3  # stories that get a footer
    repeated: float = 0.01  # stories that are repeated ...
    copies: int = 40  # ... so often
    noise: float = 0.3  # useless documents
    leaks: int = 40  # copies of each validation story


def noise(draw: random.Random) -> str:
    """A document of no use: random symbols, random letters, or a repeated advertisement."""
    kind, n = draw.randrange(3), draw.randint(60, 120)
    if kind == 0:
        return " ".join("".join(draw.choices("#$%&*+/<=>@^_|~0123456789", k=draw.randint(2, 9))) for _ in range(n))
    if kind == 1:
        return " ".join("".join(draw.choices(string.ascii_lowercase, k=draw.randint(2, 12))) for _ in range(n))
    thing = draw.choice(("shoes", "watches", "loans", "phones"))
    return " ".join(
        [f"the best {thing} of the year, buy {thing} now and save {draw.randint(10, 90)} percent!"] * (n // 14)
    )


def spoil(stories: Splits, how: Spoiled, seed: int) -> list[str]:
    """The training stories and all that is planted among them, in random order."""
    draw = random.Random(seed)
    footed = [f"{story}\n\n{draw.choice(FOOTERS)}" if draw.random() < how.footers else story for story in stories.train]
    repeated = draw.sample(stories.train, round(how.repeated * len(stories.train))) * how.copies
    useless = [noise(draw) for _ in range(round(how.noise * len(stories.train)))]
    leaked = [f"{story} (read {draw.randrange(10**9):,} times)" for story in stories.val for _ in range(how.leaks)]
    documents = [*footed, *repeated, *useless, *leaked]
    draw.shuffle(documents)
    return documents


def corpora(stories: Splits, how: Spoiled, seed: int) -> dict[str, list[str]]:
    """The training documents of each model. Prints the report of the cleaning."""
    raw = spoil(stories, how, seed)
    held_out = [*stories.val, *stories.test]
    kept, report = clean([*held_out, *raw], RULES)
    print(report, flush=True)
    assert kept[: len(held_out)] == held_out, "cleaning must not touch the stories that are measured on"
    return {"pure": stories.train, "raw": raw, "cleaned": kept[len(held_out) :]}


def regret(config: RunConfig, data: Data, model: nn.Module, part: str) -> tuple[float, float]:
    """On one held-out part: bits per byte, and the regret in percent of the entropy."""
    nats = {"val": data.val_nats, "test": data.test_nats}[part]
    n_bytes = {"val": data.val, "test": data.test}[part].n_bytes
    silent = data._replace(val_nats=None, test_nats=None)  # without the alarm, which hides the loss
    bits = wiring.build_validation(config, silent, part)(model)["bits_per_byte"]
    return bits, 100 * (bits * math.log(2) * n_bytes / nats - 1)


def alarm(config: RunConfig, data: Data, model: nn.Module) -> bool:
    """Whether validation reports a leak."""
    try:
        wiring.build_validation(config, data, "val")(model)
    except Leak:
        return True
    return False


def measure(config: RunConfig, stories: Splits, train: list[str], world: World) -> dict[str, float]:
    """Train on documents; the losses on the held-out stories."""
    source = Source(world)
    texts = Texts(stories._replace(train=train), True, world, source, "")
    data = tokenized(config, texts, None)
    data = data._replace(val_nats=source.nats(stories.val), test_nats=source.nats(stories.test))
    model = wiring.build_model(config, data.tokenizer.vocab_size)
    training = wiring.build_training(config, data, model, say=lambda line: None)
    batch = wiring.build_batches(training.settings, data)
    for i in range(config.train.max_steps):
        training.step(batch(i))
    bits, fresh = regret(config, data, model, "test")
    _, leaked = regret(config, data, model, "val")
    return {
        "documents": len(train),
        "bits_per_byte": bits,
        "regret_percent": fresh,
        "leaked_regret_percent": leaked,
        "alarm": float(alarm(config, data, model)),
    }


def main() -> None:
    """Measure all three with each seed and record the results."""
    parser = Parser(description=__doc__)
    parser.add_argument("--steps", type=int, default=500, help="optimizer updates of each model")
    parser.add_argument("--stories", type=int, default=5000, help="stories before the corpus is spoiled")
    parser.add_argument("--seeds", type=int, default=1, help="repeats, each with other stories and other weights")
    args = parser.parse()
    flags = {"train.max_steps": args.steps, "data.n_stories": args.stories, "data.test_fraction": 0.05}
    rows = []
    for seed in range(args.seeds):
        more = flags | {"data.seed": seed, "train.seed": seed}
        config = override(load_config("gpt-tiny"), {name: str(value) for name, value in more.items()})
        corpus = load_corpus(config.data)
        stories = split(corpus.documents, config.data.val_fraction, config.data.test_fraction)
        rows.append({})
        for name, train in corpora(stories, Spoiled(), seed).items():
            began = time.perf_counter()
            found = measure(config, stories, train, corpus.world)
            told = "  ".join(f"{figure} {x:,.3f}" for figure, x in found.items())
            print(f"seed {seed}  {name:<8} {told}  {time.perf_counter() - began:.0f} s", flush=True)
            rows[-1] |= {f"{name}_{figure}": x for figure, x in found.items()}
    record("data-cleaning", rows)


if __name__ == "__main__":
    main()
