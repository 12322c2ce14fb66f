"""Telling labels: an encoder, pre-trained or fresh, is fine-tuned to answer one question about each text.

Labels are facts of the world that wrote the stories, so the corpus must be that world's. Read `datasets/labels.py` before.
"""

from torch import Tensor, nn

from minillm.datasets.corpus import Corpus
from minillm.datasets.labels import ENDINGS, LabelledTexts, ending
from minillm.datasets.split import Splits
from minillm.evaluation.validation import Validation
from minillm.models.encoder import Encoder
from minillm.models.heads import Classifier
from minillm.objectives.classification import classification
from minillm.objectives.loss import Objective
from minillm.tasks.documents import read_texts, tokenized
from minillm.tasks.task import Batches, Data, Say, Task, load_weights
from minillm.text.classifier import TextClassifier
from minillm.tokenizers.tokenizer import Tokenizer


class Labels(Task):
    """See the module."""

    text = TextClassifier

    def data(self, tokenizer: Tokenizer | None, say: Say, corpus: Corpus | None = None) -> Data:
        texts = read_texts(self.config, say, corpus)
        if texts.world is None:
            kind = self.config.labels.kind
            raise ValueError(
                f"labels.kind = {kind}: expected data.corpus = stories, whose endings are known; set one of the two"
            )
        labelled = [[ending(texts.world, story) for story in part] for part in texts.splits]
        asked = Splits(*([text for text, _ in part] for part in labelled))
        labels = Splits(*([label for _, label in part] for part in labelled))
        return tokenized(self.config, texts._replace(splits=asked), tokenizer)._replace(labels=labels)

    def batches(self, data: Data) -> Batches:
        c = self.config
        return LabelledTexts(data.train, data.labels.train, c.model.context_length).batches(
            c.train.batch_size, c.train.seed, c.data.order
        )

    def validation(self, data: Data, part: str) -> Validation:
        stream, labels = {"val": (data.val, data.labels.val), "test": (data.test, data.labels.test)}[part]
        batches = LabelledTexts(stream, labels, self.config.model.context_length).every(64)
        return Validation(batches, classification, n_bytes=None, source_nats=None)

    def passes(self, data: Data) -> float:
        return self.config.train.max_steps * self.config.train.batch_size / len(data.labels.train)

    def model(self, vocab_size: int) -> nn.Module:
        return Classifier(Encoder(self.config.model, vocab_size), len(ENDINGS))

    def objective(self) -> Objective:
        return classification

    def start_from(self, model: nn.Module, weights: dict[str, Tensor]) -> None:
        """Begin with the weights of another classifier, or with those of an encoder alone."""
        whole = any(name.startswith("encoder.") for name in weights)
        load_weights(model if whole else model.encoder, weights)
