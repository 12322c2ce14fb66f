"""QLoRA: train a correction of low rank on a frozen weight that is stored in 4 bits.

    W4 = nearest of 16 levels * absmax of its block        levels: quantiles of a normal distribution (NF4)
    y = dequantize(W4) x + B A x                           gradients pass through W4 to x, and stop at A and B

Trained weights are nearly normal, so levels at quantiles are used equally often. Each block of 64 weights has one
scale, its absmax; in 32 bits that is half a bit for each weight. Double quantization stores the scales in 8 bits too:
their distance from their mean, with a mean and a scale of 16 bits for 256 of them. So a weight costs 4.13 bits, where
training all of it by Adam costs 16 bytes (weight, gradient, two means). The correction is trained on the rounded weight
and repairs part of the rounding; so it must be merged into the rounded weight, not into the one before.

Paper: Dettmers et al. 2023, "QLoRA: Efficient Finetuning of Quantized LLMs".
Read before: lora, weight_quantization.
Then read: minillm/adapters/qlora.py, minillm/quantization/nf4.py
Try: python train.py --config lora-tiny --init-from runs/gpt-tiny --adapter.kind qlora

Change it:
    - merged = rounded + B @ A
    + merged = W + B @ A
Shown: the merged weight computes the same: False
"""

from statistics import NormalDist

import torch
from torch import Tensor

BLOCK, SHARING = 64, 256  # weights that share an absmax, and absmaxes that share a scale


def levels() -> Tensor:
    """Sixteen quantiles of a normal distribution from -1 to 1: seven below 0, 0, and eight above, equally probable."""
    outermost = 1 - (1 / 30 + 1 / 32) / 2
    below, above = ([NormalDist().inv_cdf(0.5 + (outermost - 0.5) * i / n) for i in range(1, n + 1)] for n in (7, 8))
    return torch.tensor([*(-x for x in reversed(below)), 0.0, *above], dtype=torch.float64) / above[-1]


def quantize(W: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A matrix -> codes 0 ... 15 (n, BLOCK), codes of the absmaxes (m, SHARING), their means (m, 1) and scales (m, 1).

    The number of weights must be a multiple of BLOCK * SHARING.
    """
    blocks = W.reshape(-1, BLOCK)
    absmax = blocks.abs().amax(dim=1).reshape(-1, SHARING)
    mean = absmax.mean(dim=1, keepdim=True).bfloat16().to(W)
    scale = ((absmax - mean).abs().amax(dim=1, keepdim=True) / 127).bfloat16().to(W)
    codes_of_absmax = ((absmax - mean) / scale).round()
    rounded = (mean + scale * codes_of_absmax).reshape(-1, 1)
    codes = (blocks[..., None] / rounded[..., None] - levels().to(W)).abs().argmin(dim=-1)
    return codes, codes_of_absmax, mean, scale


def dequantize(codes: Tensor, codes_of_absmax: Tensor, mean: Tensor, scale: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The rounded matrix."""
    absmax = (mean + scale * codes_of_absmax).reshape(-1, 1)
    return (levels().to(mean)[codes] * absmax).reshape(shape)


def main() -> None:
    """The levels, the bits of a weight, and the training of a correction on a rounded matrix."""
    print("levels", *(f"{level:.2f}" for level in levels()))
    torch.manual_seed(0)
    W = torch.randn(256, 64) / 8
    codes, *parts = quantize(W)
    rounded = dequantize(codes, *parts, W.shape)
    bits = 4 * codes.numel() + 8 * parts[0].numel() + 16 * (parts[1].numel() + parts[2].numel())
    print(f"{W.numel()} weights: {bits / W.numel():.2f} bits for each, with scales in 32 bits {4 + 32 / BLOCK:.2f}")
    print(f"rounding changes the matrix by {(rounded - W).norm() / W.norm():.3f} of its length")

    x = torch.randn(400, 64)
    wanted = x @ (W + 0.1 * torch.randn(256, 2) @ torch.randn(2, 64)).T  # what the task needs: an update of rank 2
    A, B = (torch.randn(4, 64) / 8).requires_grad_(), torch.zeros(256, 4, requires_grad=True)
    errors = []
    for _ in range(300):
        loss = (x @ (rounded + B @ A).T - wanted).square().mean()
        errors.append(loss.item())
        for factor, gradient in zip((A, B), torch.autograd.grad(loss, (A, B)), strict=True):
            factor.data -= 5.0 * gradient
    print(f"\n300 steps of a correction of rank 4: the error goes from {errors[0]:.3f} to {errors[-1]:.3f}")
    print(f"trained: {A.numel() + B.numel()} numbers; the {W.numel()} others stay in 4 bits")
    merged = rounded + B @ A
    same = torch.allclose(x @ merged.T, x @ (rounded + B @ A).T)
    print("the merged weight computes the same:", same)
    again = dequantize(*quantize(merged.detach()), W.shape)
    print(f"packed again it is off by {(again - merged).norm() / merged.norm():.3f} of its length")


if __name__ == "__main__":
    main()
