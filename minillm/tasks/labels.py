"""Classification: fine-tune an encoder, pre-trained or random, to answer one question about each text.

    loss = -log p(label | text), summed over a batch of texts

The labels come from the grammar that generated the stories, so the corpus must be one of generated stories. Read
before: `datasets/labels.py`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor, nn

from minillm.config.fields import validate
from minillm.datasets.corpus import Corpus
from minillm.datasets.labels import ENDINGS, LabelledTexts, ending
from minillm.datasets.split import Splits
from minillm.evaluation.validation import Validation
from minillm.models.encoder import Encoder, EncoderConfig
from minillm.models.heads import Classifier
from minillm.objectives.classification import classification
from minillm.objectives.loss import Objective
from minillm.tasks.documents import read_texts, tokenized
from minillm.tasks.gradients import GradientTask
from minillm.tasks.settings import Settings
from minillm.tasks.task import ALONE, Batches, Data, Demonstration, Extent, Frozen, Say, load_weights
from minillm.text.classifier import TextClassifier
from minillm.tokenizers.tokenizer import Tokenizer


@dataclass(frozen=True)
class Labels(GradientTask):
    """The task of classification; see the module."""

    kind: Literal["labels"] = "labels"  # what is learned
    question: Literal["ending"] = "ending"  # the question: does a story end badly or well
    order: Literal["epochs", "random"] = "epochs"  # texts once an epoch, or at random

    models: ClassVar = {EncoderConfig: Encoder}
    text = TextClassifier

    def __post_init__(self) -> None:
        validate(self)

    def ignores(self, settings: Settings) -> Mapping[str, str]:
        return dict.fromkeys(("sampling", "text"), "a classifier does not generate text")

    def data(self, settings: Settings, tokenizer: Tokenizer | None, say: Say, corpus: Corpus | None = None) -> Data:
        texts = read_texts(settings, say, corpus)
        if texts.world is None:
            raise ValueError(
                f"data.corpus = {settings.data.corpus}: expected stories beside task.kind = labels, "
                "since their endings are known; set one of the two"
            )
        labelled = [[ending(texts.world, story) for story in part] for part in texts.splits]
        asked = Splits(*([text for text, _ in part] for part in labelled))
        labels = Splits(*([label for _, label in part] for part in labelled))
        return tokenized(settings, texts._replace(splits=asked), tokenizer)._replace(labels=labels)

    def extent(self, settings: Settings, data: Data) -> Extent:
        passes = settings.train.max_steps * settings.train.batch_size / len(data.labels.train)
        return Extent(len(ENDINGS), passes, n_windows=0)

    def batches(self, settings: Settings, data: Data, frozen: Frozen = ALONE) -> Batches:
        texts = LabelledTexts(data.train, data.labels.train, settings.model.context_length)
        return texts.batches(settings.train.batch_size, settings.train.seed, self.order)

    def objective(self, settings: Settings, frozen: Frozen = ALONE) -> Objective:
        return classification

    def model(self, settings: Settings, vocab_size: int) -> nn.Module:
        return Classifier(super().model(settings, vocab_size), len(ENDINGS))

    def start_from(self, model: nn.Module, weights: dict[str, Tensor]) -> list[nn.Module]:
        """See `Task.start_from`. The weights are those of another classifier, or of an encoder without its head."""
        whole = any(name.startswith("encoder.") for name in weights)
        load_weights(model if whole else model.encoder, weights)
        return [] if whole else [model.answer]

    def validation(self, settings: Settings, data: Data, part: str) -> Validation:
        stream, labels = {"val": (data.val, data.labels.val), "test": (data.test, data.labels.test)}[part]
        batches = LabelledTexts(stream, labels, settings.model.context_length).every(64)
        return Validation(batches, classification, n_bytes=None, source_nats=None)

    def demonstrate(self, settings: Settings, data: Data, text: TextClassifier) -> Demonstration:
        return Demonstration("", "classify more", "--classify TEXT")
