"""Mixture of experts: routing rules, and the sorted, sliced product equals a loop over chosen experts."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode
from transformers import MixtralConfig
from transformers.models.mixtral.modeling_mixtral import MixtralSparseMoeBlock, load_balancing_loss_func

from minillm.layers.feedforward import ACTIVATIONS, MLP, SwiGLU
from minillm.layers.moe import ExpertMLPs, ExpertSwiGLUs, MoE, NoSharedExpert, Router, balance_loss, z_loss
from minillm.lessons import mixture_of_experts as lesson
from tests.tiny import assert_equal

D, F, E = 7, 13, 5
KINDS = {"mlp": lambda n, d, f: ExpertMLPs(n, d, f, ACTIVATIONS["gelu"]), "swiglu": ExpertSwiGLUs}
each_kind = pytest.mark.parametrize("kind", KINDS)
each_k = pytest.mark.parametrize("k", range(1, E + 1))


def moe_of(kind: str = "mlp", k: int = 2, shared: bool = False, **how) -> MoE:
    router = Router(D, E, k, **how)
    return MoE(
        router, KINDS[kind](E, D, F), MLP(D, 3 * F, ACTIVATIONS["relu2"]) if shared else NoSharedExpert()
    ).double()


def expert(moe: MoE, e: int) -> torch.nn.Module:
    """The e-th expert as a separate feed-forward layer."""
    alone = MLP(D, F, ACTIVATIONS["gelu"]) if isinstance(moe.experts, ExpertMLPs) else SwiGLU(D, F)
    alone.double().load_state_dict({name: weight[e] for name, weight in moe.experts.state_dict().items()})
    return alone


def one_token_at_a_time(moe: MoE, x: torch.Tensor, dropped: set[tuple[int, int]] = frozenset()) -> torch.Tensor:
    """The definition; `dropped` holds (token, expert)."""
    k, out = moe.router.n_experts_per_token, []
    for n, token in enumerate(x):
        probs = torch.softmax(moe.router.weight @ token, dim=0)
        chosen = sorted(range(E), key=lambda e: -(probs + moe.router.bias)[e].item())[:k]
        whole = sum(probs[e] for e in chosen) if k > 1 else 1.0
        answers = [probs[e] / whole * expert(moe, e)(token) for e in chosen if (n, e) not in dropped]
        out.append(sum(answers, torch.zeros(D, dtype=x.dtype)) + moe.shared(token))
    return torch.stack(out)


def inputs(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@each_kind
@each_k
@pytest.mark.parametrize("shared", [False, True])
def test_every_token_gets_the_weighed_answers_of_the_experts_that_it_chose(kind, k, shared):
    moe, x = moe_of(kind, k, shared), inputs(11, D)
    moe.router.bias += 0.1 * inputs(E)
    assert_equal(moe(x), one_token_at_a_time(moe, x))


@pytest.mark.parametrize("k", range(2, E + 1))
def test_answers_gradients_and_balance_loss_are_those_of_the_lesson(k):
    """For two or more choices per token: for a single one the lesson's weight is 1."""
    moe, theirs, x = moe_of(k=k), lesson.MoE(D, F, E, k).double(), inputs(11, D)
    weights = {"router": moe.router.weight, "up": moe.experts.up.weight, "down": moe.experts.down.weight}
    theirs.load_state_dict(weights)
    routing, (y, probs, chosen) = moe.router(x), theirs(x)
    assert torch.equal(routing.experts.T, chosen)
    outs, balances = (moe(x), y), (balance_loss(routing.probs, routing.counts), lesson.balance_loss(probs, chosen))
    assert_equal(*outs)
    assert_equal(*balances)
    direction = inputs(11, D, seed=1)
    for out, balance in zip(outs, balances, strict=True):
        ((out * direction).sum() + balance).backward()
    assert_equal(moe.router.weight.grad, theirs.router.grad)
    assert_equal(moe.experts.up.weight.grad, theirs.up.grad)
    assert_equal(moe.experts.down.weight.grad, theirs.down.grad)


@pytest.mark.parametrize("narrow", [torch.bfloat16, torch.float16])
def test_a_router_in_few_bits_decides_as_it_does_on_the_same_numbers_in_float32(narrow):
    """Logits that differ by less than the dtype resolves still choose the right expert; losses are in float32."""
    router, x = Router(D, E, 2).to(narrow), inputs(997, D).to(narrow)
    decided, expected = router(x), router.float()(x.float())
    assert decided.logits.dtype == decided.probs.dtype == decided.weights.dtype == torch.float32
    for name in ("logits", "probs", "experts", "weights", "counts"):
        assert torch.equal(getattr(decided, name), getattr(expected, name)), name
    assert len(expected.logits.unique()) > len(expected.logits.to(narrow).unique()), "few bits would tell fewer apart"


def test_shape_and_company_do_not_matter():
    moe, x = moe_of(k=3), inputs(3, 11, D)
    assert_equal(moe(x)[1, 4], moe(x[1, 4]))
    assert moe(x[:0]).shape == (0, 11, D)


@pytest.mark.parametrize("k", [1, 2, E])
@each_kind
def test_gradients_are_what_finite_differences_say(kind, k):
    moe, x = moe_of(kind, k, shared=True), inputs(4, D).requires_grad_()
    weights = list(moe.parameters())

    def run(x, *weights):
        return torch.func.functional_call(moe, dict(zip(dict(moe.named_parameters()), weights, strict=True)), (x,))

    assert torch.autograd.gradcheck(run, (x, *weights), fast_mode=True)


@each_k
def test_the_router_is_what_finite_differences_say_and_never_without_a_gradient(k):
    router, x = Router(D, E, k).double(), inputs(4, D).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x, w: torch.func.functional_call(router, {"weight": w}, (x,)).weights, (x, router.weight)
    )
    moe = moe_of(k=k)
    moe(inputs(9, D)).square().sum().backward()
    assert moe.router.weight.grad.abs().max() > 1e-3


@each_kind
@each_k
def test_experts_that_are_all_equal_are_one_feedforward_whoever_is_chosen(kind, k):
    moe, x = moe_of(kind, k), inputs(11, D)
    for weight in moe.experts.parameters():
        weight.data[:] = weight.data[:1].clone()
    scale = moe.router(x).probs.amax(-1, keepdim=True) if k == 1 else 1.0
    assert_equal(moe(x), scale * expert(moe, 0)(x))


@pytest.mark.parametrize("k", [1, 2, 3])
def test_mixtrals_block_gives_the_same_answers_and_gradients(k):
    c = MixtralConfig(hidden_size=D, intermediate_size=F, num_local_experts=E, num_experts_per_tok=k, hidden_act="silu")
    c._experts_implementation = "eager"
    theirs, moe = MixtralSparseMoeBlock(c).double(), moe_of("swiglu", k)
    theirs.gate.weight.data = moe.router.weight.data.clone()
    theirs.experts.gate_up_proj.data = torch.cat([moe.experts.gate.weight, moe.experts.up.weight], dim=1).detach()
    theirs.experts.down_proj.data = moe.experts.down.weight.data.clone()
    moe.router.weigh = Router(D, E, 2).weigh  # theirs divides by the sum for one choice too
    x = inputs(3, 11, D)
    mine, other = moe(x), theirs(x)
    # subtle: Mixtral's softmax is in float32 whatever the weights are
    torch.testing.assert_close(mine, other.double(), rtol=0, atol=2e-6)
    for out in (mine, other):
        out.square().sum().backward()
    torch.testing.assert_close(moe.experts.down.weight.grad, theirs.experts.down_proj.grad.double(), rtol=0, atol=2e-5)
    torch.testing.assert_close(moe.router.weight.grad, theirs.gate.weight.grad.double(), rtol=0, atol=2e-5)


@each_k
def test_the_balance_loss_is_that_of_transformers_over_the_number_of_choices(k):
    router, x = Router(D, E, k).double(), inputs(17, D)
    routing = router(x)
    theirs = load_balancing_loss_func((routing.logits,), E, k)
    assert balance_loss(routing.probs, routing.counts).item() == pytest.approx(theirs.item() / k)


@each_k
def test_even_routing_has_a_balance_loss_of_exactly_one_and_uneven_routing_more(k):
    even = torch.full((E, E), 1 / E, dtype=torch.float64)
    assert float(balance_loss(even, torch.full((E,), k))) == pytest.approx(1, abs=1e-15)
    router = Router(D, E, k).double()
    router.weight.data.zero_()
    assert balance_loss((at_rest := router(inputs(11, D))).probs, at_rest.counts).item() == pytest.approx(1, abs=1e-15)
    favored = torch.softmax(inputs(11, E) + torch.tensor([3.0, 0, 0, 0, -3]), dim=-1)
    counts = torch.bincount(favored.topk(k).indices.flatten(), minlength=E)
    assert (
        float(balance_loss(favored, counts)) > 1.05
        if k < E
        else float(balance_loss(favored, counts)) == pytest.approx(1)
    )


def test_one_expert_for_all_has_the_largest_balance_loss():
    probs = torch.eye(E, dtype=torch.float64)[:1].expand(9, E)
    assert float(balance_loss(probs, torch.tensor([9, 0, 0, 0, 0]))) == E


def test_the_z_loss_is_the_mean_square_of_the_normalizers_log():
    logits = inputs(11, E)
    squares = [math.log(sum(map(math.exp, row))) ** 2 for row in logits.tolist()]
    assert float(z_loss(logits)) == pytest.approx(sum(squares) / 11)


def test_no_token_at_all_has_no_loss_and_no_gradient_that_is_not_finite():
    moe = moe_of()
    routing = moe.router(inputs(0, D))
    loss = balance_loss(routing.probs, routing.counts) + z_loss(routing.logits) + moe(inputs(0, D)).sum()
    loss.backward()
    assert loss == 0 and not any(p.grad.any() for p in moe.parameters())


@settings(max_examples=30)
@given(
    n=st.integers(1, 23),
    k=st.integers(1, E),
    factor=st.sampled_from([0.3, 0.7, 1.0, 1.5, 9.0]),
    seed=st.integers(0, 99),
)
def test_a_full_expert_drops_later_choices_then_later_tokens_and_they_are_counted(n, k, factor, seed):
    moe, x = moe_of(k=k, capacity_factor=factor), inputs(n, D, seed=seed)
    routing = moe.router(x)
    limit, served, dropped = math.ceil(factor * k * n / E), [0] * E, set()
    for choices in routing.experts.tolist():
        for token, e in enumerate(choices):
            if served[e] == limit:
                dropped.add((token, e))
            else:
                served[e] += 1
    assert routing.sizes == served and routing.n_dropped == len(dropped)
    assert routing.counts.sum() == k * n
    assert_equal(moe(x), one_token_at_a_time(moe, x, dropped))
    assert sorted(routing.order.tolist()) == list(range(k * n))


def test_dropped_choices_leave_every_gradient_right():
    moe, x = moe_of(k=2, capacity_factor=0.5), inputs(9, D).requires_grad_()
    assert moe.router(x).n_dropped > 0
    assert torch.autograd.gradcheck(moe, (x,))


def test_in_evaluation_nobody_is_turned_away():
    moe, free, x = moe_of(k=2, capacity_factor=0.3).eval(), moe_of(k=2), inputs(11, D)
    free.load_state_dict(moe.state_dict())
    assert moe.router(x).n_dropped == 0
    assert_equal(moe(x), free(x))


def test_the_bias_decides_who_is_chosen_and_not_what_the_choice_weighs():
    router, x = Router(D, E, 2).double(), inputs(11, D)
    router.bias[3] = 2.0
    routing = router(x)
    assert (routing.experts[0] == 3).all()
    chosen = routing.probs.gather(1, routing.experts.T)
    assert_equal(routing.weights.T, chosen / chosen.sum(1, keepdim=True))


def test_compute_grows_with_the_experts_that_are_asked_and_not_with_those_there_are():
    def flops(n_experts: int, k: int) -> int:
        moe = MoE(Router(D, n_experts, k), ExpertSwiGLUs(n_experts, D, F), NoSharedExpert())
        with FlopCounterMode(display=False) as counter:
            moe(torch.randn(11, D)).sum().backward()
        router = 2 * 11 * D * n_experts
        return counter.get_total_flops() - 2 * router  # forward, and the gradient of its weight: the tokens need none

    assert flops(5, 2) == flops(19, 2) == 2 * flops(3, 1)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_routing_is_computed_in_float32_and_answers_come_in_the_models_precision(dtype):
    moe, x = moe_of(k=2).to(dtype), inputs(11, D).to(dtype)
    routing = moe.router(x)
    assert {routing.logits.dtype, routing.probs.dtype, routing.weights.dtype} == {torch.float32}
    assert moe(x).dtype == dtype
    moe(x).sum().backward()
    assert {p.grad.dtype for p in moe.parameters()} == {dtype}


def test_more_choices_than_experts_are_refused():
    with pytest.raises(ValueError, match=r"n_experts_per_token = 6: expected at most n_experts = 5"):
        Router(D, E, 6)
