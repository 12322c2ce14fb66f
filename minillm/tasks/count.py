"""Counting n-grams: next-token prediction without gradients, from counts made in one pass over the training text.

Data, validation and use of the model are those of `next_token`. Each token must be counted once, so the batches end
with the text; settings of gradients have no effect and are refused. Read before: `next_token`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar, Literal

from torch import nn

from minillm.config.fields import validate
from minillm.datasets.corpus import Corpus
from minillm.datasets.single_pass import SinglePass
from minillm.evaluation.validation import Validation
from minillm.models.ngram import Ngram, NgramConfig
from minillm.objectives.loss import Objective
from minillm.objectives.next_token import next_token
from minillm.tasks.next_token import measure_with_source, read_with_source, sample
from minillm.tasks.settings import Settings
from minillm.tasks.task import ALONE, Batches, Data, Demonstration, Extent, Frozen, Say, Task, Training
from minillm.text.model import TextModel
from minillm.tokenizers.tokenizer import Tokenizer
from minillm.training.counting import CountingStep

OF_GRADIENTS = ("optim", "schedule", "adapter", "train.n_micro_batches", "train.grad_clip", "train.compile")


@dataclass(frozen=True)
class Count(Task):
    """The task of counting n-grams; see the module."""

    kind: Literal["count"] = "count"  # what is learned

    models: ClassVar = {NgramConfig: Ngram}
    text = TextModel

    def __post_init__(self) -> None:
        validate(self)

    def ignores(self, settings: Settings) -> Mapping[str, str]:
        """See `Task.ignores`. bf16 is refused, since it cannot represent large counts exactly."""
        names = [*OF_GRADIENTS, *(["train.precision"] if settings.train.precision == "bf16" else [])]
        return dict.fromkeys(names, "task.kind = count has no gradients: it counts its text in order")

    def data(self, settings: Settings, tokenizer: Tokenizer | None, say: Say, corpus: Corpus | None = None) -> Data:
        return read_with_source(settings, tokenizer, say, corpus)

    def extent(self, settings: Settings, data: Data) -> Extent:
        n_steps = single_pass(settings, data).n_steps
        return Extent(data.tokenizer.vocab_size, min(1.0, settings.train.max_steps / n_steps), 1, n_steps)

    def batches(self, settings: Settings, data: Data, frozen: Frozen = ALONE) -> Batches:
        """See `Task.batches`. They do not depend on the seed."""
        return single_pass(settings, data).batch

    def objective(self, settings: Settings, frozen: Frozen = ALONE) -> Objective:
        """See `Task.objective`. Here it is measured but not minimized."""
        return next_token

    def step(self, settings: Settings, model: nn.Module, frozen: Frozen = ALONE) -> CountingStep:
        return CountingStep(model, self.objective(settings, frozen))

    def validation(self, settings: Settings, data: Data, part: str) -> Validation:
        return measure_with_source(settings, data, part)

    def training(self, settings: Settings, data: Data, model: nn.Module, frozen: Frozen, say: Say = print) -> Training:
        settings = replace(settings, train=replace(settings.train, precision="fp32"))
        return Training(settings, self.step(settings, model, frozen), partial(self.validation, settings, data))

    def demonstrate(self, settings: Settings, data: Data, text: TextModel) -> Demonstration:
        return Demonstration(sample(settings, text), "write more", "--top-p 0.9")


def single_pass(settings: Settings, data: Data) -> SinglePass:
    """The batches of one pass over the training text."""
    model = settings.model
    return SinglePass(data.train, model.context_length, settings.train.batch_size, model.order - 1)
