"""The wiring: a config becomes data, a model, a step and a validation; a folder becomes a model to talk to. Nothing is computed here.

A run is a folder: config.toml, tokenizer.json, metrics.jsonl, summary.json, loss.png and checkpoint/ with latest.pt (to go on from)
and best.pt (to write with). Each checkpoint also carries config and tokenizer, so the files beside it are for people.
"""

import json
import math
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from minillm.config import from_dict, load, suggest, to_toml, validate
from minillm.datasets.batch import Batch
from minillm.datasets.cleaning import CleaningConfig, clean
from minillm.datasets.corpus import DataConfig, load_corpus
from minillm.datasets.lanes import Lanes
from minillm.datasets.split import Splits, split
from minillm.datasets.tokens import TokenStream, token_stream
from minillm.datasets.windows import Windows, evaluation_batches
from minillm.decoding.sampler import SamplingConfig
from minillm.models.decoder import Decoder, DecoderConfig
from minillm.models.rnn import RNN, RNNConfig
from minillm.objectives.loss import Objective
from minillm.objectives.next_token import next_token
from minillm.text import TextConfig, TextModel
from minillm.tokenizers.base import Tokenizer
from minillm.tokenizers.build import TokenizerConfig, tokenizer_from_dict, train_tokenizer
from minillm.training import checkpoint
from minillm.training.carried import CarriedStep
from minillm.training.evaluate import Validation
from minillm.training.loop import Progress, TrainConfig
from minillm.training.manual import ManualStep
from minillm.training.optim import OptimConfig, build_optimizer
from minillm.training.schedule import ScheduleConfig, rate
from minillm.training.step import GradientStep

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
RUNS = Path("runs")  # in the folder that one works in


@dataclass(frozen=True)
class AboutConfig:
    """What to expect of a config, measured on two CPU cores."""

    summary: str = ""  # what it trains, in a line
    expected_seconds: float = 0.0  # from command to prompt; 0: unknown
    expected_loss: float = 0.0  # validation loss at the end, nats per token; 0: unknown

    def __post_init__(self) -> None:
        validate(self)


@dataclass(frozen=True)
class RunConfig:
    """The whole story of a run."""

    about: AboutConfig = field(default_factory=AboutConfig)
    data: DataConfig = field(default_factory=DataConfig)
    cleaning: CleaningConfig = field(default_factory=CleaningConfig)
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    model: DecoderConfig | RNNConfig = field(default_factory=DecoderConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    text: TextConfig = field(default_factory=TextConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)


MODELS: dict[type, Callable[..., nn.Module]] = {DecoderConfig: Decoder, RNNConfig: RNN}  # config section -> what is built from it


class Data(NamedTuple):
    """A corpus, ready to train on."""

    tokenizer: Tokenizer
    documents: bool  # many documents, or one long text
    train: TokenStream
    val: TokenStream
    test: TokenStream | None
    val_nats: float | None  # minus the log probability of the validation documents under their source, where that is known
    test_nats: float | None


class OpenRun(NamedTuple):
    """A run, read back."""

    path: Path
    config: RunConfig
    text: TextModel
    step: int


def find_config(name: str) -> Path:
    """configs/NAME.toml or a file. Raises ValueError with the nearest names."""
    path = Path(name) if name.endswith(".toml") else CONFIGS / f"{name}.toml"
    if not path.is_file():
        known = sorted(p.stem for p in CONFIGS.glob("*.toml"))
        raise ValueError(f"--config {name}: expected {suggest(name, known)}, or the path of a .toml file")
    return path


def load_config(name: str) -> RunConfig:
    """The config of that name or path. Raises ValueError."""
    return load(RunConfig, find_config(name))


def build_data(config: RunConfig, tokenizer: Tokenizer | None = None, say: Callable[[str], object] = print) -> Data:
    """Documents, cleaned if asked for, split, and tokenized by `tokenizer` or one that is trained on the training part."""
    corpus = load_corpus(config.data)
    documents = corpus.documents
    if config.data.clean:
        documents, report = clean(documents, config.cleaning)
        say(str(report))
    splits = split(documents, config.data.val_fraction, config.data.test_fraction)
    if not splits.val:
        raise ValueError("data.val_fraction = 0: expected some text to validate on; raise it")
    tokenizer = tokenizer or train_tokenizer(config.tokenizer, splits.train)
    streams = Splits(*(token_stream(part, tokenizer) if part else None for part in splits))
    nats = [-math.fsum(map(corpus.world.log_prob, part)) if corpus.world and part else None for part in splits[1:]]
    return Data(tokenizer, len(documents) > 1, *streams, *nats)


def build_batches(config: RunConfig, data: Data) -> Callable[[int], Batch]:
    """Step -> training batch."""
    c = config
    if c.data.order == "contiguous":
        if not isinstance(c.model, RNNConfig):
            raise ValueError(f"data.order = contiguous: expected model.kind = rnn, whose state is carried, not {c.model.kind}; use epochs")
        return Lanes(data.train, c.model.context_length, c.train.batch_size, c.train.seed, data.documents).batch
    return Windows(data.train, c.model.context_length, c.train.batch_size, c.train.seed, c.data.order, data.documents).batch


def build_validation(config: RunConfig, data: Data, part: str = "val") -> Validation:
    """The full pass over one held-out part, "val" or "test"."""
    stream, nats = {"val": (data.val, data.val_nats), "test": (data.test, data.test_nats)}[part]
    batches = evaluation_batches(stream, config.model.context_length, 64, data.documents)
    return Validation(batches, build_objective(config), n_bytes=stream.n_bytes, source_nats=nats)


def build_model(config: RunConfig, vocab_size: int, device: str = "cpu") -> nn.Module:
    """A fresh model; the same seed gives the same weights."""
    torch.manual_seed(config.train.seed)
    return MODELS[type(config.model)](config.model, vocab_size).to(device)


def build_objective(config: RunConfig) -> Objective:
    """What training minimizes."""
    return next_token


def build_step(config: RunConfig, model: nn.Module) -> GradientStep:
    """The update that `config` describes, on `model`."""
    c = config
    fraction = partial(rate, c.schedule, max_steps=c.train.max_steps, floor=c.optim.min_lr / c.optim.lr)
    if c.data.order == "contiguous" and c.train.backward == "manual":
        raise ValueError("data.order = contiguous: expected epochs or random beside train.backward = manual; change one of the two")
    kind = CarriedStep if c.data.order == "contiguous" else {"autograd": GradientStep, "manual": ManualStep}[c.train.backward]
    return kind(
        model,
        build_objective(config),
        build_optimizer(model, c.optim),
        lambda step: fraction(step=step),
        lr=c.optim.lr,
        grad_clip=c.train.grad_clip,
        n_micro_batches=c.train.n_micro_batches,
        precision=c.train.precision,
    )


def save_run(path: Path, name: str, config: RunConfig, data: Data, step: GradientStep, progress: Progress) -> None:
    """Write checkpoint/NAME.pt: "latest" holds all that is needed to go on, "best" the weights."""
    contents = {
        "config": to_toml(config),
        "tokenizer": data.tokenizer.to_dict(),
        "documents": data.documents,
        "progress": vars(progress).copy(),
    }
    state = step.state_dict() if name == "latest" else {"model": step.model.state_dict()}
    checkpoint.save(path / "checkpoint" / f"{name}.pt", contents | {"step": state})


def read_run(path: Path, name: str) -> dict:
    """The contents of checkpoint/NAME.pt, with the config and the tokenizer built. Raises ValueError."""
    if not path.is_dir():
        raise ValueError(f"{path}: expected the folder of a run, found none; see {RUNS}/ or train one with train.py --config gpt-tiny")
    contents = checkpoint.load(path / "checkpoint" / f"{name}.pt")
    contents["config"] = from_dict(RunConfig, tomllib.loads(contents["config"]))
    contents["tokenizer"] = tokenizer_from_dict(contents["tokenizer"])
    return contents


def open_run(path: Path, device: str = "cpu") -> OpenRun:
    """The best model of a run (its latest, before the first validation), ready to write. Raises ValueError."""
    contents = read_run(path, "best" if (path / "checkpoint" / "best.pt").is_file() else "latest")
    config, tokenizer = contents["config"], contents["tokenizer"]
    model = build_model(config, tokenizer.vocab_size, device)
    model.load_state_dict(contents["step"]["model"])
    text = TextModel(model.eval(), tokenizer, contents["documents"])
    return OpenRun(path, config, text, contents["progress"]["step"])


def newest_run() -> Path:
    """The folder in runs/ that was written to last. Raises ValueError where there is none."""
    runs = [path.parent.parent for path in RUNS.glob("*/checkpoint/latest.pt")]
    if not runs:
        raise ValueError(f"{RUNS}/: expected a run, found none; train one with train.py --config gpt-tiny, or name one with --run")
    return max(runs, key=lambda path: (path / "checkpoint" / "latest.pt").stat().st_mtime)


def write_readable(path: Path, config: RunConfig, tokenizer: Tokenizer) -> None:
    """config.toml and tokenizer.json of a run."""
    path.mkdir(parents=True, exist_ok=True)
    (path / "config.toml").write_text(to_toml(config), encoding="utf-8")
    (path / "tokenizer.json").write_text(json.dumps(tokenizer.to_dict()), encoding="utf-8")


def find_device(name: str) -> str:
    """"auto" is CUDA where there is one, else the CPU; anything else is taken at its word. Raises ValueError if it is not there."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    there = {"cpu": lambda: True, "cuda": torch.cuda.is_available, "mps": torch.backends.mps.is_available}
    if not there.get(name.partition(":")[0], lambda: False)():
        raise ValueError(f"--device {name}: expected auto, cpu, cuda or mps, and one that this machine has; leave it out")
    return name
