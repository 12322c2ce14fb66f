"""Transformer block: attention between tokens, then an MLP for each token, each added to the residual stream.

    pre-norm    x = x + attention(norm(x))      x = x + mlp(norm(x))        GPT-2 and most models since
    post-norm   x = norm(x + attention(x))      x = norm(x + mlp(x))        the transformer of 2017, BERT
    mlp(x) = down(gelu(up(x)))

A model is a stack of blocks. The vectors to which all blocks add their outputs are the residual stream: a block that
adds 0 changes nothing, and gradients reach the first block through the additions alone. Pre-norm does not change the
stream itself and trains without warm-up; post-norm normalizes it after every addition.

Paper: Vaswani et al. 2017; Xiong et al. 2020, "On Layer Normalization in the Transformer Architecture".
Read before: attention, normalization.
Then read: minillm/layers/block.py, minillm/layers/feedforward.py
Try: python train.py --config gpt-tiny --model.norm_place post

Change it:
    - x = x + self.attention(normed, normed, causal)
    + x = self.attention(normed, normed, causal)
Shown: of two different tokens after 24 blocks: 1.000
"""

import math

import torch
from torch import Tensor, nn

from minillm.lessons.attention import MultiHeadAttention
from minillm.lessons.normalization import LayerNorm


def gelu(x: Tensor) -> Tensor:
    """x times the standard normal probability of a value below x, in the approximation that GPT-2 uses."""
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


class MLP(nn.Module):
    """Multi-layer perceptron with F hidden units, applied to each token: (..., D) -> (..., D)."""

    def __init__(self, d_model: int, d_ff: int):
        super().__init__()
        self.up = nn.Linear(d_model, d_ff)
        self.down = nn.Linear(d_ff, d_model)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(gelu(self.up(x)))


class PreNormBlock(nn.Module):
    """(..., T, D) -> (..., T, D); causal: no token sees a later one."""

    def __init__(self, d_model: int, n_heads: int, d_ff: int):
        super().__init__()
        self.norm_1 = LayerNorm(d_model)
        self.attention = MultiHeadAttention(d_model, n_heads)
        self.norm_2 = LayerNorm(d_model)
        self.feedforward = MLP(d_model, d_ff)

    def forward(self, x: Tensor, causal: bool) -> Tensor:
        normed = self.norm_1(x)
        x = x + self.attention(normed, normed, causal)
        return x + self.feedforward(self.norm_2(x))


class PostNormBlock(PreNormBlock):
    """The same parts in the order of the original transformer."""

    def forward(self, x: Tensor, causal: bool) -> Tensor:
        x = self.norm_1(x + self.attention(x, x, causal))
        return self.norm_2(x + self.feedforward(x))


@torch.no_grad()
def main() -> None:
    """Count the parameters, test which tokens a block reads, and compare two tokens after a deep stack."""
    torch.manual_seed(0)
    x, block = torch.randn(5, 8), PreNormBlock(d_model=8, n_heads=2, d_ff=32)
    print(f"five tokens of D = 8 numbers: {tuple(x.shape)} -> {tuple(block(x, causal=True).shape)}")
    print(f"parameters: {sum(p.numel() for p in block.parameters())} = 12 D^2 + 13 D, two thirds of them in the MLP")

    other = x.clone()
    other[2] = torch.randn(8)
    moved = (block(other, causal=True) - block(x, causal=True)).abs().sum(dim=-1) > 0
    print("the third token changes; which outputs change:", *moved.tolist())

    stream = x
    for _ in range(24):
        stream = PreNormBlock(d_model=8, n_heads=2, d_ff=32)(stream, causal=True)
    cosine = torch.cosine_similarity(stream[0], stream[4], dim=0)
    print(f"cosine of two different tokens after 24 blocks: {cosine:.3f}")


if __name__ == "__main__":
    main()
