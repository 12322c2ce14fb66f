"""Normalization: scale each token's vector to a fixed size, so that numbers stay in range in models of any depth.

    LayerNorm(x) = (x - mean(x)) / sqrt(var(x) + eps) * weight + bias
    RMSNorm(x)   =  x / sqrt(mean(x^2) + eps) * weight

Means run over the D numbers of one vector, so a token does not depend on others, and training and sampling compute the
same. RMSNorm leaves out centering and bias. Weight and bias are learned; eps avoids a division by zero.

Paper: Ba et al. 2016, "Layer Normalization"; Zhang and Sennrich 2019, "Root Mean Square Layer Normalization".
Read before: training_loop.
Then read: minillm/layers/norm.py
Try: python train.py --config gpt-tiny --model.norm rmsnorm

Change it:
    - centered = x - x.mean(dim=-1, keepdim=True)
    + centered = x
Shown: LayerNorm    -0.200    1.000    1.000    1.400
"""

import torch
from torch import Tensor, nn

EPS = 1e-5


class LayerNorm(nn.Module):
    """(..., D) -> (..., D) of mean 0 and variance 1, times weight, plus bias."""

    def __init__(self, d_model: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(d_model))
        self.bias = nn.Parameter(torch.zeros(d_model))

    def forward(self, x: Tensor) -> Tensor:
        centered = x - x.mean(dim=-1, keepdim=True)
        variance = centered.square().mean(dim=-1, keepdim=True)
        return centered / torch.sqrt(variance + EPS) * self.weight + self.bias


class RMSNorm(nn.Module):
    """(..., D) -> (..., D) of mean square 1, times weight."""

    def __init__(self, d_model: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(d_model))

    def forward(self, x: Tensor) -> Tensor:
        mean_square = x.square().mean(dim=-1, keepdim=True)
        return x / torch.sqrt(mean_square + EPS) * self.weight


def show(name: str, x: Tensor) -> None:
    """Print a vector."""
    print(f"{name:<10}", *(f"{number + 0.0:8.3f}" for number in x.tolist()))


@torch.no_grad()
def main() -> None:
    """A vector of mean 4, standard deviation 3 and root mean square 5; then 30 layers that each double their input."""
    x = torch.tensor([-1.0, 5.0, 5.0, 7.0])
    layer_norm, rms_norm = LayerNorm(4), RMSNorm(4)
    show("x", x)
    print("mean 16 / 4 = 4, variance (25 + 1 + 1 + 9) / 4 = 9, mean square (1 + 25 + 25 + 49) / 4 = 25")
    show("LayerNorm", layer_norm(x))
    show("RMSNorm", rms_norm(x))
    print("\nten times x: the same vectors, since the size of x cancels out")
    show("LayerNorm", layer_norm(10 * x))
    show("RMSNorm", rms_norm(10 * x))
    print("\nx + 8: LayerNorm subtracts the mean, RMSNorm does not")
    show("LayerNorm", layer_norm(x + 8))
    show("RMSNorm", rms_norm(x + 8))

    plain = normed = x
    for _ in range(30):
        plain = 2 * plain
        normed = 2 * rms_norm(normed)
    print("\nthe first number after 30 layers that double their input")
    print(f"without a norm        {plain[0]:.0f} = -2^30")
    print(f"a norm before each    {normed[0]:.3f} = -0.2 * 2")


if __name__ == "__main__":
    main()
