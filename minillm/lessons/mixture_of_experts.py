"""Mixture of experts: many MLPs in place of one; for each token, a router chooses k of them.

    probs = softmax(router x)     chosen = the k experts of highest prob     weight_e = prob_e / sum over chosen of prob
    y = sum over chosen of weight_e * expert_e(x)
    balance = E * sum over experts of (share of all choices)_e * (mean prob)_e

A model has the parameters of E experts, but each token is computed with only k of them. Only chosen experts learn, so
those that are better at first are chosen more and more, and the others stay unused. The balance loss is 1 if all
experts are chosen equally often, and at most E / k; added to the model's loss, it keeps all of them in use. (With k = 1
the weight would always be 1 and the router would learn nothing; Switch multiplies by prob itself.)

Paper: Shazeer et al. 2017, "Outrageously Large Neural Networks"; Fedus et al. 2022, "Switch Transformers".
Read before: transformer_block.
Then read: minillm/layers/moe.py, minillm/training/balance.py
Try: python train.py --config moe-tiny

Change it:
    - loss = error + balance
    + loss = error
Shown: step 200  choices of each expert:  64  64   0   0
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minillm.lessons.transformer_block import gelu


class MoE(nn.Module):
    """Tokens (N, D) -> outputs (N, D), probs (N, E) and chosen experts (N, k)."""

    def __init__(self, d_model: int, d_ff: int, n_experts: int, n_experts_per_token: int):
        super().__init__()
        self.n_experts_per_token = n_experts_per_token
        self.router = nn.Parameter(torch.randn(n_experts, d_model) / d_model**0.5)
        self.up = nn.Parameter(torch.randn(n_experts, d_ff, d_model) / d_model**0.5)
        self.down = nn.Parameter(torch.randn(n_experts, d_model, d_ff) / d_ff**0.5)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        probs = (x @ self.router.T).softmax(dim=-1)  # (N, E)
        weights, chosen = probs.topk(self.n_experts_per_token, dim=-1)  # (N, k) both
        weights = weights / weights.sum(dim=-1, keepdim=True)
        y = torch.zeros_like(x)
        for e, (up, down) in enumerate(zip(self.up, self.down, strict=True)):
            token, choice = (chosen == e).nonzero(as_tuple=True)  # the tokens that chose expert e
            answers = gelu(x[token] @ up.T) @ down.T
            y = y.index_add(0, token, weights[token, choice, None] * answers)
        return y, probs, chosen


def balance_loss(probs: Tensor, chosen: Tensor) -> Tensor:
    """Probs (N, E) and chosen experts (N, k) -> a number, 1 if the load is even."""
    E = probs.shape[1]
    shares = F.one_hot(chosen, E).double().mean(dim=(0, 1))  # (E,)
    return E * (shares * probs.mean(dim=0)).sum()


def main() -> None:
    """The output for one token by hand; then a router that starts with two favorites is trained with a balance loss."""
    torch.manual_seed(0)
    moe = MoE(d_model=4, d_ff=8, n_experts=4, n_experts_per_token=2)
    first_number = torch.tensor([1.0, 0.0, 0.0, 0.0])  # picks the first number of x, which is 1 for all tokens below
    moe.router.data = torch.tensor([0.15, 0.5, 0.05, 0.3]).log().outer(first_number)
    x = torch.tensor([[1.0, 2.0, -1.0, 0.5]])
    y, probs, chosen = moe(x)
    print("one token: probs", *(f"{prob:.2f}" for prob in probs[0]), "  chosen experts", *chosen[0].tolist())
    print("weights 0.5 / 0.8 = 0.625 and 0.3 / 0.8 = 0.375")
    answer = [moe.down[e] @ gelu(moe.up[e] @ x[0]) for e in range(4)]
    print("y is this sum of two outputs:", torch.allclose(y[0], 0.625 * answer[1] + 0.375 * answer[3], atol=1e-5))

    print("\n64 tokens make 128 choices; at first all tokens prefer experts 0 and 1")
    moe.router.data = torch.tensor([1.0, 1.0, 0.0, 0.0]).outer(first_number) + 0.1 * torch.randn(4, 4)
    x = torch.randn(64, 4)
    x[:, 0] = 1
    target = torch.sin(3 * x)
    optimizer = torch.optim.AdamW(moe.parameters(), lr=0.02)
    for step in range(201):
        y, probs, chosen = moe(x)
        error, balance = F.mse_loss(y, target), balance_loss(probs, chosen)
        loss = error + balance
        if step % 100 == 0:
            counts = chosen.flatten().bincount(minlength=4)
            print(
                f"step {step:3}  choices of each expert:", *(f"{n:3}" for n in counts), f"  balance loss {balance:.2f}"
            )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


if __name__ == "__main__":
    main()
