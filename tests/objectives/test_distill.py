"""Distillation: hand sums, torch's own divergence, the ends of Jensen-Shannon, the bucket of the tail, who learns."""

import math
from functools import partial
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from minillm.constants import EMPTY, IGNORE
from minillm.datasets.batch import Batch
from minillm.lessons import distillation as lesson
from minillm.objectives.distill import (
    DIVERGENCES,
    Matching,
    SoftTargetBatch,
    distill,
    distill_stored,
    softened,
    with_bucket,
)
from minillm.objectives.next_token import next_token
from tests.tiny import VOCAB, assert_equal, decoder, tokens

STUDENT, TEACHER = partial(decoder, 1, n_layers=1), partial(decoder, 2, n_layers=2, d_model=12)
EACH = [("forward", 0.5), ("reverse", 0.5), ("jensen_shannon", 0.3)]
each_divergence = pytest.mark.parametrize(("divergence", "beta"), EACH)


def by_hand(p: list[float], q: list[float]) -> float:
    return math.fsum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


def mixed_by_hand(divergence: str, beta: float, p: list[float], q: list[float]) -> float:
    m = [beta * a + (1 - beta) * b for a, b in zip(p, q, strict=True)]
    return {
        "forward": by_hand(p, q),
        "reverse": by_hand(q, p),
        "jensen_shannon": beta * by_hand(p, m) + (1 - beta) * by_hand(q, m),
    }[divergence]


def some_logits(*shape: int, seed: int = 0) -> torch.Tensor:
    return 3 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def a_batch(rows: int = 3, length: int = 7, seed: int = 0) -> Batch:
    targets = tokens(rows, length, seed + 1)
    targets[0, 2], targets[-1, -3:] = IGNORE, IGNORE
    return Batch(tokens(rows, length, seed), targets)


@each_divergence
@pytest.mark.parametrize("temperature", [1.0, 2.5])
@pytest.mark.parametrize("top_k", [0, 3])
def test_the_loss_is_the_sum_by_hand_over_counted_places_and_the_count_their_number(
    divergence, beta, temperature, top_k
):
    student, teacher, batch = STUDENT(), TEACHER(), a_batch()
    p, q = ((model(batch.tokens)[0] / temperature).softmax(-1) for model in (teacher, student))
    expected, n = [], 0
    for b in range(3):
        for t in range(7):
            if batch.targets[b, t] != IGNORE:
                told, ours, n = p[b, t].tolist(), q[b, t].tolist(), n + 1
                best = sorted(range(VOCAB), key=told.__getitem__, reverse=True)[: top_k or VOCAB]
                rest = [i for i in range(VOCAB) if i not in best]
                parts = [[x[i] for i in best] + [math.fsum(x[i] for i in rest)] * bool(rest) for x in (told, ours)]
                expected.append(temperature**2 * mixed_by_hand(divergence, beta, *parts))
    loss = distill(student, batch, teacher, Matching(divergence, beta, temperature, top_k))
    assert loss.count == n == 17
    assert loss.total.item() == pytest.approx(math.fsum(expected), rel=1e-12)
    assert loss.metrics["divergence"][0] == loss.total


def test_both_directions_equal_those_of_torch():
    p, q = some_logits(5, VOCAB).log_softmax(-1), some_logits(5, VOCAB, seed=1).log_softmax(-1)
    theirs = partial(torch.nn.functional.kl_div, reduction="none", log_target=True)  # (input q, target p): KL(p | q)
    assert_equal(DIVERGENCES["forward"](p, q, 0.5), theirs(q, p).sum(-1))
    assert_equal(DIVERGENCES["reverse"](p, q, 0.5), theirs(p, q).sum(-1))


def test_it_equals_the_lesson():
    p, q = some_logits(5, 3), some_logits(5, 3, seed=1)
    for temperature in (1.0, 4.0):
        matching = Matching("forward", temperature=temperature)
        assert_equal(matching.nats(matching.soften(p), q), lesson.distillation(p, q, temperature))
    for beta in (0.1, 0.5):
        ours = DIVERGENCES["jensen_shannon"](p.log_softmax(-1), q.log_softmax(-1), beta)
        assert_equal(ours, lesson.jensen_shannon(p.softmax(-1), q.softmax(-1), beta))
    kept = torch.tensor([2, 0])
    ours = with_bucket(p.log_softmax(-1), kept.expand(5, 2)).exp()
    assert_equal(ours, lesson.with_bucket(p.softmax(-1), kept))


def test_jensen_shannon_tends_to_forward_and_reverse_kl_at_its_ends_where_it_vanishes():
    p, q = some_logits(5, VOCAB).log_softmax(-1), some_logits(5, VOCAB, seed=1).log_softmax(-1)
    for beta, end, share in ((1e-7, "forward", 1e-7), (1 - 1e-7, "reverse", 1e-7)):
        found, wanted = DIVERGENCES["jensen_shannon"](p, q, beta), DIVERGENCES[end](p, q, 0.5)
        torch.testing.assert_close(found / share, wanted, rtol=1e-3, atol=1e-4)
        assert found.max() < 1e-5
    other = DIVERGENCES["reverse"](p, q, 0.5)
    assert (DIVERGENCES["jensen_shannon"](p, q, 1e-7) / 1e-7 - other).abs().max() > 0.1, "or the ends are one"


@settings(max_examples=40)
@given(
    which=st.sampled_from(EACH),
    seed=st.integers(0, 2**32 - 1),
    top_k=st.integers(0, VOCAB),
    scale=st.sampled_from([0.1, 3.0, 60.0]),
    temperature=st.sampled_from([0.3, 1.0, 5.0]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_a_divergence_is_never_negative_and_its_gradient_is_finite(which, seed, top_k, scale, temperature, dtype):
    p, q = (scale * some_logits(5, VOCAB, seed=s).to(dtype) for s in (seed, seed + 1))
    q.requires_grad_()
    matching = Matching(*which, temperature, top_k)
    nats = matching.nats(matching.soften(p), q)
    nats.sum().backward()
    # rounding of sums of log-probabilities, which are as large as `scale`
    assert nats.min() >= -100 * scale * torch.finfo(dtype).eps * temperature**2
    assert nats.isfinite().all() and q.grad.isfinite().all()
    same = matching.nats(matching.soften(p), p)
    assert same.abs().max() <= 100 * scale * torch.finfo(dtype).eps * temperature**2


def test_without_the_bucket_the_truncated_sum_is_negative_and_the_bucket_bounds_it_by_the_whole():
    p, q = torch.tensor([0.7, 0.2, 0.1]).double().log(), torch.tensor([0.75, 0.24, 0.01]).double().log()
    truncated = by_hand(p[:2].exp().tolist(), q[:2].exp().tolist())
    nats = [float((m := Matching(top_k=k)).nats(m.soften(p), q)) for k in (1, 2, 3, 0)]
    assert truncated < 0 < nats[0] < nats[1] <= nats[2] == nats[3]


def test_a_student_that_puts_too_much_into_the_tail_is_pushed_out_of_it():
    p, q = torch.tensor([5.0, 4.0, 0.0, 0.0]).double(), torch.zeros(4, dtype=torch.float64, requires_grad=True)
    matching = Matching(top_k=2)
    matching.nats(matching.soften(p), q).backward()
    assert (q.grad[2:] > 0).all() and (q.grad[:2] < 0).all()


@each_divergence
def test_a_perturbed_student_gets_a_gradient_and_the_teacher_none(divergence, beta):
    teacher, batch = decoder(3), a_batch()
    student = decoder(3)
    matching = Matching(divergence, beta)
    distill(student, batch, teacher, matching).total.backward()
    assert all(p.grad.abs().max() < 1e-12 for p in student.parameters()), "equal models have nothing to learn"
    student.zero_grad()
    student.blocks[0].attention.to_q.weight.data[0, 0] += 0.5
    loss = distill(student, batch, teacher, matching)
    loss.total.backward()
    assert loss.total > 1e-6 and student.blocks[0].attention.to_q.weight.grad.abs().max() > 1e-6
    assert all(p.grad is None for p in teacher.parameters())


def test_steps_along_the_gradient_bring_the_student_to_the_teacher():
    teacher, batch, student = TEACHER(), a_batch(), STUDENT()
    first = distill(student, batch, teacher, Matching())
    for _ in range(20):
        loss = distill(student, batch, teacher, Matching())
        for p, g in zip(student.parameters(), torch.autograd.grad(loss.total, [*student.parameters()]), strict=True):
            p.data -= 0.003 * g
    assert loss.total < 0.8 * first.total


def test_the_temperature_leaves_the_size_of_the_gradient_as_it_is():
    p, q = 0.1 * some_logits(VOCAB), torch.zeros(VOCAB, dtype=torch.float64, requires_grad=True)
    sizes = []
    for temperature in (1.0, 10.0, 100.0):
        matching = Matching(temperature=temperature)
        [gradient] = torch.autograd.grad(matching.nats(matching.soften(p), q), [q])
        sizes.append(float(gradient.norm()))
    assert sizes[0] == pytest.approx(sizes[1], rel=0.1) and sizes[1] == pytest.approx(sizes[2], rel=0.05)


def test_weight_mixes_in_the_cross_entropy_of_the_data_at_temperature_one():
    student, teacher, batch = STUDENT(), TEACHER(), a_batch()
    whole = distill(student, batch, teacher, Matching(temperature=3.0))
    loss = distill(student, batch, teacher, Matching(temperature=3.0, weight=0.25))
    data = next_token(student, batch)
    assert_equal(loss.total, 0.25 * whole.total + 0.75 * data.total)
    assert_equal(loss.metrics["cross_entropy"][0], data.total.detach())
    assert loss.count == data.count


@pytest.mark.parametrize("top_k", [1, 5, VOCAB - 1])
def test_stored_distributions_give_the_loss_and_the_gradients_of_live_ones(top_k):
    student, teacher, batch = STUDENT(), TEACHER(), a_batch()
    matching = Matching("jensen_shannon", 0.4, 2.0, top_k, 0.7)
    known = matching.soften(teacher(batch.tokens)[0].detach())
    results = []
    for loss in (
        distill(student, batch, teacher, matching),
        distill_stored(student, SoftTargetBatch(*batch, known.ids, known.logprobs), matching),
    ):
        results.append([loss.total, *torch.autograd.grad(loss.total, [*student.parameters()])])
    for live, stored in zip(*results, strict=True):
        assert_equal(live, stored)


@settings(max_examples=15)
@given(seed=st.integers(0, 2**32 - 1), cuts=st.sets(st.integers(1, 4)), top_k=st.sampled_from([0, 3]))
def test_gradients_do_not_depend_on_how_a_batch_is_cut(seed, cuts, top_k):
    student, teacher, batch = STUDENT(), TEACHER(), a_batch(5, seed=seed)
    matching = Matching("reverse", temperature=2.0, top_k=top_k, weight=0.6)

    def gradients(edges: list[int]) -> list[torch.Tensor]:
        student.zero_grad()
        losses = [distill(student, Batch(*(x[a:b] for x in batch)), teacher, matching) for a, b in pairwise(edges)]
        (sum(loss.total for loss in losses) / sum(loss.count for loss in losses)).backward()
        return [p.grad for p in student.parameters()]

    for whole, parts in zip(gradients([0, 5]), gradients([0, *sorted(cuts), 5]), strict=True):
        torch.testing.assert_close(parts, whole, rtol=0, atol=1e-12)


def test_padding_adds_nothing_and_a_batch_without_targets_has_no_loss():
    student, teacher, batch = STUDENT(), TEACHER(), a_batch()
    padded = Batch(*(torch.nn.functional.pad(x, (0, 4), value=v) for x, v in zip(batch, (EMPTY, IGNORE), strict=True)))
    plain, more = (distill(student, each, teacher, Matching()) for each in (batch, padded))
    assert_equal(plain.total, more.total)
    nothing = distill(student, Batch(batch.tokens, batch.targets.fill_(IGNORE)), teacher, Matching())
    nothing.total.backward()
    assert nothing.total == 0 == nothing.count


def test_a_teacher_with_a_padded_vocabulary_is_cut_to_the_ids_of_the_student():
    class Padded(torch.nn.Module):
        def forward(self, tokens):
            logits, _ = teacher(tokens)
            return torch.cat([logits, logits.new_full((*logits.shape[:-1], 2), 9.0)], -1), None

    student, teacher, batch = STUDENT(), TEACHER(), a_batch()
    plain, padded = (distill(student, batch, model, Matching()) for model in (teacher, Padded()))
    assert_equal(plain.total, padded.total)


def test_a_token_that_the_teacher_never_writes_adds_nothing_to_forward_kl():
    p = torch.tensor([0.0, 1.0, -torch.inf]).double()
    q = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    nats = DIVERGENCES["forward"](softened(p, 1.0), q.log_softmax(-1), 0.5)
    nats.backward()
    assert nats.item() == pytest.approx(by_hand(p[:2].softmax(-1).tolist(), [1 / 3, 1 / 3]))
    assert q.grad.isfinite().all()


def test_bfloat16_logits_are_compared_in_float32():
    p, q = (some_logits(5, VOCAB, seed=s).bfloat16() for s in (0, 1))
    matching = Matching(temperature=3.0, top_k=4)
    nats = matching.nats(matching.soften(p), q)
    assert nats.dtype == torch.float32
    torch.testing.assert_close(
        nats.double(), matching.nats(matching.soften(p.double()), q.double()), rtol=1e-4, atol=1e-5
    )
