"""Filling in blanks: an encoder, which reads on both sides, is asked what stood there (BERT).

Windows are cut as for `next_token`; then tokens are hidden in them, and for `model.next_sentence` two halves are paired. Only the
blanks are predicted, so neither the bytes of the text nor its source are measures here. Read `datasets/masking.py` before.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import nn

from minillm.datasets.corpus import Corpus
from minillm.datasets.masking import Masking
from minillm.datasets.next_sentence import masked_pairs
from minillm.datasets.windows import Windows, evaluation_batches
from minillm.evaluation.validation import Validation
from minillm.models.encoder import Encoder
from minillm.objectives.loss import Objective
from minillm.objectives.masked_token import masked_token, masked_token_and_next_sentence
from minillm.tasks.documents import read_texts, tokenized
from minillm.tasks.task import Batches, Data, Say, Task
from minillm.text.cloze import Cloze
from minillm.tokenizers.tokenizer import Tokenizer


class Blanks(Task):
    """See the module."""

    text = Cloze

    def data(self, tokenizer: Tokenizer | None, say: Say, corpus: Corpus | None = None) -> Data:
        return tokenized(self.config, read_texts(self.config, say, corpus), tokenizer)

    def batches(self, data: Data) -> Batches:
        c, seed, blank = self.config, self.config.train.seed, self._blank(data)
        windows = Windows(
            data.train, c.model.context_length, c.train.batch_size, seed, c.data.order, data.documents
        ).batch
        return lambda step: blank(windows(step).tokens, seed, step, 1)

    def validation(self, data: Data, part: str) -> Validation:
        stream, blank = {"val": data.val, "test": data.test}[part], self._blank(data)
        batches = evaluation_batches(stream, self.config.model.context_length, 64, data.documents)
        blanked = [blank(batch.tokens, 0, i, 2) for i, batch in enumerate(batches)]
        return Validation(blanked, self.objective(), n_bytes=None, source_nats=None)

    def model(self, vocab_size: int) -> nn.Module:
        return Encoder(self.config.model, vocab_size)

    def objective(self) -> Objective:
        return masked_token_and_next_sentence if self.config.model.next_sentence else masked_token

    def _blank(self, data: Data) -> Callable[..., Any]:
        """(tokens, *seed) -> a batch with blanks, of pairs if the encoder is to tell which texts follow each other."""
        masking = Masking(self.config.masking, data.tokenizer)
        return partial(masked_pairs, masking) if self.config.model.next_sentence else masking
