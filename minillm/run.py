"""The wiring: a config becomes data, a model, a step and a validation; a folder becomes a model to talk to. Nothing is computed here.

A run is a folder: config.toml, tokenizer.json, metrics.jsonl, summary.json, loss.png and checkpoint/ with latest.pt (to go on from)
and best.pt (to write with). Each checkpoint also carries config and tokenizer, so the files beside it are for people.
"""

import json
import math
import tomllib
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from minillm.adapters.lora import AdapterConfig, add_lora, merge
from minillm.config import from_dict, load, suggest, to_toml, validate
from minillm.datasets.batch import Batch
from minillm.datasets.cleaning import CleaningConfig, clean
from minillm.datasets.corpus import DataConfig, load_corpus, load_pairs
from minillm.datasets.labels import ENDINGS, LabelledTexts, LabelsConfig, ending
from minillm.datasets.lanes import Lanes
from minillm.datasets.masking import Masking, MaskingConfig
from minillm.datasets.next_sentence import masked_pairs
from minillm.datasets.pairs import PairBatch, PairBatches, Pairs, evaluation_pairs, spaced, split_pairs
from minillm.datasets.single_pass import SinglePass
from minillm.datasets.split import Splits, split
from minillm.datasets.stories import World
from minillm.datasets.tokens import TokenStream, token_stream
from minillm.datasets.windows import Windows, evaluation_batches
from minillm.decoding.sampler import SamplingConfig
from minillm.models.decoder import Decoder, DecoderConfig
from minillm.models.encoder import Encoder, EncoderConfig
from minillm.models.encoder_decoder import EncoderDecoder, EncoderDecoderConfig
from minillm.models.heads import Classifier
from minillm.models.ngram import Ngram, NgramConfig
from minillm.models.rnn import RNN, RNNConfig
from minillm.objectives.classification import classification
from minillm.objectives.loss import Objective
from minillm.objectives.masked_token import masked_token, masked_token_and_next_sentence
from minillm.objectives.next_token import next_token
from minillm.objectives.seq2seq import seq2seq
from minillm.quantization.pack import pack
from minillm.text import Cloze, TextClassifier, TextConfig, TextModel, Translator
from minillm.tokenizers.base import Tokenizer
from minillm.tokenizers.build import TokenizerConfig, tokenizer_from_dict, train_tokenizer
from minillm.training import checkpoint
from minillm.training.carried import CarriedStep
from minillm.training.checkpoint import fingerprint, load_trained_state, trained_state
from minillm.training.counting import CountingStep
from minillm.training.evaluate import Validation
from minillm.training.evaluate_translation import TranslationValidation
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
    model: DecoderConfig | RNNConfig | EncoderConfig | EncoderDecoderConfig | NgramConfig = field(default_factory=DecoderConfig)
    adapter: AdapterConfig = field(default_factory=AdapterConfig)
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


MODELS: dict[type, Callable[..., nn.Module]] = {  # config section -> what is built from it
    DecoderConfig: Decoder,
    RNNConfig: RNN,
    EncoderConfig: Encoder,
    EncoderDecoderConfig: EncoderDecoder,
    NgramConfig: Ngram,
}


class Data(NamedTuple):
    """A corpus, ready to train on."""

    tokenizer: Tokenizer
    documents: bool  # many documents, or one long text
    train: TokenStream | Pairs
    val: TokenStream | Pairs
    test: TokenStream | Pairs | None
    val_nats: float | None  # minus the log probability of the validation documents under their source, where that is known
    test_nats: float | None
    labels: Splits | None = None  # of each document, where there are any


class OpenRun(NamedTuple):
    """A run, read back."""

    path: Path
    config: RunConfig
    text: TextModel | Cloze | TextClassifier
    step: int


class Base(NamedTuple):
    """The run whose weights an adapter corrects; a checkpoint of the adapter names them and does not hold them."""

    path: str
    sha256: str  # of the weights: on any others the adapter means nothing


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
    if isinstance(config.model, EncoderDecoderConfig):
        return build_pairs(config, tokenizer)
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


def build_pairs(config: RunConfig, tokenizer: Tokenizer | None = None) -> Data:
    """Sentences and their translations, split by combination, and tokenized by one tokenizer for both languages."""
    c = config.data
    if c.clean:
        raise ValueError("data.clean = true: expected false for pairs, since cleaning drops single documents; leave it out")
    splits = split_pairs(load_pairs(c), c.val_fraction, c.test_fraction)
    parts = [[[spaced(pair.source) for pair in part], [spaced(pair.target) for pair in part]] for part in splits if part]
    tokenizer = tokenizer or train_tokenizer(config.tokenizer, parts[0][0] + parts[0][1])
    pairs = [Pairs(*(token_stream(side, tokenizer) for side in part)) for part in parts]
    return Data(tokenizer, True, *pairs, *[None] * (5 - len(pairs)))


def build_batches(config: RunConfig, data: Data) -> Callable[[int], Batch | PairBatch]:
    """Step -> training batch."""
    c, seed = config, config.train.seed
    if isinstance(data.train, Pairs):
        return PairBatches(data.train, c.model.context_length, c.train.batch_size, seed, c.data.order).batch
    if isinstance(c.model, NgramConfig):
        return build_single_pass(c, data).batch
    if data.labels:
        return LabelledTexts(data.train, data.labels.train, c.model.context_length).batches(c.train.batch_size, seed, c.data.order)
    if c.data.order == "contiguous":
        if not isinstance(c.model, RNNConfig):
            raise ValueError(f"data.order = contiguous: expected model.kind = rnn, whose state is carried, not {c.model.kind}; use epochs")
        return Lanes(data.train, c.model.context_length, c.train.batch_size, seed, data.documents).batch
    windows = Windows(data.train, c.model.context_length, c.train.batch_size, seed, c.data.order, data.documents).batch
    if not isinstance(c.model, EncoderConfig):
        return windows
    blank = build_blanks(config, data)
    return lambda step: blank(windows(step).tokens, seed, step, 1)


def build_blanks(config: RunConfig, data: Data) -> Callable[..., Batch]:
    """(tokens, *seed) -> a batch with blanks, of pairs if the encoder is to tell which texts follow each other."""
    masking = Masking(config.masking, data.tokenizer)
    return partial(masked_pairs, masking) if config.model.next_sentence else masking


def build_single_pass(config: RunConfig, data: Data) -> SinglePass:
    """The training text, once."""
    return SinglePass(data.train, config.model.context_length, config.train.batch_size, config.model.order - 1)


def limit_steps(config: RunConfig, data: Data, say: Callable[[str], object] = print) -> RunConfig:
    """The config with no more steps than there is text for: what is counted must be counted once."""
    if not isinstance(config.model, NgramConfig) or config.train.max_steps <= (n_steps := build_single_pass(config, data).n_steps):
        return config
    say(f"the whole text is counted in {n_steps} steps, so there are no more")
    return replace(config, train=replace(config.train, max_steps=n_steps))


def build_validation(config: RunConfig, data: Data, part: str = "val") -> Validation:
    """The full pass over one held-out part, "val" or "test"."""
    stream, nats = {"val": (data.val, data.val_nats), "test": (data.test, data.test_nats)}[part]
    plain = replace(config, train=replace(config.train, label_smoothing=0.0))
    objective, context_length = build_objective(plain), config.model.context_length
    if isinstance(stream, Pairs):
        batches = evaluation_pairs(stream, context_length, 256)
        return TranslationValidation(batches, objective, n_bytes=stream.n_bytes, tokenizer=data.tokenizer)
    if data.labels:
        batches = LabelledTexts(stream, getattr(data.labels, part), context_length).every(64)
        return Validation(batches, objective, n_bytes=None, source_nats=None)
    batches = evaluation_batches(stream, context_length, 64, data.documents)
    if not isinstance(config.model, EncoderConfig):
        return Validation(batches, objective, n_bytes=stream.n_bytes, source_nats=nats)
    blank = build_blanks(config, data)
    return Validation([blank(batch.tokens, 0, i, 2) for i, batch in enumerate(batches)], objective, n_bytes=None, source_nats=None)


def build_model(config: RunConfig, vocab_size: int, device: str = "cpu", weights: dict[str, Tensor] | None = None) -> nn.Module:
    """A fresh model, or one of these weights, and the adapter of the config on it; the same seed gives the same weights."""
    torch.manual_seed(config.train.seed)
    model = MODELS[type(config.model)](config.model, vocab_size)
    if config.labels.kind != "none":
        model = Classifier(model, len(ENDINGS))
    if weights is not None:
        load_weights(model, weights)
    if config.adapter.rank:
        add_lora(model, config.adapter)
    return model.to(device)


def build_objective(config: RunConfig) -> Objective:
    """What training minimizes."""
    if isinstance(config.model, EncoderConfig):
        if config.train.label_smoothing:
            raise ValueError(f"train.label_smoothing = {config.train.label_smoothing}: expected 0 beside model.kind = encoder; drop it")
        if config.labels.kind != "none":
            return classification
        return masked_token_and_next_sentence if config.model.next_sentence else masked_token
    objective = seq2seq if isinstance(config.model, EncoderDecoderConfig) else next_token
    return partial(objective, smoothing=config.train.label_smoothing) if config.train.label_smoothing else objective


def build_step(config: RunConfig, model: nn.Module) -> GradientStep | CountingStep:
    """The update that `config` describes, on `model`. Raises ValueError for settings that it would ignore."""
    c = config
    if isinstance(c.model, NgramConfig):
        _refuse_what_counting_ignores(c)
        return CountingStep(model, build_objective(c))
    fraction = partial(rate, c.schedule, max_steps=c.train.max_steps, floor=c.optim.min_lr / c.optim.lr)
    carried, manual = c.data.order == "contiguous", c.train.backward == "manual"
    if carried and manual:
        raise ValueError("data.order = contiguous: expected epochs or random beside train.backward = manual; change one of the two")
    kind = CarriedStep if carried else ManualStep if manual else GradientStep
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


def _refuse_what_counting_ignores(config: RunConfig) -> None:
    given, usual = asdict(config), asdict(RunConfig())
    names = [f"{section}.{name}" for section in ("optim", "schedule") for name in given[section]]
    for name in (*names, "train.n_micro_batches", "train.grad_clip", "train.backward", "train.label_smoothing", "data.order"):
        section, _, leaf = name.partition(".")
        value = given[section][leaf]
        if value != usual[section][leaf]:
            raise ValueError(f"{name} = {value!r}: expected none, since an n-gram model counts its text in order; leave it out")
    if config.train.precision == "bf16":
        raise ValueError("train.precision = bf16: expected fp32 or auto, since an n-gram model counts in whole numbers; leave it out")


def save_run(
    path: Path, name: str, config: RunConfig, data: Data, step: GradientStep | CountingStep, progress: Progress, base: Base | None = None
) -> None:
    """Write checkpoint/NAME.pt: "latest" holds all that is needed to go on, "best" the weights; an adapter's `base` is only named."""
    contents = {
        "config": to_toml(config),
        "tokenizer": data.tokenizer.to_dict(),
        "documents": data.documents,
        "progress": vars(progress).copy(),
        "base": base and base._asdict(),
    }
    state = step.state_dict() if name == "latest" else {"model": trained_state(step.model)}
    checkpoint.save(path / "checkpoint" / f"{name}.pt", contents | {"step": state})


def read_run(path: Path, name: str) -> dict:
    """The contents of checkpoint/NAME.pt, with the config and the tokenizer built. Raises ValueError."""
    if not path.is_dir():
        raise ValueError(f"{path}: expected the folder of a run, found none; see {RUNS}/ or train one with train.py --config gpt-tiny")
    contents = checkpoint.load(path / "checkpoint" / f"{name}.pt")
    contents["config"] = from_dict(RunConfig, tomllib.loads(contents["config"]))
    contents["tokenizer"] = tokenizer_from_dict(contents["tokenizer"])
    return contents


def read_best(path: Path) -> dict:
    """`read_run` of the best checkpoint, or of the latest one, before the first validation."""
    return read_run(path, "best" if (path / "checkpoint" / "best.pt").is_file() else "latest")


def base_weights(path: Path, contents: dict, base: Path | None = None) -> dict[str, Tensor] | None:
    """The weights that the adapter of a run corrects; None for a run without one.

    They are those of the run `base`, or else of the one that the adapter was trained on, where it was then or beside the run of the
    adapter. Raises ValueError where it is not there, and where its weights are others than they were.
    """
    if not contents["config"].adapter.rank:
        return None
    known = Base(**contents["base"])
    places = [base] if base else [Path(known.path), path.parent / Path(known.path).name]
    place = next((place for place in places if place.is_dir()), None)
    if place is None:
        raise ValueError(f"{path}: expected the run that it adapts in {places[0]}, found none; put it there, or beside {path}")
    weights = read_best(place)["step"]["model"]
    if fingerprint(weights) != known.sha256:
        raise ValueError(
            f"{place}: expected the weights that {path} adapts, those of {known.path} with SHA-256 {known.sha256[:12]}..., found "
            f"{fingerprint(weights)[:12]}...; name that run as it was, or train the adapter again"
        )
    return weights


def whole_weights(path: Path, contents: dict) -> dict[str, Tensor]:
    """The weights of a run as a model without an adapter has them; those of an adapter are merged into its base. Raises ValueError."""
    if not contents["config"].adapter.rank:
        return contents["step"]["model"]
    model = open_run(path).text.model
    merge(model)
    return model.state_dict()


def open_run(path: Path, device: str = "cpu", base: Path | None = None) -> OpenRun:
    """The best model of a run, on the run `base` if it is an adapter (see `base_weights`), ready to write. Raises ValueError."""
    contents = read_best(path)
    config, tokenizer = contents["config"], contents["tokenizer"]
    model = build_model(config, tokenizer.vocab_size, device, base_weights(path, contents, base))
    if "packed" in contents:
        pack(model, **contents["packed"])
    load_trained_state(model, contents["step"]["model"])
    text = build_text(config)(model.eval(), tokenizer, contents["documents"])
    return OpenRun(path, config, text, contents["progress"]["step"])


def build_text(config: RunConfig) -> type[TextModel | Cloze | TextClassifier]:
    """What can be done with a trained model: write, fill in blanks, or tell labels."""
    if config.labels.kind != "none":
        return TextClassifier
    return {EncoderConfig: Cloze, EncoderDecoderConfig: Translator}.get(type(config.model), TextModel)


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
