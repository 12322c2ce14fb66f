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
from minillm.datasets.labels import ENDINGS, LabelledTexts, LabelsConfig, ending
from minillm.datasets.masking import Masking, MaskingConfig
from minillm.datasets.next_sentence import masked_pairs
from minillm.datasets.split import Splits, split
from minillm.datasets.stories import World
from minillm.datasets.tokens import TokenStream, token_stream
from minillm.datasets.windows import Windows, evaluation_batches
from minillm.decoding.sampler import SamplingConfig
from minillm.models.decoder import Decoder, DecoderConfig
from minillm.models.encoder import Encoder, EncoderConfig
from minillm.models.heads import Classifier
from minillm.objectives.classification import classification
from minillm.objectives.loss import Objective
from minillm.objectives.masked_token import masked_token, masked_token_and_next_sentence
from minillm.objectives.next_token import next_token
from minillm.text import Cloze, TextClassifier, TextConfig, TextModel
from minillm.tokenizers.base import Tokenizer
from minillm.tokenizers.build import TokenizerConfig, tokenizer_from_dict, train_tokenizer
from minillm.training import checkpoint
from minillm.training.evaluate import Validation
from minillm.training.loop import Progress, TrainConfig
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
    model: DecoderConfig | EncoderConfig = field(default_factory=DecoderConfig)
    masking: MaskingConfig = field(default_factory=MaskingConfig)
    labels: LabelsConfig = field(default_factory=LabelsConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    text: TextConfig = field(default_factory=TextConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)

    def __post_init__(self) -> None:
        if self.labels.kind != "none" and not isinstance(self.model, EncoderConfig):
            raise ValueError(f"labels.kind = {self.labels.kind}: expected model.kind = encoder, which alone is fine-tuned to labels")
        if self.masking != MaskingConfig() and (self.labels.kind != "none" or not isinstance(self.model, EncoderConfig)):
            raise ValueError("masking: expected only beside model.kind = encoder and labels.kind = none, as blanks are made there; drop it")


MODELS: dict[type, Callable[..., nn.Module]] = {DecoderConfig: Decoder, EncoderConfig: Encoder}  # config section -> what is built from it


class Data(NamedTuple):
    """A corpus, ready to train on."""

    tokenizer: Tokenizer
    documents: bool  # many documents, or one long text
    train: TokenStream
    val: TokenStream
    test: TokenStream | None
    val_nats: float | None  # minus the log probability of the validation documents under their source, where that is known
    test_nats: float | None
    labels: Splits | None = None  # of each document, where there are any


class OpenRun(NamedTuple):
    """A run, read back."""

    path: Path
    config: RunConfig
    text: TextModel | Cloze | TextClassifier
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
    splits, labels = label(config, splits, corpus.world)
    tokenizer = tokenizer or train_tokenizer(config.tokenizer, splits.train)
    streams = Splits(*(token_stream(part, tokenizer) if part else None for part in splits))
    world = None if isinstance(config.model, EncoderConfig) else corpus.world  # of blanks and labels the source is not known
    nats = [-math.fsum(map(world.log_prob, part)) if world and part else None for part in splits[1:]]
    return Data(tokenizer, len(documents) > 1, *streams, *nats, labels)


def label(config: RunConfig, splits: Splits, world: World | None) -> tuple[Splits, Splits | None]:
    """The documents as the question of `config.labels` wants them, and their labels; None where nothing is asked."""
    if config.labels.kind == "none":
        return splits, None
    if world is None:
        raise ValueError(f"labels.kind = {config.labels.kind}: expected data.corpus = stories, whose endings are known; set one of the two")
    labelled = [[ending(world, story) for story in part] for part in splits]
    return Splits(*([text for text, _ in part] for part in labelled)), Splits(*([label for _, label in part] for part in labelled))


def build_batches(config: RunConfig, data: Data) -> Callable[[int], Batch]:
    """Step -> training batch."""
    c, seed = config, config.train.seed
    if data.labels:
        return LabelledTexts(data.train, data.labels.train, c.model.context_length).batches(c.train.batch_size, seed, c.data.order)
    windows = Windows(data.train, c.model.context_length, c.train.batch_size, seed, c.data.order, data.documents).batch
    if not isinstance(c.model, EncoderConfig):
        return windows
    blank = build_blanks(config, data)
    return lambda step: blank(windows(step).tokens, seed, step, 1)


def build_blanks(config: RunConfig, data: Data) -> Callable[..., Batch]:
    """(tokens, *seed) -> a batch with blanks, of pairs if the encoder is to tell which texts follow each other."""
    masking = Masking(config.masking, data.tokenizer)
    return partial(masked_pairs, masking) if config.model.next_sentence else masking


def build_validation(config: RunConfig, data: Data, part: str = "val") -> Validation:
    """The full pass over one held-out part, "val" or "test"."""
    stream, nats = {"val": (data.val, data.val_nats), "test": (data.test, data.test_nats)}[part]
    objective, context_length = build_objective(config), config.model.context_length
    if data.labels:
        batches = LabelledTexts(stream, getattr(data.labels, part), context_length).every(64)
        return Validation(batches, objective, n_bytes=None, source_nats=None)
    batches = evaluation_batches(stream, context_length, 64, data.documents)
    if not isinstance(config.model, EncoderConfig):
        return Validation(batches, objective, n_bytes=stream.n_bytes, source_nats=nats)
    blank = build_blanks(config, data)
    return Validation([blank(batch.tokens, 0, i, 2) for i, batch in enumerate(batches)], objective, n_bytes=None, source_nats=None)


def build_model(config: RunConfig, vocab_size: int, device: str = "cpu") -> nn.Module:
    """A fresh model; the same seed gives the same weights."""
    torch.manual_seed(config.train.seed)
    model = MODELS[type(config.model)](config.model, vocab_size)
    return (Classifier(model, len(ENDINGS)) if config.labels.kind != "none" else model).to(device)


def build_objective(config: RunConfig) -> Objective:
    """What training minimizes."""
    if config.labels.kind != "none":
        return classification
    if isinstance(config.model, EncoderConfig):
        return masked_token_and_next_sentence if config.model.next_sentence else masked_token
    return next_token


def build_step(config: RunConfig, model: nn.Module) -> GradientStep:
    """The update that `config` describes, on `model`."""
    c = config
    fraction = partial(rate, c.schedule, max_steps=c.train.max_steps, floor=c.optim.min_lr / c.optim.lr)
    return GradientStep(
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
    text = build_text(config)(model.eval(), tokenizer, contents["documents"])
    return OpenRun(path, config, text, contents["progress"]["step"])


def build_text(config: RunConfig) -> type[TextModel | Cloze | TextClassifier]:
    """What can be done with a trained model: write, fill in blanks, or tell labels."""
    if config.labels.kind != "none":
        return TextClassifier
    return Cloze if isinstance(config.model, EncoderConfig) else TextModel


def load_weights(model: nn.Module, weights: dict) -> None:
    """Begin with the weights of another run; a classifier may begin with an encoder's alone. Raises ValueError where they do not fit."""
    bare = isinstance(model, Classifier) and not any(name.startswith("encoder.") for name in weights)
    try:
        (model.encoder if bare else model).load_state_dict(weights)
    except RuntimeError as e:
        raise ValueError(f"--init-from: expected the weights of another {type(model).__name__}; start from a run of the same kind") from e


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
