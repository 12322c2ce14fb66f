"""Every backward equals numerical differences of its forward, and autograd through that forward."""

import pytest
import torch
from torch import Tensor

from minillm.backprop.attention import attend, attend_backward, rotate, rotate_backward
from minillm.backprop.cross_entropy import cross_entropy, cross_entropy_backward
from minillm.backprop.embedding import embedding, embedding_backward
from minillm.backprop.feedforward import ACTIVATIONS, mlp, mlp_backward, swiglu, swiglu_backward
from minillm.backprop.linear import linear, linear_backward
from minillm.backprop.lora import lora, lora_backward
from minillm.backprop.moe import moe, moe_backward
from minillm.backprop.norm import layer_norm, layer_norm_backward, rms_norm, rms_norm_backward
from minillm.backprop.recurrent import CELLS, unroll, unroll_backward
from minillm.backprop.recurrent_model import recurrent_model, recurrent_model_backward
from minillm.backprop.softmax import softmax, softmax_backward
from minillm.backprop.textbook import numerically

N_GATES = {"rnn": 1, "lstm": 4, "gru": 3}
CASES = {}  # name -> function () -> (forward, backward, inputs); backward returns one derivative for each input


def random(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64)


def case(*options):
    """Register a function with one option in CASES, under its name and that of the option."""

    def enter(make):
        for option in options:
            CASES[f"{make.__name__.replace('_', ' ')} {option}".strip()] = lambda option=option: make(option)
        return make

    return enter


def alone(backward):
    """Wrap a backward with a single derivative to return a tuple."""
    return lambda dy, kept: (backward(dy, kept),)


def bare(forward, backward, inputs: list[Tensor], *, biases: list[int]):
    """The same function with None for the inputs at `biases`."""

    def fill(rest):
        rest = iter(rest)
        return [None if i in biases else next(rest) for i in range(len(inputs))]

    def backward_of_the_rest(dy, kept):
        derivatives = backward(dy, kept)
        assert all(derivatives[i] is None for i in biases)
        return [d for d in derivatives if d is not None]

    return (
        lambda *rest: forward(*fill(rest)),
        backward_of_the_rest,
        [x for i, x in enumerate(inputs) if i not in biases],
    )


@case("", "without bias")
def a_linear(option):
    full = linear, linear_backward, [random(2, 3, 5), random(7, 5), random(7)]
    return bare(*full, biases=[2]) if option else full


@case("")
def an_embedding(_):
    ids = torch.tensor([[3, 0, 3], [5, 3, 1]])
    return lambda table: embedding(ids, table), alone(embedding_backward), [random(7, 5)]


@case("")
def a_softmax(_):
    return softmax, alone(softmax_backward), [random(2, 3, 7)]


@case("", "with nothing counted")
def a_cross_entropy(option):
    targets = torch.tensor([[3, -100, 0], [6, 5, -100]]) if not option else torch.full((2, 3), -100)
    return lambda logits: cross_entropy(logits, targets), alone(cross_entropy_backward), [random(2, 3, 7)]


@case("", "without bias")
def a_layer_norm(option):
    full = lambda *x: layer_norm(*x, eps=0.03), layer_norm_backward, [random(2, 3, 7), random(7), random(7)]
    return bare(*full, biases=[2]) if option else full


@case("")
def an_rms_norm(_):
    return lambda *x: rms_norm(*x, eps=0.03), rms_norm_backward, [random(2, 3, 7), random(7)]


@case(*ACTIVATIONS, "gelu without biases")
def an_mlp(option):
    activation = option.split()[0]
    full = (
        lambda *x: mlp(*x, activation),
        mlp_backward,
        [random(2, 3, 5), random(7, 5), random(7), random(5, 7), random(5)],
    )
    return bare(*full, biases=[2, 4]) if "without" in option else full


@case("", "without biases")
def a_swiglu(option):
    inputs = [random(2, 3, 5), random(7, 5), random(7), random(7, 5), random(7), random(5, 7), random(5)]
    return bare(swiglu, swiglu_backward, inputs, biases=[2, 4, 6]) if option else (swiglu, swiglu_backward, inputs)


@case(1, 2, 6)
def an_attention_with_groups(G):
    T, S, K = 4, 5, 3
    mask = torch.arange(S)[None] <= torch.arange(T)[:, None] + 1
    mask = mask.expand(2, 1, T, S).clone()
    mask[1, :, 2] = False  # a query that sees nothing
    return (
        lambda q, k, v: attend(q, k, v, mask),
        attend_backward,
        [random(2, 6, T, K), random(2, G, S, K), random(2, G, S, K)],
    )


@case("")
def a_rotation(_):
    angles = random(5, 3)
    cos, sin = angles.cos(), angles.sin()
    return lambda x: (rotate(x, cos, sin), None), lambda dy, _: (rotate_backward(dy, cos, sin),), [random(2, 5, 6)]


@case(*CELLS, "gru without biases", "lstm without biases")
def an_unrolled(option):
    """x, the tensors of the state, then the weights; the last state is appended to the output as more steps of it."""
    name = option.split()[0]
    D, H, n = 5, 3, N_GATES[name]
    n_state = 2 if name == "lstm" else 1
    inputs = [
        random(2, 4, D),
        *(random(2, H) for _ in range(n_state)),
        random(n * H, D),
        random(n * H, H),
        random(n * H),
        random(n * H),
    ]

    def forward(x, *rest):
        (y, state), kept = unroll(CELLS[name], x, rest[:n_state], *rest[n_state:])
        return torch.cat([y, *(part[:, None] for part in state)], dim=1), kept

    def backward(dy, kept):
        dx, dstate, *dweights = unroll_backward(dy[:, :4], tuple(dy[:, 4:].unbind(1)), kept)
        return [dx, *dstate, *dweights]

    full = forward, backward, inputs
    return bare(*full, biases=[n_state + 3, n_state + 4]) if "without" in option else full


@case(*CELLS)
def a_recurrent_model(name):
    V, D, H, n = 7, 3, 2, N_GATES[name]
    tokens = torch.randint(V, (2, 4))
    state = tuple(random(2, H) for _ in range(2 if name == "lstm" else 1))
    weights = [w for width in (D, H) for w in (random(n * H, width), random(n * H, H), random(n * H), random(n * H))]

    def forward(table, head, head_bias, *weights):
        (logits, _), kept = recurrent_model(
            CELLS[name], tokens, [state, state], table, [weights[:4], weights[4:]], head, head_bias
        )
        return logits, kept

    def backward(dlogits, kept):
        dtable, dlayers, dhead, dhead_bias = recurrent_model_backward(dlogits, kept)
        return [dtable, dhead, dhead_bias, *(d for dlayer in dlayers for d in dlayer)]

    return forward, backward, [random(V, D), random(V, H), random(V), *weights]


@case(1, 2, 3)
def a_mixture_with_experts_per_token(k):
    D, F, E = 3, 2, 3
    shapes = [(F, D), (F,), (F, D), (F,), (D, F), (D,)]

    def forward(x, router, *weights):
        experts = [weights[i : i + len(shapes)] for i in range(0, len(weights), len(shapes))]
        return moe(x, router, experts, k)

    def backward(dy, kept):
        dx, drouter, dexperts = moe_backward(dy, kept)
        return [dx, drouter, *(d for dexpert in dexperts for d in dexpert)]

    return forward, backward, [random(5, D), random(E, D), *(random(*shape) for _ in range(E) for shape in shapes)]


@case("")
def a_lora(_):
    weight, bias = random(7, 5), random(7)
    return (
        lambda x, a, b: lora(x, weight, bias, a, b, 1.7),
        lora_backward,
        [random(2, 3, 5), random(2, 5), random(7, 2)],
    )


every_case = pytest.mark.parametrize("name", CASES)


@every_case
def test_every_derivative_is_what_small_differences_say(name):
    forward, backward, inputs = CASES[name]()
    y, kept = forward(*inputs)
    dy = torch.randn_like(y)
    derivatives = backward(dy, kept)
    for i, (x, dx) in enumerate(zip(inputs, derivatives, strict=True)):
        others = inputs[:i], inputs[i + 1 :]
        measured = numerically(lambda x, others=others: (forward(*others[0], x, *others[1])[0] * dy).sum(), x)
        torch.testing.assert_close(dx, measured, rtol=1e-6, atol=1e-8)


@every_case
def test_every_derivative_is_that_of_autograd(name):
    forward, backward, inputs = CASES[name]()
    inputs = [x.requires_grad_() for x in inputs]
    y, kept = forward(*inputs)
    dy = torch.randn_like(y)
    expected = torch.autograd.grad((y * dy).sum(), inputs)
    with torch.no_grad():
        derivatives = backward(dy, kept)
    for dx, theirs in zip(derivatives, expected, strict=True):
        torch.testing.assert_close(dx, theirs, rtol=1e-10, atol=1e-12)


@every_case
def test_a_derivative_that_is_asked_for_twice_is_the_same(name):
    forward, backward, inputs = CASES[name]()
    y, kept = forward(*inputs)
    dy = torch.randn_like(y)
    for first, second in zip(backward(dy, kept), backward(dy, kept), strict=True):
        assert torch.equal(first, second)
