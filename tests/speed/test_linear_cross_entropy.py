"""The fused head and loss equals head and loss for every tiling, and never holds all logits."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from minillm.constants import IGNORE
from minillm.speed.linear_cross_entropy import linear_cross_entropy
from tests.tiny import assert_equal

D, V = 5, 17


def a_case(seed: int, n: int = 13, ignored: float = 0.3) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    hidden, weight = (
        torch.randn(n, D, generator=g, dtype=torch.float64),
        torch.randn(V, D, generator=g, dtype=torch.float64),
    )
    targets = torch.randint(V, (n,), generator=g).masked_fill(torch.rand(n, generator=g) < ignored, IGNORE)
    return hidden.requires_grad_(), weight.requires_grad_(), targets


def torchs(hidden, weight, targets, smoothing):
    return F.cross_entropy(hidden @ weight.T, targets, ignore_index=IGNORE, reduction="sum", label_smoothing=smoothing)


@given(
    st.integers(0, 2**31),
    st.integers(1, 15 * V),
    st.integers(0, 13),
    st.sampled_from([0.0, 0.1]),
    st.sampled_from([0.0, 0.3, 1.0]),
)
def test_sum_count_and_both_gradients_are_torchs_for_every_slab(seed, slab, n, smoothing, ignored):
    hidden, weight, targets = a_case(seed, n, ignored)
    total, count = linear_cross_entropy(hidden, weight, targets, smoothing, slab)
    expected = torchs(hidden, weight, targets, smoothing)
    assert_equal(total, expected)
    assert count == (targets != IGNORE).sum()
    for mine, other in zip(*(torch.autograd.grad(3 * x, (hidden, weight)) for x in (total, expected)), strict=True):
        assert_equal(mine, other)
    with torch.no_grad():
        assert_equal(linear_cross_entropy(hidden, weight, targets, smoothing, slab)[0], expected)


def test_leading_dimensions_are_rows():
    hidden, weight, targets = a_case(0, n=12)
    total, count = linear_cross_entropy(hidden.view(3, 4, D), weight, targets.view(3, 4))
    assert_equal(total, linear_cross_entropy(hidden, weight, targets)[0])
    assert count == (targets != IGNORE).sum()


def test_a_frozen_head_or_a_frozen_body_still_gives_the_other_its_gradient():
    hidden, weight, targets = a_case(1)
    both = torch.autograd.grad(linear_cross_entropy(hidden, weight, targets, slab=3 * V)[0], (hidden, weight))
    assert_equal(
        torch.autograd.grad(linear_cross_entropy(hidden, weight.detach(), targets, slab=3 * V)[0], hidden)[0], both[0]
    )
    assert_equal(
        torch.autograd.grad(linear_cross_entropy(hidden.detach(), weight, targets, slab=3 * V)[0], weight)[0], both[1]
    )


@pytest.mark.parametrize("n_rows", [1, 3])
def test_the_heads_gradient_in_bfloat16_is_not_worn_down_by_many_slabs(n_rows):
    """Each slab adds a little to the same gradient: a bfloat16 sum would stop growing at 256 times that amount."""
    n, g = 2003, torch.Generator().manual_seed(4)
    hidden, weight = (
        (1 + torch.rand(n, D, generator=g)).bfloat16(),
        (0.1 * torch.randn(V, D, generator=g)).bfloat16().requires_grad_(),
    )
    targets, wide = torch.randint(1, V, (n,), generator=g), weight.detach().double().requires_grad_()
    [gradient] = torch.autograd.grad(linear_cross_entropy(hidden, weight, targets, slab=n_rows * V)[0], weight)
    [expected] = torch.autograd.grad(torchs(hidden.double(), wide, targets, 0.0), wide)
    assert gradient.dtype == torch.bfloat16
    torch.testing.assert_close(gradient.double(), expected, rtol=0.02, atol=0.01 * float(expected.abs().max()))


def test_a_target_outside_of_the_vocabulary_is_refused():
    hidden, weight, targets = a_case(2)
    targets[3] = V
    with pytest.raises(ValueError, match=f"target = {V}: expected 0 ... {V - 1}"):
        linear_cross_entropy(hidden, weight, targets)


class Largest(TorchDispatchMode):
    """Records the shapes of all results of operations."""

    def __init__(self):
        super().__init__()
        self.shapes: set[torch.Size] = set()

    @property
    def numel(self) -> int:
        return max(shape.numel() for shape in self.shapes)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        self.shapes |= {
            x.shape for x in (out if isinstance(out, tuple | list) else [out]) if isinstance(x, torch.Tensor)
        }
        return out


@pytest.mark.parametrize("train", [True, False])
def test_no_tensor_is_as_large_as_all_logits(train):
    hidden, weight = torch.randn(60, D, requires_grad=train), torch.randn(101, D, requires_grad=train)
    with Largest() as seen:
        total, _ = linear_cross_entropy(hidden, weight, torch.randint(101, (60,)), slab=7 * 101)
        if train:
            total.backward()
    assert seen.numel == 7 * 101
