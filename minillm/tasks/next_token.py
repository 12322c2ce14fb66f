"""Next-token prediction: the task of every language model that learns by gradients.

    loss = -log p(token t + 1 | tokens 0 ... t), summed over a batch

Batches are windows cut from the text, or single documents of similar length; or, for a model that carries its state,
lanes, where each batch continues the previous one. If the source of the text is known, validation also measures the
regret, the loss above the source's own. Read before: `task`, `documents`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from torch import nn

from minillm.config.fields import Between, validate
from minillm.datasets.buckets import BucketedBatches, each_row_once
from minillm.datasets.corpus import Corpus
from minillm.datasets.curriculum import Curriculum
from minillm.datasets.document_rows import DocumentRows
from minillm.datasets.lanes import Lanes
from minillm.datasets.windows import Windows, evaluation_batches
from minillm.evaluation.memorization import count_memorized, memorization_remark
from minillm.evaluation.validation import Validation
from minillm.models.decoder import Decoder, DecoderConfig
from minillm.models.rnn import RNN, RNNConfig
from minillm.objectives.loss import Objective
from minillm.objectives.next_token import next_token
from minillm.tasks.documents import read_texts, thinned, tokenized
from minillm.tasks.gradients import GradientTask, build_step, smoothed
from minillm.tasks.settings import Settings
from minillm.tasks.task import ALONE, Batches, Data, Demonstration, Extent, Frozen, Say
from minillm.text.model import TextModel
from minillm.tokenizers.tokenizer import Tokenizer
from minillm.training.carried import CarriedStep
from minillm.training.manual import ManualStep
from minillm.training.step import GradientStep


@dataclass(frozen=True)
class NextToken(GradientTask):
    """The task of next-token prediction; see the module."""

    kind: Literal["next_token"] = "next_token"  # what is learned
    order: Literal["epochs", "random", "documents", "contiguous"] = (
        "epochs"  # windows once an epoch, or at random; one document a row; the order of the text, carrying state (rnn)
    )
    short_first: Annotated[float, Between(0, 1)] = (
        0.0  # share of the first pass that has the shortest documents (order = documents)
    )
    label_smoothing: Annotated[float, Between(0, 0.99)] = 0.0  # share of the target that is spread over all tokens
    backward: Literal["autograd", "manual"] = "autograd"  # gradients by torch, or by the formulas of minillm/backprop

    models: ClassVar = {DecoderConfig: Decoder, RNNConfig: RNN}
    text = TextModel

    def __post_init__(self) -> None:
        validate(self)
        if self.short_first and self.order != "documents":
            raise ValueError(
                f"task.short_first = {self.short_first}: expected 0 beside task.order = {self.order}, whose rows are "
                "of one length; set task.order = documents"
            )
        if self.backward == "manual" and self.order == "contiguous":
            raise ValueError(
                "task.order = contiguous: expected epochs or random beside task.backward = manual; "
                "change one of the two"
            )
        if self.backward == "manual" and self.label_smoothing:
            raise ValueError(
                f"task.label_smoothing = {self.label_smoothing}: expected 0 beside task.backward = manual; "
                "change one of the two"
            )

    def ignores(self, settings: Settings) -> Mapping[str, str]:
        model, reasons = settings.model, {}
        if self.order == "contiguous" and not isinstance(model, RNNConfig):
            reasons["task.order"] = f"only model.kind = rnn carries a state from batch to batch, not {model.kind}"
        if self.order == "documents":
            reasons["train.compile"] = "rows of other lengths would be compiled again and again"
        if self.backward == "manual":
            reasons["train.compile"] = "the formulas of task.backward = manual are for reading, not for speed"
        elif isinstance(model, RNNConfig):
            reasons["train.compile"] = "model.kind = rnn would be compiled again for every token"
        elif isinstance(model, DecoderConfig) and model.n_experts:
            reasons["train.compile"] = (
                f"model.n_experts = {model.n_experts} would be compiled again for every choice of experts"
            )
        return reasons

    def data(self, settings: Settings, tokenizer: Tokenizer | None, say: Say, corpus: Corpus | None = None) -> Data:
        return read_with_source(settings, tokenizer, say, corpus)

    def extent(self, settings: Settings, data: Data) -> Extent:
        """See `Task.extent`. Each lane needs a window."""
        if self.order == "documents":
            n_steps = self.by_document(settings, data).steps_per_epoch
            return Extent(data.tokenizer.vocab_size, settings.train.max_steps / n_steps, n_windows=0)
        n_windows = settings.train.batch_size if self.order == "contiguous" else 1
        return Extent(data.tokenizer.vocab_size, passes(settings, data), n_windows)

    def batches(self, settings: Settings, data: Data, frozen: Frozen = ALONE) -> Batches:
        how = (settings.model.context_length, settings.train.batch_size, settings.train.seed)
        if self.order == "contiguous":
            return Lanes(data.train, *how, data.documents).batch
        if self.order == "documents":
            return self.by_document(settings, data).batch
        return Windows(data.train, *how, self.order, data.documents).batch

    def by_document(self, settings: Settings, data: Data) -> BucketedBatches:
        """The batches of `order` = documents. Raises ValueError for a long text."""
        if not data.documents:
            raise ValueError(
                "task.order = documents: expected a corpus of many documents, found one long text; take epochs"
            )
        rows = DocumentRows(data.train, settings.model.context_length)
        plan = Curriculum(rows.lengths()[:, 0], settings.train.batch_size, settings.train.seed, self.short_first)
        return BucketedBatches(rows, plan)

    def objective(self, settings: Settings, frozen: Frozen = ALONE) -> Objective:
        return smoothed(next_token, self.label_smoothing)

    def step(self, settings: Settings, model: nn.Module, frozen: Frozen = ALONE) -> GradientStep:
        by_backward = {"autograd": GradientStep, "manual": ManualStep}
        kind = CarriedStep if self.order == "contiguous" else by_backward[self.backward]
        return build_step(kind, settings, model, self.objective(settings, frozen))

    def precision(
        self, settings: Settings, model: nn.Module, batches: Batches, say: Say, frozen: Frozen = ALONE
    ) -> str:
        """See `GradientTask.precision`. The manual formulas need fp32."""
        return "fp32" if self.backward == "manual" else super().precision(settings, model, batches, say, frozen)

    def validation(self, settings: Settings, data: Data, part: str) -> Validation:
        return measure_with_source(settings, data, part, by_document=self.order == "documents")

    def demonstrate(self, settings: Settings, data: Data, text: TextModel) -> Demonstration:
        remark = describe_memorization(settings, data, text) if self.extent(settings, data).passes > 1 else ""
        return Demonstration(sample(settings, text), "write more", "--top-p 0.9", remark)


def read_with_source(
    settings: Settings, tokenizer: Tokenizer | None, say: Say, corpus: Corpus | None, share: float = 1.0
) -> Data:
    """Read the texts as tokens, with the log probability of the held-out texts under their source, if it is known.

    `share`: that of the training documents that are kept.
    """
    texts = thinned(read_texts(settings, say, corpus), share)
    data = tokenized(settings, texts, tokenizer)
    if texts.remark:
        say(texts.remark)
    if texts.source is None:
        return data
    val, test = (texts.source.nats(part) if part else None for part in texts.splits[1:])
    return data._replace(val_nats=val, test_nats=test, nats_error=texts.source.error)


def passes(settings: Settings, data: Data) -> float:
    """Number of passes over the text, in windows of model.context_length."""
    return settings.train.max_steps * settings.train.batch_size * settings.model.context_length / len(data.train.ids)


def measure_with_source(settings: Settings, data: Data, part: str, by_document: bool = False) -> Validation:
    """The validation on one held-out part: every token is predicted once, in rows as those of the training."""
    stream, nats = {"val": (data.val, data.val_nats), "test": (data.test, data.test_nats)}[part]
    if by_document:
        batches = each_row_once(DocumentRows(stream, settings.model.context_length), 64)
    else:
        batches = evaluation_batches(stream, settings.model.context_length, 64, data.documents)
    error = len(stream.starts) * data.nats_error
    return Validation(batches, next_token, n_bytes=stream.n_bytes, source_nats=nats, source_error=error)


def sample(settings: Settings, text: TextModel) -> str:
    """Generate a text after the prompt of the settings, below a line with the sampling pipeline."""
    prompt, sampling, most = settings.text.prompt, settings.sampling, settings.text.max_new_tokens
    [written] = text.generate([prompt], sampling, max_new_tokens=most, seeds=[settings.train.seed])
    return f"a sample ({text.sampler(sampling, [prompt])}):\n{written.prompt}{text.joint}{written.text}"


def describe_memorization(settings: Settings, data: Data, text: TextModel) -> str:
    """A sentence if the model has memorized its training text, else ""."""
    train, val = (
        count_memorized(text.model, part, settings.model.context_length, data.documents)
        for part in (data.train, data.val)
    )
    return memorization_remark(train, val)
