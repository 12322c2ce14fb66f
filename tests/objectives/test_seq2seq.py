"""The translator's objective: teacher-forced, summed over counted targets, smoothed only on request."""

import pytest
import torch
import torch.nn.functional as F

from minillm.constants import IGNORE
from minillm.datasets.pairs import PairBatch
from minillm.objectives.seq2seq import seq2seq
from tests.models.test_encoder_decoder import encoder_decoder, ragged
from tests.tiny import VOCAB, assert_equal


def a_batch() -> PairBatch:
    targets = ragged([2, 9, 6], 9, seed=40)
    return PairBatch(ragged([7, 3, 1], 7), ragged([2, 9, 6], 9, seed=20), targets.masked_fill(targets < 0, IGNORE))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_loss_is_torchs_over_the_logits_of_the_true_words_before(smoothing):
    model, batch = encoder_decoder(), a_batch()
    loss = seq2seq(model, batch, smoothing=smoothing)
    logits = model(batch.tokens, source=batch.source)[0].view(-1, VOCAB)
    assert_equal(
        loss.total, F.cross_entropy(logits, batch.targets.flatten(), label_smoothing=smoothing, reduction="sum")
    )
    assert loss.count == 2 + 9 + 6


def test_gradients_do_not_depend_on_how_a_batch_is_cut_nor_on_padding():
    model, batch = encoder_decoder(), a_batch()
    wider = [F.pad(part, (0, 3), value=fill) for part, fill in zip(batch, (-1, -1, IGNORE), strict=True)]
    roads = [[batch], [PairBatch(*(part[i : i + 1] for part in batch)) for i in range(3)], [PairBatch(*wider)]]
    gradients = []
    for parts in roads:
        model.zero_grad()
        sum(seq2seq(model, part, smoothing=0.1).total for part in parts).backward()
        gradients.append([p.grad for p in model.parameters()])
    for whole, *others in zip(*gradients, strict=True):
        for other in others:
            torch.testing.assert_close(other, whole, rtol=1e-9, atol=1e-11)
