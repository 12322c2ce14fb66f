"""Weight quantization: store trained weights as 8-bit or 4-bit integers with shared scales, without further training.

    int8:  scale = max |w| / 127 of a row              code = round(w / scale)              w' = scale * code
    int4:  scale = (max - min) / 15 of a group         code = round((w - min) / scale)      w' = min + scale * code
    |w - w'| <= scale / 2

One large weight makes the scale coarse for all weights that share it, so each row has its own scale; with only 16
levels, each group of 32 to 128 neighbors in a row has one. Two 4-bit codes share a byte. Generating a token reads every
weight once, and reading takes most of the time: fewer bytes mean less memory, and less time with a kernel that unpacks
them on the fly.

Paper: Dettmers et al. 2022, "LLM.int8()"; Dettmers and Zettlemoyer 2023, "The case for 4-bit precision".
Read before: transformer_block, cache_quantization.
Then read: minillm/quantization/int8.py, minillm/quantization/int4.py, minillm/quantization/nf4.py
Try: python sample.py --weights int4

Change it:
    - scale = weight.abs().amax(dim=1, keepdim=True) / 127
    + scale = weight.abs().amax() / 127
Shown: int8 row 0: 0.00 0.00 0.00 1.00
"""

import torch
from torch import Tensor


def quantize_int8(weight: Tensor) -> tuple[Tensor, Tensor]:
    """A matrix (out, in) -> codes (out, in) int8, -127 ... 127, and scales (out, 1)."""
    scale = weight.abs().amax(dim=1, keepdim=True) / 127
    return (weight / scale).round().to(torch.int8), scale


def dequantize_int8(codes: Tensor, scale: Tensor) -> Tensor:
    """The rounded matrix (out, in)."""
    return scale * codes


def quantize_int4(weight: Tensor, group: int) -> tuple[Tensor, Tensor, Tensor]:
    """A matrix (out, in) -> bytes (out, in / 2) uint8 with two codes each, and for each group a scale and a minimum."""
    groups = weight.unflatten(1, (-1, group))  # (out, n, group)
    low, high = groups.aminmax(dim=2, keepdim=True)  # (out, n, 1)
    scale = (high - low) / 15
    codes = ((groups - low) / scale).round().to(torch.uint8).flatten(1)  # (out, in), 0 ... 15
    return codes[:, 0::2] | codes[:, 1::2] << 4, scale, low


def dequantize_int4(packed: Tensor, scale: Tensor, low: Tensor) -> Tensor:
    """The rounded matrix (out, in)."""
    codes = torch.stack([packed & 15, packed >> 4], dim=2).flatten(1)  # (out, in)
    return (low + scale * codes.unflatten(1, (scale.shape[1], -1))).flatten(1)


def main() -> None:
    """Two rows with numbers of very different size by hand, then the bytes of a matrix."""
    weight = torch.tensor([[0.1, -0.5, 0.33, 1.27], [20.0, -127.0, 4.0, 60.0]])
    codes, scale = quantize_int8(weight)
    for row in range(2):
        print(f"weights row {row}:", *(f"{w:.2f}" for w in weight[row]))
        back = dequantize_int8(codes, scale)[row]
        print(f"int8 row {row}:", *(f"{w:.2f}" for w in back), " codes", *codes[row].tolist())
    print("by hand: the scale of row 0 is 1.27 / 127 = 0.01, so 0.33 has the code 33")
    packed, scale, low = quantize_int4(torch.tensor([[-1.0, 0.33, 0.9, 2.0]]), group=4)
    print(f"\nint4 of -1 0.33 0.9 2: scale 3 / 15 = {scale.item():.1f}, codes 0 7 10 15, bytes", *packed[0].tolist())
    print("back", *(f"{w:.1f}" for w in dequantize_int4(packed, scale, low)[0]), " no error is larger than 0.1")

    torch.manual_seed(0)
    weight, x = torch.randn(128, 256), torch.randn(256)
    print("\na matrix of 128 x 256 normal numbers times a vector; in bf16 it takes 128 * 256 * 2 = 65536 bytes")
    for name, parts, back in (
        ("int8", quantize_int8(weight), dequantize_int8),
        ("int4", quantize_int4(weight, group=64), dequantize_int4),
    ):
        n_bytes, error = sum(part.nbytes for part in parts), (back(*parts) - weight) @ x
        print(f"{name}: {n_bytes} bytes, {8 * n_bytes / weight.numel():.3f} bits per weight,", end=" ")
        print(f"relative error of the product {error.norm() / (weight @ x).norm():.3f}")


if __name__ == "__main__":
    main()
