"""A task: what is learned, as the section [task] of a config names it.

Each kind of task is a frozen dataclass; its fields are the keys of that section. A task cuts the corpus into batches,
builds the model and its training step, and wraps the trained model for use. It also reports its size and shows a
result, so no script depends on the kind. A new kind is a new file here and its name in `runs/config.py`. Read before:
`settings`; next: `next_token`.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple

from torch import Tensor, nn

from minillm.datasets.conversations import Conversations
from minillm.datasets.corpus import Corpus
from minillm.datasets.examples import Examples
from minillm.datasets.pairs import Pairs
from minillm.datasets.split import Splits
from minillm.datasets.tokens import TokenStream
from minillm.evaluation.validation import Validation
from minillm.objectives.loss import Objective
from minillm.tasks.settings import Settings
from minillm.text.classifier import TextClassifier
from minillm.text.cloze import Cloze
from minillm.text.model import TextModel
from minillm.tokenizers.tokenizer import Tokenizer
from minillm.training.counting import CountingStep
from minillm.training.step import GradientStep

Batches = Callable[[int], Any]  # step -> training batch, of the type that the task's objective takes
Say = Callable[[str], object]
Text = TextModel | Cloze | TextClassifier
Frozen = Mapping[str, nn.Module]  # models that a task uses but does not train, by the key of [task] that names each
ALONE: Frozen = MappingProxyType({})  # of a task without companions


class Companion(NamedTuple):
    """A run that a task uses but does not train: a teacher, a reference, a reward model."""

    run: str  # its folder, as [task] names it
    text: type  # what it must be, such as TextModel for a run that writes


class Data(NamedTuple):
    """A corpus that is split and tokenized."""

    tokenizer: Tokenizer
    documents: bool  # many documents, or one long text
    train: TokenStream | Pairs | Conversations
    val: TokenStream | Pairs | Conversations
    test: TokenStream | Pairs | Conversations | None
    val_nats: float | None = None  # minus the log probability of the validation documents under their source, if known
    test_nats: float | None = None
    nats_error: float = 0.0  # standard error of these two, in nats a document
    labels: Splits | None = None  # labels of each document, if there are any
    examples: Examples | None = None  # the conversations and their exercises, if it is of conversations


class Training(NamedTuple):
    """A model that is ready to be trained."""

    settings: Settings  # with each "auto" replaced by the choice
    step: GradientStep | CountingStep
    validation: Callable[[str], Validation]  # the full pass over one held-out part, "val" or "test"


class Extent(NamedTuple):
    """The size of a training."""

    n_answers: int  # answers that a uniform guess chooses among: its loss is ln n_answers
    passes: float  # passes over the training data in train.max_steps steps
    n_windows: int  # windows of model.context_length that the text must fill; 0: rows are whole texts, often shorter
    n_steps: int | None = None  # number of steps that the data has; None: unlimited


class Demonstration(NamedTuple):
    """A demonstration: an output of a trained model, and the commands for more."""

    example: str  # an output of the model; "" for none
    more: str  # what a user can do next, ...
    flags: str  # ... with these flags of sample.py
    remark: str = ""  # e.g. that the model has memorized its training text; "" for none


class Task(ABC):
    """One kind of training. A subclass is a frozen dataclass; each field is a key of [task]."""

    kind: str
    models: ClassVar[Mapping[type, Callable[[Any, int], nn.Module]]] = {}  # config class -> model class that it trains

    def ignores(self, settings: Settings) -> Mapping[str, str]:
        """Sections and keys ("optim", "train.compile") that would have no effect here, each with the reason."""
        return {}

    def companions(self) -> Mapping[str, Companion]:
        """The runs that this task uses but does not train, by the key of [task] that names each.

        `runs/companions.py` opens them; the trained model gets their tokenizer.
        """
        return {}

    @abstractmethod
    def data(self, settings: Settings, tokenizer: Tokenizer | None, say: Say, corpus: Corpus | None = None) -> Data:
        """Load, split and tokenize the corpus, by `tokenizer` or by one trained on the training part.

        Remarks go to `say`; `corpus` replaces that of the settings. Raises ValueError for a corpus that it cannot use.
        """

    @abstractmethod
    def extent(self, settings: Settings, data: Data) -> Extent:
        """The size of a training on this data."""

    @abstractmethod
    def batches(self, settings: Settings, data: Data, frozen: Frozen = ALONE) -> Batches:
        """The training batches; each is a function of (train.seed, step)."""

    @abstractmethod
    def objective(self, settings: Settings, frozen: Frozen = ALONE) -> Objective:
        """The loss that training minimizes."""

    def model(self, settings: Settings, vocab_size: int) -> nn.Module:
        """A fresh model, drawn from torch's global generator."""
        return self.models[type(settings.model)](settings.model, vocab_size)

    def start_from(self, model: nn.Module, weights: dict[str, Tensor]) -> list[nn.Module]:
        """Load the weights of another run; return the parts that it lacks. Raises ValueError if they do not fit."""
        load_weights(model, weights)
        return []

    @abstractmethod
    def step(self, settings: Settings, model: nn.Module, frozen: Frozen = ALONE) -> GradientStep | CountingStep:
        """The update of `model`, for settings without "auto". Raises ValueError for settings that cannot work."""

    @abstractmethod
    def validation(self, settings: Settings, data: Data, part: str) -> Validation:
        """The validation on a whole held-out part, "val" or "test". It needs no step, so any run can be measured."""

    @abstractmethod
    def training(self, settings: Settings, data: Data, model: nn.Module, frozen: Frozen, say: Say = print) -> Training:
        """Build the step and the validation; "auto" is replaced here, with a remark to `say`."""

    @abstractmethod
    def text(self, model: nn.Module, tokenizer: Tokenizer, documents: bool) -> Text:
        """Wrap the trained model for use. `documents`: whether the training text was many documents."""

    @abstractmethod
    def demonstrate(self, settings: Settings, data: Data, text: Text) -> Demonstration:
        """An example of the trained model's output, and the commands for more."""


def load_weights(model: nn.Module, weights: dict[str, Tensor]) -> None:
    """Load the weights of another run. Raises ValueError if they do not fit."""
    try:
        model.load_state_dict(weights)
    except RuntimeError as e:
        raise ValueError(
            f"--init-from: expected the weights of another {type(model).__name__}; start from a run of the same kind"
        ) from e
