"""The parts of `benchmarks.cuda`: each measures one thing on a device and returns its figures."""

import json
import statistics
import subprocess
import sys
import warnings
import xml.etree.ElementTree
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch

from benchmarks.record import ROOT
from benchmarks.timing import in_turns, timed
from minillm.config.flags import override
from minillm.datasets.batch import Batch
from minillm.datasets.corpus import load_corpus
from minillm.decoding.drafts import ModelDrafter
from minillm.decoding.generate import generate
from minillm.decoding.sampler import Sampler, SamplingConfig, build_pipeline, seeded
from minillm.decoding.speculative import Tally, speculate
from minillm.runs import wiring
from minillm.runs.config import RunConfig, load_config
from minillm.runs.drafter import build_drafter
from minillm.runs.folder import open_run
from minillm.speed.accelerate import accelerate
from minillm.speed.captured import Captured
from minillm.text.model import TextModel
from minillm.training.precision import DTYPES, finish

VOCAB = 1664
SHAPES = ("gpt-tiny", "gpt-target")
SMALL = {"model.n_layers": "1", "model.d_model": "28", "model.context_length": "48", "train.batch_size": "3"}
SMALL_RUN = SMALL | {
    "data.n_stories": "200",
    "tokenizer.vocab_size": "500",
    "train.max_steps": "3",
    "train.precision": "fp32",
}
GREEDY = SamplingConfig(temperature=0)
N_PROMPT, N_WORDS = 8, 5  # length of a prompt in tokens, and in words of a document
Figures = dict[str, object]


class Job(NamedTuple):
    """Settings of one part."""

    device: str
    small: bool
    folder: Path  # folder for runs

    def few(self, n: int) -> int:
        """Number of repeats: n, or 2 if only the script is tested."""
        return 2 if self.small else n

    def config(self, name: str, **more: str) -> RunConfig:
        return override(load_config(name), (SMALL if self.small else {}) | more)


def tests(job: Job) -> Figures:
    """Run the tests that need CUDA: number passed, and the first line of each failure or skip."""
    report = job.folder / "tests.xml"
    files = [
        str(path) for path in sorted(ROOT.glob("tests/**/test_*.py")) if "mark.cuda" in path.read_text(encoding="utf-8")
    ]
    options = "-q --import-mode=importlib --strict-markers --continue-on-collection-errors"
    words = [
        "-m",
        "cuda",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:xdist",
        "-o",
        f"addopts={options}",
        f"--junit-xml={report}",
        *files,
    ]
    subprocess.run([sys.executable, "-m", "pytest", *words], cwd=ROOT, stdout=sys.stderr)
    cases = list(xml.etree.ElementTree.parse(report).iter("testcase"))
    said: dict[str, dict[str, str]] = {kind: {} for kind in ("failure", "error", "skipped")}
    for case in cases:
        for kind in said:
            for outcome in case.findall(kind):
                said[kind][f"{case.get('classname')}::{case.get('name')}"] = (outcome.get("message") or "").partition(
                    "\n"
                )[0]
    failed = said["failure"] | said["error"]
    return {
        "passed": len(cases) - len(failed) - len(said["skipped"]),
        "skipped": len(said["skipped"]),
        "failed": failed,
    }


def train(job: Job, name: str) -> Figures:
    """Train a config by the script; the figures of its summary, and the seconds of the whole command."""
    path = job.folder / name
    flags = [word for key, value in (SMALL_RUN if job.small else {}).items() for word in (f"--{key}", value)]
    command = [sys.executable, "train.py", "--config", name, "--device", job.device, "--train.run", str(path), *flags]
    _, seconds = timed(lambda: subprocess.run(command, cwd=ROOT, stdout=sys.stderr, check=True))
    config, summary = open_run(path).config, json.loads((path / "summary.json").read_text(encoding="utf-8"))
    rate = config.train.batch_size * config.model.context_length * summary["steps"] / summary["train_seconds"]
    return summary | {
        "command_seconds": round(seconds, 1),
        "precision": config.train.precision,
        "tokens_per_second": round(rate),
    }


def training(job: Job) -> Figures:
    """Tokens per second of training steps with batches from the CPU: median of ten rounds."""
    found: Figures = {}
    for shape in SHAPES:
        for precision in ("fp32", "bf16"):
            config = job.config(shape, **{"train.precision": precision})
            step = wiring.build_step(config, wiring.build_model(config, VOCAB, job.device))
            size = (config.train.batch_size, config.model.context_length + 1)
            text = torch.randint(VOCAB, size, generator=torch.Generator().manual_seed(0))
            batch = Batch(text[:, :-1].contiguous(), text[:, 1:].contiguous())

            def steps(step=step, batch=batch) -> None:
                for _ in range(job.few(10)):
                    step(batch)
                finish(torch.device(job.device))

            seconds = statistics.median(in_turns({"ours": steps}, job.few(10))["ours"])
            found[f"{shape} {precision}"] = {"tokens_per_second": round(batch.tokens.numel() * job.few(10) / seconds)}
    return found


def decoding(job: Job) -> Figures:
    """Tokens per second of one text token by token and by the graph, with prompt and recording included."""
    found: Figures = {}
    for shape in SHAPES:
        config = job.config(shape)
        prompt = torch.randint(VOCAB, (N_PROMPT,), generator=torch.Generator().manual_seed(0)).tolist()
        n_new = config.model.context_length - N_PROMPT
        for precision in ("fp32", "bf16"):
            model = wiring.build_model(config, VOCAB, job.device).to(DTYPES[precision]).eval()
            ask = {"max_new_tokens": n_new, "generators": seeded([0])}
            sampler = Sampler(build_pipeline(GREEDY))
            tree = accelerate(model)
            roads = {"plain": tree, "graph": Captured(tree)}
            written: dict[str, list[int]] = {}

            def write(name: str, model=None, prompt=prompt, sampler=sampler, ask=ask, written=written) -> None:
                written[name] = generate(model, [prompt], sampler, **ask)[0].tokens

            with warnings.catch_warnings(record=True) as said:
                warnings.simplefilter("always")
                seconds = in_turns({name: partial(write, name, one) for name, one in roads.items()}, job.few(5))
            rates = {
                f"{name}_tokens_per_second": round(n_new / statistics.median(taken)) for name, taken in seconds.items()
            }
            same = written["plain"] == written["graph"]
            found[f"{shape} {precision}"] = rates | {
                "same_text": same,
                "warnings": sorted({str(w.message) for w in said}),
            }
    return found


def speculation(job: Job) -> Figures:
    """Tokens per second of a trained target token by token, by the graph and with its draft, in bfloat16."""
    found: Figures = {name: train(job, name) for name in ("gpt-target", "gpt-draft")}
    opened, n_texts = open_run(job.folder / "gpt-target", job.device), job.few(10)
    documents = load_corpus(opened.config.data).documents[:n_texts]
    prompts = [" ".join(document.split()[:N_WORDS]) for document in documents]
    drafter = build_drafter(str(job.folder / "gpt-draft"), opened, prompts[:1])
    assert isinstance(drafter, ModelDrafter)
    for model in (opened.text.model, drafter.model):
        model.bfloat16()
    for kind, sampling in {"greedy": GREEDY, "sampled": opened.config.sampling}.items():
        found[kind] = _speculate(opened.text, drafter, prompts, sampling, 20 if job.small else 120)
    return found


def _speculate(
    text: TextModel, drafter: ModelDrafter, prompts: list[str], sampling: SamplingConfig, n_new: int
) -> Figures:
    """Time the three ways in turns, text by text, after a warm-up."""
    rates: dict[str, list[float]] = {"plain": [], "graph": [], "drafted": []}
    tally, n_equal = Tally(), 0
    for i in range(len(prompts) + 1):
        prompt, mine = prompts[max(i - 1, 0)], Tally()
        ways = {
            "plain": {"start": text.model.start},  # passing a cache turns the graph off in `TextModel.generate`
            "graph": {},
            "drafted": {"write": partial(speculate, drafter=drafter, tallies=[mine])},
        }
        texts = {}
        for name, how in ways.items():
            write = partial(text.generate, [prompt], sampling, max_new_tokens=n_new, seeds=[i], **how)
            [texts[name]], seconds = timed(write)
            if i:
                rates[name].append(texts[name].n_tokens / seconds)
        if i:
            tally, n_equal = tally + mine, n_equal + (texts["plain"].text == texts["drafted"].text)
    found: Figures = {"acceptance": round(tally.acceptance, 4), "tokens_per_call": round(tally.tokens_per_call, 2)}
    found |= {f"{name}_tokens_per_second": round(statistics.median(x)) for name, x in rates.items()}
    return found | {"texts": len(prompts), "equal_texts": n_equal}
