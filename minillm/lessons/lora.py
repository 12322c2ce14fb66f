"""LoRA: adapt a frozen weight by adding a trained update of low rank, the product of two thin matrices.

    y = W x + (alpha / rank) B A x        W (out, in) frozen,  A (rank, in),  B (out, rank)

The update that a task needs is close to a matrix of low rank, so rank (in + out) numbers are enough instead of
in * out; only they have gradients and optimizer state. B starts at zero, so a fresh adapter changes nothing. A must not
start at zero too: the gradient of B has the factor A x and that of A the factor B, so neither would ever change. After
training W + (alpha / rank) B A replaces the weight (merging), and the adapter costs no time.

Paper: Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models".
Read before: backpropagation, optimizers.
Then read: minillm/adapters/lora.py, minillm/adapters/inject.py
Try: python train.py --config lora-tiny --init-from runs/gpt-tiny

Change it:
    - self.A = nn.Parameter(torch.randn(rank, d_in) / math.sqrt(d_in))
    + self.A = nn.Parameter(torch.zeros(rank, d_in))
Shown: the error goes from 8.9 to 8.9
"""

import math

import torch
from torch import Tensor, nn


class LoRA(nn.Module):
    """A frozen weight W (out, in) and its update."""

    def __init__(self, W: Tensor, rank: int, alpha: float):
        super().__init__()
        d_out, d_in = W.shape
        self.W = nn.Parameter(W, requires_grad=False)
        self.A = nn.Parameter(torch.randn(rank, d_in) / math.sqrt(d_in))
        self.B = nn.Parameter(torch.zeros(d_out, rank))
        self.scale = alpha / rank

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        return x @ self.W.T + self.scale * (x @ self.A.T @ self.B.T)

    def merged(self) -> Tensor:
        """The weight (out, in) of an ordinary layer that computes the same."""
        return self.W + self.scale * (self.B @ self.A)


def main() -> None:
    """A layer by hand, then the training of an update of rank 1."""
    layer = LoRA(torch.eye(2), rank=1, alpha=2.0)
    layer.A.data, layer.B.data = torch.tensor([[1.0, 1.0]]), torch.tensor([[0.0], [3.0]])
    x = torch.tensor([1.0, 2.0])
    print("W = identity, A = (1 1), B = (0 3)^T, alpha / rank = 2, x = (1 2)")
    print("A x = 3, B A x = (0 9), y = (1 2) + 2 (0 9) =", *(int(y) for y in layer(x)))
    print("merged weight", layer.merged().tolist(), "gives", *(int(y) for y in layer.merged() @ x))

    torch.manual_seed(0)
    W, x = torch.randn(12, 8), torch.randn(100, 8)
    wanted = W + torch.outer(torch.randn(12), torch.randn(8))  # what the task needs: an update of rank 1
    layer = LoRA(W, rank=1, alpha=1.0)
    print("\na weight of 12 x 8 to which a task adds a matrix of rank 1")
    print("a fresh adapter changes nothing:", torch.equal(layer(x), x @ W.T))
    trained = [parameter for parameter in layer.parameters() if parameter.requires_grad]
    print(f"trained numbers: 1 * (12 + 8) = {sum(parameter.numel() for parameter in trained)} of 12 * 8 = {W.numel()}")
    errors = []
    for _ in range(300):
        loss = (layer(x) - x @ wanted.T).square().mean()
        errors.append(loss.item())
        for parameter, gradient in zip(trained, torch.autograd.grad(loss, trained), strict=True):
            parameter.data -= 0.3 * gradient
    print(f"300 steps: the error goes from {errors[0]:.1f} to {errors[-1]:.1f}")
    print("merged equals unmerged:", torch.allclose(x @ layer.merged().T, layer(x), atol=1e-5))
    print(f"a layer of 4096 x 4096 with rank 8: {8 * (4096 + 4096):,} of {4096 * 4096:,} numbers are trained")


if __name__ == "__main__":
    main()
