"""Chunked cross-entropy equals torch's and the plain one, gradients included, at every cut of the vocabulary."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from minillm.constants import IGNORE
from minillm.objectives.cross_entropy import cross_entropy
from minillm.speed.chunked_cross_entropy import ROWS, chunked_cross_entropy
from tests.objectives.test_cross_entropy import V, a_case, torchs, with_banned_tokens
from tests.tiny import assert_equal


@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, V + 2),
    st.sampled_from([1e-3, 1.0, 300.0]),
    st.sampled_from([0.0, 0.03, 0.9]),
    st.sampled_from([0.0, 0.3, 1.0]),
)
def test_sum_count_and_gradient_are_torchs_and_the_plain_ones(seed, chunk, scale, smoothing, ignored):
    logits, targets = a_case(seed, scale, ignored)
    total, count = chunked_cross_entropy(logits, targets, smoothing, chunk)
    plain, plain_count = cross_entropy(logits, targets, smoothing)
    assert count == plain_count
    [gradient] = torch.autograd.grad(3 * total, logits)
    for expected in (plain, torchs(logits, targets, smoothing)):
        assert_equal(total, expected)
        assert_equal(gradient, torch.autograd.grad(3 * expected, logits)[0])


@pytest.mark.parametrize("n", [0, 1, ROWS - 1, ROWS, ROWS + 1, 3 * ROWS - 5])
def test_any_number_of_tokens_is_summed(n):
    logits, targets = torch.randn(n, V, dtype=torch.float64, requires_grad=True), torch.randint(V, (n,))
    total, count = chunked_cross_entropy(logits, targets, chunk=5)
    expected = F.cross_entropy(logits, targets, reduction="sum")
    assert_equal(total, expected)
    assert count == n
    assert_equal(torch.autograd.grad(total, logits)[0], torch.autograd.grad(expected, logits)[0])


def test_the_gradient_is_what_finite_differences_say():
    logits, targets = a_case(0)
    assert torch.autograd.gradcheck(lambda x: chunked_cross_entropy(x, targets, chunk=5)[0], logits)
    assert torch.autograd.gradcheck(lambda x: chunked_cross_entropy(x, targets, 0.2, chunk=5)[0], logits)


@pytest.mark.parametrize("chunk", [1, 5, V])
def test_logits_of_banned_tokens_may_be_minus_infinity(chunk):
    logits, targets = a_case(0)
    masked, targets, expected = with_banned_tokens(logits, targets)
    total, _ = chunked_cross_entropy(masked, targets, chunk=chunk)
    assert_equal(total, expected)
    assert torch.autograd.grad(total, logits)[0].isfinite().all()


def test_a_target_outside_the_vocabulary_is_refused():
    with pytest.raises(ValueError, match=r"target = 17: expected 0 \.\.\. 16"):
        chunked_cross_entropy(torch.zeros(3, V), torch.tensor([0, V, IGNORE]))
