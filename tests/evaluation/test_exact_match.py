"""The translator's validation, tested on translators whose score is known."""

from functools import partial

import pytest
import torch
from torch import nn

from minillm.datasets.pairs import Pairs, evaluation_pairs
from minillm.datasets.tokens import token_stream
from minillm.evaluation.exact_match import TranslationValidation
from minillm.models.encoder_decoder import EncoderDecoder, EncoderDecoderConfig
from minillm.objectives.seq2seq import seq2seq
from minillm.tokenizers.byte import ByteTokenizer

TOKENIZER = ByteTokenizer()
SENTENCES = ["abc", "b", "défg", "hi", "jkl mn", "o"]


@pytest.fixture
def batches(tmp_path):
    return evaluation_pairs(Pairs(*[token_stream(SENTENCES, TOKENIZER, tmp_path)] * 2), context_length=9, batch_size=4)


class Memory:
    """The state: the source, and the number of tokens generated."""

    context_length = 9

    def __init__(self, source):
        self.source, self.lengths = source, torch.zeros(len(source), dtype=torch.long)

    def reorder(self, rows, since=0):
        self.source, self.lengths = self.source[rows], self.lengths[rows]


class Copier(nn.Module):
    """Copies its source; it always gets the letters `wrong` wrong, or (`endless`) never ends."""

    def __init__(self, wrong: str = "", endless: bool = False):
        super().__init__()
        self.wrong, self.endless = TOKENIZER.encode(wrong), endless
        self.context_length, self.vocab_size = 9, TOKENIZER.vocab_size
        self.weight = nn.Parameter(torch.zeros(()))

    def start(self, batch_size, source):
        return Memory(source)

    def forward(self, tokens, state=None, source=None):
        source = state.source if state else source
        first = int(state.lengths[0]) if state else 0
        right = source[:, [min(first + i, source.shape[1] - 1) for i in range(tokens.shape[1])]].clamp(min=0)
        right = right.masked_fill(torch.isin(right, torch.tensor(self.wrong)), TOKENIZER.encode("x")[0])
        right = right.masked_fill(right == TOKENIZER.end_id, TOKENIZER.encode("!")[0]) if self.endless else right
        if state:
            state.lengths = state.lengths + tokens.shape[1]
        return 50.0 * nn.functional.one_hot(right, self.vocab_size) + self.weight, state


COPIERS = [(Copier(), 1), (Copier(wrong="b"), 4 / 6), (Copier(wrong="abdhjo"), 0), (Copier(endless=True), 0)]


@pytest.mark.parametrize(("model", "share"), COPIERS)
def test_the_share_of_sentences_that_are_right_to_the_letter_is_reported(batches, model, share):
    metrics = TranslationValidation(batches, seq2seq, n_bytes=20, tokenizer=TOKENIZER)(model)
    assert set(metrics) == {"val_loss", "bits_per_byte", "exact_match"}
    assert metrics["exact_match"] == pytest.approx(share)
    assert metrics["val_loss"] < 1e-9 if share == 1 else metrics["val_loss"] > 1


def test_validation_leaves_mode_and_weights_as_they_were_and_uses_neither_dropout_nor_smoothing(batches):
    config = EncoderDecoderConfig(n_layers=1, d_model=12, n_heads=3, context_length=9, dropout=0.5)
    model = EncoderDecoder(config, TOKENIZER.vocab_size).train()
    before = [p.clone() for p in model.parameters()]
    validation = TranslationValidation(batches, seq2seq, n_bytes=20, tokenizer=TOKENIZER)
    metrics = validation(model)
    assert metrics == validation(model)
    assert model.training and all(torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))
    smoothed = TranslationValidation(batches, partial(seq2seq, smoothing=0.1), n_bytes=20, tokenizer=TOKENIZER)
    assert smoothed(model)["val_loss"] != metrics["val_loss"]
