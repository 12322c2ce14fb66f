"""Translating: an encoder reads a sentence, a decoder writes it in another language.

Pairs are split by combination, so that held-out sentences are new, and both languages share one tokenizer. Beside its loss, a
translator is measured by the sentences that it gets right to the letter. Read `datasets/pairs.py` before.
"""

from torch import nn

from minillm.datasets.corpus import Corpus, load_pairs
from minillm.datasets.pairs import PairBatches, Pairs, evaluation_pairs, spaced, split_pairs
from minillm.datasets.tokens import token_stream
from minillm.evaluation.exact_match import TranslationValidation
from minillm.evaluation.validation import Validation
from minillm.models.encoder_decoder import EncoderDecoder
from minillm.objectives.loss import Objective
from minillm.objectives.seq2seq import seq2seq
from minillm.tasks.task import Batches, Data, Say, Task, smoothed
from minillm.text.translator import Translator
from minillm.tokenizers.build_tokenizer import train_tokenizer
from minillm.tokenizers.tokenizer import Tokenizer


class Translation(Task):
    """See the module."""

    text = Translator

    def data(self, tokenizer: Tokenizer | None, say: Say, corpus: Corpus | None = None) -> Data:
        c = self.config.data
        if corpus is not None:
            raise ValueError(
                f"corpus = {corpus.name}: expected none, since pairs are learned here; name a .tsv file in data.corpus"
            )
        if c.clean:
            raise ValueError(
                "data.clean = true: expected false for pairs, since cleaning drops single documents; leave it out"
            )
        splits = split_pairs(load_pairs(c), c.val_fraction, c.test_fraction)
        parts = [
            [[spaced(pair.source) for pair in part], [spaced(pair.target) for pair in part]] for part in splits if part
        ]
        tokenizer = tokenizer or train_tokenizer(self.config.tokenizer, parts[0][0] + parts[0][1])
        train, val, *test = (Pairs(*(token_stream(side, tokenizer) for side in part)) for part in parts)
        return Data(tokenizer, True, train, val, test[0] if test else None)

    def batches(self, data: Data) -> Batches:
        c = self.config
        return PairBatches(data.train, c.model.context_length, c.train.batch_size, c.train.seed, c.data.order).batch

    def validation(self, data: Data, part: str) -> Validation:
        pairs = {"val": data.val, "test": data.test}[part]
        batches = evaluation_pairs(pairs, self.config.model.context_length, 256)
        return TranslationValidation(batches, seq2seq, n_bytes=pairs.n_bytes, tokenizer=data.tokenizer)

    def passes(self, data: Data) -> float:
        return self.config.train.max_steps * self.config.train.batch_size / len(data.train)

    def model(self, vocab_size: int) -> nn.Module:
        return EncoderDecoder(self.config.model, vocab_size)

    def objective(self) -> Objective:
        return smoothed(seq2seq, self.config.train.label_smoothing)
