"""A task: what is learned, and all that follows from it, so that nobody else has to ask what is learned.

Predicting the next token, counting, filling in blanks, telling labels and translating differ in what a corpus is cut into, what a
batch holds, which model reads it, what is minimized and what can be done with the trained model. Each is one class with the methods
below; whatever most tasks do alike is done here. Read `run_config` before, then `next_token`; `runs/wiring.py` picks the task of a config.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from torch import Tensor, nn

from minillm.datasets.corpus import Corpus
from minillm.datasets.pairs import Pairs
from minillm.datasets.split import Splits
from minillm.datasets.tokens import TokenStream
from minillm.evaluation.validation import Validation
from minillm.objectives.loss import Objective
from minillm.run_config import RunConfig
from minillm.text.classifier import TextClassifier
from minillm.text.cloze import Cloze
from minillm.text.model import TextModel
from minillm.tokenizers.tokenizer import Tokenizer
from minillm.training.carried import CarriedStep
from minillm.training.counting import CountingStep
from minillm.training.fast_step import accelerate_training
from minillm.training.manual import ManualStep
from minillm.training.optim import build_optimizer
from minillm.training.schedule import rate
from minillm.training.step import GradientStep

Batches = Callable[[int], Any]  # step -> training batch, of the kind that the task's objective takes
Say = Callable[[str], object]


class Data(NamedTuple):
    """A corpus, ready to train on."""

    tokenizer: Tokenizer
    documents: bool  # many documents, or one long text
    train: TokenStream | Pairs
    val: TokenStream | Pairs
    test: TokenStream | Pairs | None
    val_nats: float | None = (
        None  # minus the log probability of the validation documents under their source, where that is known
    )
    test_nats: float | None = None
    nats_error: float = 0.0  # standard error of these two, in nats a document
    labels: Splits | None = None  # of each document, where there are any


class Task(ABC):
    """What one config asks for."""

    text: type[TextModel | Cloze | TextClassifier]  # what can be done with a trained model

    def __init__(self, config: RunConfig):
        self.config = config

    @abstractmethod
    def data(self, tokenizer: Tokenizer | None, say: Say, corpus: Corpus | None = None) -> Data:
        """The corpus, split, and tokenized by `tokenizer` or one that is trained on the training part; remarks go to `say`.

        `corpus` stands in for that of the config.
        """

    @abstractmethod
    def batches(self, data: Data) -> Batches:
        """The training batches."""

    @abstractmethod
    def validation(self, data: Data, part: str) -> Validation:
        """The full pass over one held-out part, "val" or "test"."""

    @abstractmethod
    def model(self, vocab_size: int) -> nn.Module:
        """A fresh model, drawn from torch's global generator."""

    @abstractmethod
    def objective(self) -> Objective:
        """What training minimizes."""

    def start_from(self, model: nn.Module, weights: dict[str, Tensor]) -> None:
        """Begin with the weights of another run. Raises ValueError where they do not fit."""
        load_weights(model, weights)

    def step(self, model: nn.Module) -> GradientStep | CountingStep:
        """The update that the config describes. Raises ValueError for settings that it would ignore."""
        c = self.config
        fraction = partial(rate, c.schedule, max_steps=c.train.max_steps, floor=c.optim.min_lr / c.optim.lr)
        by_backward = {"autograd": GradientStep, "manual": ManualStep}
        kind = CarriedStep if c.data.order == "contiguous" else by_backward[c.train.backward]
        step = kind(
            model,
            self.objective(),
            build_optimizer(model, c.optim),
            lambda step: fraction(step=step),
            lr=c.optim.lr,
            grad_clip=c.train.grad_clip,
            n_micro_batches=c.train.n_micro_batches,
            precision=c.train.precision,
        )
        return accelerate_training(step) if c.train.fast else step

    def passes(self, data: Data) -> float:
        """Passes over the text in a training."""
        c = self.config
        return c.train.max_steps * c.train.batch_size * c.model.context_length / len(data.train.ids)

    def limit_steps(self, data: Data, say: Say) -> RunConfig:
        """The config with no more steps than there is data for: batches never end, unless a task says otherwise."""
        return self.config


def smoothed(objective: Callable[..., Any], smoothing: float) -> Objective:
    """The objective with its labels smoothed, or as it is."""
    return partial(objective, smoothing=smoothing) if smoothing else objective


def load_weights(model: nn.Module, weights: dict[str, Tensor]) -> None:
    """Begin with the weights of another run. Raises ValueError where they do not fit."""
    try:
        model.load_state_dict(weights)
    except RuntimeError as e:
        raise ValueError(
            f"--init-from: expected the weights of another {type(model).__name__}; start from a run of the same kind"
        ) from e
