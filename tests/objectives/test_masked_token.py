"""Masked-token prediction: only masked tokens count, and results do not depend on how a batch is cut."""

import math

import pytest
import torch

from minillm.constants import IGNORE
from minillm.datasets.batch import Batch
from minillm.datasets.labels import LabelBatch
from minillm.datasets.next_sentence import SegmentBatch
from minillm.evaluation.validation import Validation
from minillm.models.heads import Classifier
from minillm.objectives.classification import classification
from minillm.objectives.loss import Loss, mean_metrics
from minillm.objectives.masked_token import masked_token, masked_token_and_next_sentence
from minillm.training.optim import OptimConfig, build_optimizer
from minillm.training.step import GradientStep
from tests.models.test_encoder import encoder
from tests.tiny import assert_equal, tokens


def batch_of(B: int = 5, T: int = 7, share: float = 0.3) -> Batch:
    """Random tokens; some of them are targets."""
    blank = torch.rand(B, T, generator=torch.Generator().manual_seed(0)) < share
    return Batch(tokens(B, T), tokens(B, T, seed=1).masked_fill(~blank, IGNORE))


def pairs_of(B: int = 5) -> SegmentBatch:
    """The same with segments and next-sentence answers, some of them missing."""
    batch = batch_of(B)
    return SegmentBatch(
        batch.tokens, torch.randint(2, batch.tokens.shape), batch.targets, torch.tensor([1, 0, IGNORE, 1, 0][:B])
    )


def test_the_loss_is_the_sum_over_blanks_of_minus_log_probability_and_accuracy_counts_the_right_ones():
    model, batch = encoder(), batch_of()
    logits, total, right, n = model(batch.tokens), 0.0, 0, 0
    for b in range(5):
        for t in range(7):
            target = int(batch.targets[b, t])
            if target != IGNORE:
                total -= logits[b, t].log_softmax(-1)[target]
                right += int(logits[b, t].argmax()) == target
                n += 1
    loss = masked_token(model, batch)
    assert_equal(loss.total, total)
    assert loss.count == n and loss.metrics["masked_accuracy"] == (right, n)
    batch.targets[batch.targets != IGNORE] = model(batch.tokens).argmax(-1)[batch.targets != IGNORE]
    assert masked_token(model, batch).metrics["masked_accuracy"] == (n, n)


def test_the_answer_whether_a_text_follows_counts_for_as_many_blanks_as_was_asked_for():
    model, batch = encoder(next_sentence=3), pairs_of()
    hidden = model.hidden(batch.tokens, batch.segments)
    answers = model.follows(hidden, batch.tokens).log_softmax(-1)
    blanks = masked_token_of(model, hidden, batch.targets)
    expected = blanks - 3 * (answers[0, 1] + answers[1, 0] + answers[3, 1] + answers[4, 0])
    loss, n = masked_token_and_next_sentence(model, batch), int((batch.targets != IGNORE).sum())
    assert_equal(loss.total, expected)
    assert loss.count == n + 3 * 4 and loss.metrics["next_sentence_accuracy"][1] == 4
    right = sum(int(answers[i].argmax()) == int(batch.follows[i]) for i in (0, 1, 3, 4))
    assert mean_metrics([loss]) == {
        "masked_loss": pytest.approx(blanks.item() / n),
        "masked_accuracy": pytest.approx(int(loss.metrics["masked_accuracy"][0]) / n),
        "next_sentence_accuracy": right / 4,
    }


def masked_token_of(model, hidden, targets):
    """Negative log-probability of all blanks."""
    logprobs = model.head(hidden).log_softmax(-1)
    return -sum(logprobs[b, t, int(targets[b, t])] for b, t in (targets != IGNORE).nonzero().tolist())


def test_a_label_is_counted_once_for_its_text():
    model, batch = Classifier(encoder(), 3).double().eval(), LabelBatch(tokens(5, 7), torch.tensor([0, 2, 1, 1, 0]))
    logprobs = model(batch.tokens).log_softmax(-1)
    loss = classification(model, batch)
    assert_equal(loss.total, -sum(logprobs[i, label] for i, label in enumerate(batch.labels.tolist())))
    assert loss.count == 5 and loss.metrics["accuracy"] == ((logprobs.argmax(-1) == batch.labels).sum(), 5)


CASES = {
    "blanks": (lambda: encoder(), masked_token, lambda: batch_of()),
    "pairs": (lambda: encoder(next_sentence=2), masked_token_and_next_sentence, lambda: pairs_of()),
    "labels": (
        lambda: Classifier(encoder(), 2).double(),
        classification,
        lambda: LabelBatch(tokens(5, 7), torch.tensor([1, 0, 0, 1, 1])),
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_neither_gradients_nor_what_is_logged_depends_on_how_a_batch_is_cut(case):
    build, objective, batch = case
    results = []
    for n in (1, 2, 5):
        torch.manual_seed(3)
        model = build()
        step = GradientStep(
            model,
            objective,
            build_optimizer(model, OptimConfig(kind="adamw")),
            lambda _: 1.0,
            lr=1e-3,
            n_micro_batches=n,
        )
        logged = step(batch())
        results.append(([p.grad for p in step.parameters], logged))
    (whole, logged), *others = results
    assert {"loss", "grad_norm", "lr", "tokens"} < set(logged)
    for gradients, row in others:
        assert row == pytest.approx(logged)
        for one, other in zip(gradients, whole, strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_batch_that_asks_nothing_is_finite_and_teaches_nothing(case):
    build, objective, batch = case
    model, batch = build(), batch()
    asked = ("targets", "follows", "labels")
    nothing = [torch.full_like(part, IGNORE) if name in asked else part for name, part in batch._asdict().items()]
    loss = objective(model, type(batch)(*nothing))
    loss.total.backward()
    assert loss.total == 0 and loss.count == 0 and set(mean_metrics([loss]).values()) <= {0.0}
    assert all(p.grad is None or not p.grad.any() for p in model.parameters())


def test_validation_reports_the_metrics_of_the_whole_pass_and_no_figure_that_means_nothing_for_blanks():
    model = encoder()
    batches = [batch_of(5), batch_of(2, share=0.9)]
    metrics = Validation(batches, masked_token, n_bytes=None, source_nats=None)(model)
    assert set(metrics) == {"val_loss", "val_masked_accuracy"}
    losses = [masked_token(model, batch) for batch in batches]
    counts = [int(loss.count) for loss in losses]
    assert metrics["val_loss"] == pytest.approx(sum(loss.total.item() for loss in losses) / sum(counts))
    right = sum(int(loss.metrics["masked_accuracy"][0]) for loss in losses)
    assert metrics["val_masked_accuracy"] == pytest.approx(right / sum(counts))


def test_means_of_metrics_are_taken_over_all_parts_at_once():
    parts = [
        Loss(torch.tensor(0.0), torch.tensor(1), {"x": (torch.tensor(s), torch.tensor(n))})
        for s, n in ((3.0, 1), (1.0, 3))
    ]
    assert mean_metrics(parts) == {"x": 1.0} and math.isclose(mean_metrics(parts[1:])["x"], 1 / 3, rel_tol=1e-6)
