"""Adapters: small trained parts in a frozen model; each kind can express another change of what the model does.

    bottleneck     y + up relu(down y)                   a small network after a sublayer    Houlsby et al. 2019
    DoRA           m (W + B A) x / |W + B A|             length and direction of each row    Liu et al. 2024
    (IA)3          l * y                                 a factor for each output            Liu et al. 2022
    BitFit         y + b                                 a bias for each output              Ben Zaken et al. 2021
    prefix         softmax(q [k_p; k]^T) [v_p; v]        keys and values before the text     Li and Liang 2021
    soft prompt    model([prompt; x]), after the prompt  vectors before the text             Lester et al. 2021

The first four change layers. All but the bottleneck are linear, so they can be merged into the weight. The last two
change the input: virtual tokens stand before every text, cost places of the context, and can make the model do what it
is able to do already. A factor starts at 1 and all else at 0, so a fresh adapter of a layer changes nothing.

Paper: Houlsby et al. 2019, "Parameter-Efficient Transfer Learning for NLP"; for the others see each line above.
Read before: lora, attention, kv_cache.
Then read: minillm/adapters/bottleneck.py, minillm/adapters/prefix.py, minillm/adapters/soft_prompt.py
Try: python train.py --config lora-tiny --init-from runs/gpt-tiny --adapter.kind bottleneck

Change it:
    - visible = torch.arange(P + T) <= P + torch.arange(T)[:, None]  # (T, P + T)
    + visible = torch.arange(P + T) <= torch.arange(T)[:, None]  # (T, P + T)
Shown: the same as behind two real tokens: False
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor


def bottleneck(y: Tensor, down: Tensor, up: Tensor) -> Tensor:
    """The output y (..., D) of a sublayer, behind a network of matrices down (R, D) and up (D, R) -> (..., D)."""
    return y + torch.relu(y @ down.T) @ up.T


def dora(x: Tensor, W: Tensor, B: Tensor, A: Tensor, m: Tensor) -> Tensor:
    """(..., in) -> (..., out): rows of W + B A turned by B (out, R) and A (R, in), of the lengths m (out,)."""
    turned = W + B @ A
    return m * (x @ turned.T) / turned.norm(dim=1).detach()


def prefix_attention(q: Tensor, k: Tensor, v: Tensor, k_prefix: Tensor, v_prefix: Tensor) -> Tensor:
    """Causal attention of T tokens (T, K) that also see P virtual tokens, keys and values (P, K) -> (T, K)."""
    T, P = len(q), len(k_prefix)
    visible = torch.arange(P + T) <= P + torch.arange(T)[:, None]  # (T, P + T)
    scores = q @ torch.cat([k_prefix, k]).T / math.sqrt(q.shape[1])
    return scores.masked_fill(~visible, -math.inf).softmax(dim=-1) @ torch.cat([v_prefix, v])


def prompted(model: Callable[[Tensor], Tensor], prompt: Tensor, x: Tensor) -> Tensor:
    """The outputs of a model of vectors (T, D) for the text x, behind the vectors of a prompt (P, D)."""
    return model(torch.cat([prompt, x]))[len(prompt) :]


def train(adapt: Callable[..., Tensor], trained: list[Tensor], x: Tensor, wanted: Tensor) -> float:
    """The error of `adapt(x, *trained)` after 200 steps."""
    for tensor in trained:
        tensor.requires_grad_()
    for _ in range(200):
        loss = (adapt(x, *trained) - wanted).square().mean()
        for tensor, gradient in zip(trained, torch.autograd.grad(loss, trained), strict=True):
            tensor.data -= 0.4 * gradient
    return loss.item()


def main() -> None:
    """A frozen layer with four adapters and three tasks, then tokens that are not there."""
    torch.manual_seed(0)
    W, x = torch.randn(6, 8) / math.sqrt(8), torch.randn(500, 8)
    y = x @ W.T
    tasks = {
        "shift": y + torch.randn(6),
        "scale": y * torch.randn(6),
        "turn": y + x @ torch.randn(8, 1) @ torch.randn(1, 6),
    }
    ways = {
        "bottleneck": (
            lambda x, down, up: bottleneck(x @ W.T, down, up),
            lambda: [torch.randn(2, 6), torch.zeros(6, 2)],
        ),
        "DoRA": (
            lambda x, B, A, m: dora(x, W, B, A, m),
            lambda: [torch.zeros(6, 1), torch.randn(1, 8), W.norm(dim=1)],
        ),
        "(IA)3": (lambda x, factors: factors * (x @ W.T), lambda: [torch.ones(6)]),
        "BitFit": (lambda x, bias: x @ W.T + bias, lambda: [torch.zeros(6)]),
    }
    print(f"a frozen layer of {W.numel()} numbers, and what is left of the error after training\n")
    print(f"{'adapter':<12}{'numbers':>8}" + "".join(f"{task:>8}" for task in tasks))
    for name, (adapt, fresh) in ways.items():
        errors = [train(adapt, fresh(), x, wanted) / (y - wanted).square().mean() for wanted in tasks.values()]
        print(f"{name:<12}{sum(t.numel() for t in fresh()):>8}" + "".join(f"{error:>8.2f}" for error in errors))

    text, W_q, W_k, W_v = torch.randn(5, 4), *torch.randn(3, 4, 4)
    whole = prompted(lambda x: prefix_attention(x @ W_q, x @ W_k, x @ W_v, *torch.empty(2, 0, 4)), text[:2], text[2:])
    behind = prefix_attention(text[2:] @ W_q, text[2:] @ W_k, text[2:] @ W_v, text[:2] @ W_k, text[:2] @ W_v)
    print("\na prefix of the keys and values of two tokens, before three others")
    print("the same as behind two real tokens:", torch.allclose(whole, behind, atol=1e-6))


if __name__ == "__main__":
    main()
