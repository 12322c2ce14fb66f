"""Positional encodings: give attention the position of each token, since without it a text is only a set of tokens.

    sinusoidal   x + (sin(p w_0), cos(p w_0), sin(p w_1), ...)      p: position, w_i = 10000^(-2i/D)
    rotary       turn pair i of each query and key by the angle p w_i, with the width K of a head in place of D
    ALiBi        score - slope_h * distance                         slope_h = 2^(-8h/H) for head h = 1 ... H

Sinusoidal positions are added once, before the first block. The other two act on the scores of every attention: the dot
product of a query at position i and a key at position j, both turned, depends on the positions only through i - j; and
ALiBi lowers the scores of distant tokens. Learned positions, a trained vector for each place, are in the lesson `gpt`.

Paper: Vaswani et al. 2017; Su et al. 2021, "RoFormer"; Press et al. 2022, "Train Short, Test Long" (ALiBi).
Read before: attention.
Then read: minillm/layers/positions.py
Try: python train.py --config gpt-tiny --model.positions alibi

Change it:
    - angles = torch.outer(positions, frequencies)
    + angles = torch.outer(positions**2, frequencies)
Shown: query at 7, key at 5:   score  0.424
"""

import math

import torch
from torch import Tensor


def sinusoidal(length: int, d_model: int) -> Tensor:
    """The table (T, D) to add to the vectors of T tokens: sines in even columns, cosines in odd ones."""
    table = torch.zeros(length, d_model, dtype=torch.float64)
    for position in range(length):
        for j in range(d_model):
            angle = position * 10000 ** (-(j - j % 2) / d_model)
            table[position, j] = math.cos(angle) if j % 2 else math.sin(angle)
    return table


def rotary(x: Tensor, positions: Tensor) -> Tensor:
    """Turn queries or keys (..., T, K) at positions (T,): pair i, (x_i, x_{i + K/2}), is turned as a complex number."""
    K = x.shape[-1]
    frequencies = 10000 ** (-torch.arange(0, K, 2, dtype=torch.float64) / K)  # (K / 2,)
    angles = torch.outer(positions, frequencies)  # (T, K / 2)
    first, second = x.chunk(2, dim=-1)
    turned_first = first * angles.cos() - second * angles.sin()
    turned_second = second * angles.cos() + first * angles.sin()
    return torch.cat([turned_first, turned_second], dim=-1)


def alibi(n_heads: int, length: int) -> Tensor:
    """The numbers (H, T, T) to add to the scores of T tokens in H heads; H is a power of two."""
    slopes = 2 ** (-8 * torch.arange(1, n_heads + 1, dtype=torch.float64) / n_heads)  # (H,)
    places = torch.arange(length)
    distances = (places[:, None] - places[None, :]).abs()  # (T, T)
    return -slopes[:, None, None] * distances


def main() -> None:
    """Each kind, with numbers that can be checked with a pocket calculator."""
    print("sinusoidal, D = 4: sin(p), cos(p), sin(p / 100), cos(p / 100)")
    for position, row in enumerate(sinusoidal(4, 4)):
        print(f"p = {position} ", *(f"{number:7.3f}" for number in row))

    print("\nrotary, K = 2: query and key are (1, 0), so their score is the cosine of the angle between them")
    for i, j in ((3, 1), (7, 5), (5, 1), (9, 5)):
        q, k = rotary(torch.tensor([[1.0, 0.0]] * 2), torch.tensor([i, j]))
        print(f"query at {i}, key at {j}:   score {q @ k:6.3f}     cos({i} - {j}) = {math.cos(i - j):.3f}")

    print("\nALiBi, 8 heads: the numbers that the first head, with slope 2^-1, adds to the scores of 4 tokens")
    for row in alibi(8, 4)[0].tril():
        print(*(f"{number + 0.0:6.1f}" for number in row))
    print("weights of the last token if all scores are equal:")
    for head in (0, 7):
        weights = alibi(8, 4)[head, -1].softmax(dim=-1)
        print(f"head {head + 1}, slope 2^-{head + 1}:", *(f"{weight:.3f}" for weight in weights))


if __name__ == "__main__":
    main()
