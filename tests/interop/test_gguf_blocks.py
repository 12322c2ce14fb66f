"""Block formats: equal to the package `gguf`, and to our int4 without rounding again."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from minillm.interop.gguf_blocks import BLOCKS, FOUR_BITS, int4

gguf = pytest.importorskip("gguf")
BYTES_OF_HALVES = {  # places of the float16 numbers in a block, which are random bytes otherwise
    "Q8_0": [0],
    "Q5_0": [0],
    "Q4_0": [0],
    "Q4_1": [0, 2],
    "Q4_K": [0, 2],
    "Q6_K": [208],
}
each_format = pytest.mark.parametrize("kind", BLOCKS)


def blocks_of(kind: str, n: int, seed: int) -> np.ndarray:
    """Blocks with random numbers and random finite scales, of either sign."""
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 256, (n, BLOCKS[kind].n_bytes), dtype=np.uint8)
    for place in BYTES_OF_HALVES[kind]:
        scales = (rng.standard_normal(n) * 10.0 ** rng.integers(-4, 3)).astype(np.float16)
        blocks[:, place : place + 2] = scales.view(np.uint8).reshape(n, 2)
    return blocks


@each_format
def test_the_bytes_of_a_block_are_those_of_ggml(kind):
    assert BLOCKS[kind][:2] == gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]]


@each_format
@given(st.integers(0, 999), st.integers(1, 5))
def test_weights_are_those_of_the_package_gguf(kind, seed, n):
    blocks = blocks_of(kind, n, seed)
    expected = gguf.quants.dequantize(blocks, gguf.GGMLQuantizationType[kind])
    assert torch.equal(BLOCKS[kind].dequantize(torch.from_numpy(blocks)), torch.from_numpy(expected))


@pytest.mark.parametrize("kind", ["Q8_0", "Q5_0", "Q4_0", "Q4_1"])
def test_blocks_that_the_package_gguf_rounded_come_back(kind):
    weight = torch.randn(7, 96)
    rounded = gguf.quants.quantize(weight.numpy(), gguf.GGMLQuantizationType[kind])
    back = BLOCKS[kind].dequantize(torch.from_numpy(rounded).view(-1, BLOCKS[kind].n_bytes)).view(7, 96)
    assert np.array_equal(back.numpy(), gguf.quants.dequantize(rounded, gguf.GGMLQuantizationType[kind]))
    assert (back - weight).abs().max() < weight.abs().max() / (7 if kind.startswith("Q4") else 14)


@pytest.mark.parametrize("kind", FOUR_BITS)
@given(st.integers(0, 999))
def test_int4_has_the_same_weights_to_one_rounding(kind, seed):
    blocks = torch.from_numpy(blocks_of(kind, 6, seed))
    packed, exact = int4(kind, blocks, n_rows=3), BLOCKS[kind].dequantize(blocks).view(3, -1)
    assert packed.values.dtype == torch.uint8 and packed.values.shape == (3, exact.shape[1] // 2)
    assert packed.scales.shape == packed.offsets.shape == (3, exact.shape[1] // 32)
    sizes = packed.offsets.abs() + 8 * packed.scales.abs()
    assert ((packed.dequantize() - exact).abs() <= 2**-23 * sizes.repeat_interleave(32, 1)).all()


@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1"])
def test_int4_of_rounded_weights_is_equal(kind):
    rounded = gguf.quants.quantize(torch.randn(5, 224).numpy() + 0.25, gguf.GGMLQuantizationType[kind])
    blocks = torch.from_numpy(rounded).view(-1, BLOCKS[kind].n_bytes)
    packed = int4(kind, blocks, n_rows=5)
    assert torch.equal(packed.dequantize(), BLOCKS[kind].dequantize(blocks).view(5, 224))
    assert torch.equal(packed.rows(torch.tensor([[3, 0]])), packed.dequantize()[[3, 0]][None])


def test_int4_keeps_the_levels():
    levels = torch.arange(32) % 16
    block = torch.cat([torch.tensor([0.5, -3.0]).half().view(torch.uint8), (levels[:16] | levels[16:] << 4).byte()])
    packed = int4("Q4_1", block[None], n_rows=1)
    assert packed.scales.tolist() == [[0.5]] and packed.offsets.tolist() == [[1.0]]
    assert torch.equal(packed.dequantize(), (0.5 * levels - 3)[None])
