"""Cross-entropy equals torch's and the lesson's, gradient included; its edges; and its derivative in `backprop/`."""

import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from minillm.backprop import cross_entropy as formulas
from minillm.constants import IGNORE
from minillm.lessons import cross_entropy as lesson
from minillm.objectives.cross_entropy import cross_entropy, log_probabilities, target_logprobs
from minillm.speed.chunked_cross_entropy import chunked_cross_entropy
from tests.tiny import assert_equal

V = 17


def a_case(seed: int, scale: float = 1.0, ignored: float = 0.3) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(3, 7, V, generator=g, dtype=torch.float64)
    targets = torch.randint(V, (3, 7), generator=g).masked_fill(torch.rand(3, 7, generator=g) < ignored, IGNORE)
    return logits.requires_grad_(), targets


def torchs(logits: torch.Tensor, targets: torch.Tensor, smoothing: float = 0.0) -> torch.Tensor:
    how = {"ignore_index": IGNORE, "label_smoothing": smoothing, "reduction": "sum"}
    return F.cross_entropy(logits.flatten(0, -2), targets.flatten(), **how)


@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([1e-3, 1.0, 300.0]),
    st.sampled_from([0.0, 0.03, 0.9]),
    st.sampled_from([0.0, 0.3, 1.0]),
)
def test_sum_count_and_gradient_are_torchs(seed, scale, smoothing, ignored):
    logits, targets = a_case(seed, scale, ignored)
    total, count = cross_entropy(logits, targets, smoothing)
    expected = torchs(logits, targets, smoothing)
    assert_equal(total, expected)
    assert count == (targets != IGNORE).sum()
    assert_equal(torch.autograd.grad(3 * total, logits)[0], torch.autograd.grad(3 * expected, logits)[0])


@given(st.integers(0, 2**32 - 1), st.sampled_from([0.0, 0.3, 1.0]))
def test_the_formula_of_the_gradient_is_autograds(seed, ignored):
    logits, targets = a_case(seed, 3.0, ignored)
    total, kept = formulas.cross_entropy(logits, targets)
    assert_equal(total, cross_entropy(logits, targets)[0])
    [gradient] = torch.autograd.grad(3 * cross_entropy(logits, targets)[0], logits)
    assert_equal(formulas.cross_entropy_backward(3.0, kept), gradient)


@given(st.integers(0, 2**32 - 1), st.sampled_from([1e-3, 1.0, 300.0]))
def test_mean_and_gradient_are_the_lessons(seed, scale):
    logits, targets = a_case(seed, scale, ignored=0.0)
    total, count = cross_entropy(logits, targets)
    expected = lesson.cross_entropy(logits, targets)
    assert_equal(total / count, expected)
    assert_equal(torch.autograd.grad(total / count, logits)[0], torch.autograd.grad(expected, logits)[0])
    assert_equal(lesson.softmax(logits), logits.softmax(dim=-1))


def test_log_probabilities_sum_to_one_and_those_of_targets_sum_to_the_loss():
    logits, targets = a_case(0)
    logprobs = log_probabilities(logits)
    assert_equal(logprobs.exp().sum(-1), torch.ones(3, 7, dtype=torch.float64))
    of_targets = target_logprobs(logprobs, targets)
    assert of_targets.shape == (3, 7) and not of_targets[targets == IGNORE].any()
    assert_equal(-of_targets.sum(), cross_entropy(logits, targets)[0])


def test_where_nothing_counts_loss_and_gradient_are_zero():
    logits, targets = a_case(0, ignored=1.0)
    total, count = cross_entropy(logits, targets)
    (gradient,) = torch.autograd.grad(total, logits)
    assert total == 0 and count == 0 and not gradient.any()


def test_logits_of_banned_tokens_may_be_minus_infinity():
    logits, targets = a_case(0)
    masked, targets, expected = with_banned_tokens(logits, targets)
    total, _ = cross_entropy(masked, targets)
    assert_equal(total, expected)
    assert torch.autograd.grad(total, logits)[0].isfinite().all()


def with_banned_tokens(logits: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Logits with some at -inf, targets among the others, and the loss over the other tokens only."""
    banned = torch.zeros(V, dtype=torch.bool).index_fill(0, torch.tensor([0, 1, 2, 3, 4, 11]), True)
    targets = targets.masked_fill(torch.isin(targets, banned.nonzero()), IGNORE)
    expected = F.cross_entropy(logits[..., ~banned].flatten(0, 1), renumbered(targets, banned), reduction="sum")
    return logits.masked_fill(banned, -torch.inf), targets, expected


def renumbered(targets: torch.Tensor, banned: torch.Tensor) -> torch.Tensor:
    return (~banned).cumsum(0).sub(1)[targets.clamp(min=0)].where(targets != IGNORE, IGNORE).flatten()


@pytest.mark.parametrize("summed", [cross_entropy, partial(chunked_cross_entropy, chunk=100)], ids=["plain", "chunked"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_logits_are_summed_in_float32(dtype, summed):
    torch.manual_seed(0)
    logits, targets = torch.randn(2003, 501).to(dtype).requires_grad_(), torch.randint(501, (2003,))
    total, _ = summed(logits, targets)
    exact = F.cross_entropy(logits.double(), targets, reduction="sum")
    assert total.dtype == torch.float32
    assert total.item() == pytest.approx(exact.item(), rel=1e-6)
    mine, theirs = torch.autograd.grad(total, logits)[0], torch.autograd.grad(exact, logits)[0]
    assert mine.dtype == dtype
    torch.testing.assert_close(mine.double(), theirs.double(), rtol=4 * torch.finfo(dtype).eps, atol=1e-6)


def test_a_uniform_guess_costs_ln_v_and_a_sure_one_nothing():
    targets = torch.arange(V)
    assert cross_entropy(torch.zeros(V, V), targets)[0].item() == pytest.approx(V * math.log(V))
    assert cross_entropy(1000 * torch.eye(V), targets)[0].item() == 0


@pytest.mark.parametrize("target", [V, V + 1000, -1, -99])
def test_a_target_outside_the_vocabulary_is_refused(target):
    with pytest.raises(ValueError, match=rf"target = {target}: expected 0 \.\.\. 16"):
        cross_entropy(torch.zeros(3, V), torch.tensor([0, target, IGNORE]))
