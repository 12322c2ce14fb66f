"""Predicting the next token of a text: the task of every language model that learns by gradients.

Batches are windows cut from the text, or lanes that go on where the batch before stopped, for a model that carries its state along.
Where the source of the text is known, validation says how far the model is from it. Read `task` and `documents` before.
"""

from torch import nn

from minillm.config.registry import Registry
from minillm.datasets.corpus import Corpus
from minillm.datasets.lanes import Lanes
from minillm.datasets.windows import Windows, evaluation_batches
from minillm.evaluation.validation import Validation
from minillm.models.decoder import Decoder, DecoderConfig
from minillm.models.rnn import RNN, RNNConfig
from minillm.objectives.loss import Objective
from minillm.objectives.next_token import next_token
from minillm.tasks.documents import read_texts, tokenized
from minillm.tasks.task import Batches, Data, Say, Task, smoothed
from minillm.text.model import TextModel
from minillm.tokenizers.tokenizer import Tokenizer

MODELS: Registry[type, type[nn.Module]] = Registry(
    "model.kind", "MODELS in minillm/tasks/next_token.py", {DecoderConfig: Decoder, RNNConfig: RNN}
)


class NextToken(Task):
    """See the module."""

    text = TextModel

    def data(self, tokenizer: Tokenizer | None, say: Say, corpus: Corpus | None = None) -> Data:
        texts = read_texts(self.config, say, corpus)
        data = tokenized(self.config, texts, tokenizer)
        if texts.remark:
            say(texts.remark)
        if texts.source is None:
            return data
        val, test = (texts.source.nats(part) if part else None for part in texts.splits[1:])
        return data._replace(val_nats=val, test_nats=test, nats_error=texts.source.error)

    def batches(self, data: Data) -> Batches:
        c, how = self.config, (self.config.model.context_length, self.config.train.batch_size, self.config.train.seed)
        if c.data.order == "contiguous":
            return Lanes(data.train, *how, data.documents).batch
        return Windows(data.train, *how, c.data.order, data.documents).batch

    def validation(self, data: Data, part: str) -> Validation:
        stream, nats = {"val": (data.val, data.val_nats), "test": (data.test, data.test_nats)}[part]
        batches = evaluation_batches(stream, self.config.model.context_length, 64, data.documents)
        error = len(stream.starts) * data.nats_error
        return Validation(batches, next_token, n_bytes=stream.n_bytes, source_nats=nats, source_error=error)

    def model(self, vocab_size: int) -> nn.Module:
        return MODELS[type(self.config.model)](self.config.model, vocab_size)

    def objective(self) -> Objective:
        return smoothed(next_token, self.config.train.label_smoothing)
