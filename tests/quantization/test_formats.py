"""Packed matrices: error bounds, bytes, and refused inputs."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from minillm.cache.nibbles import pack_nibbles, unpack_nibbles
from minillm.lessons import weight_quantization as lesson
from minillm.quantization import int4, int8, nf4

FORMATS = {"int8": int8.quantize, "int4": int4.quantize, "nf4": nf4.quantize}
each_format = pytest.mark.parametrize("quantize", FORMATS.values(), ids=FORMATS.keys())
# as in table E of Dettmers et al. 2023
PUBLISHED = [
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635),
    *(-0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634),
    *(0.33791524171829224, 0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
]


def matrix(out: int = 13, d: int = 192, seed: int = 0, scale: float = 1.0, shift: float = 0.0) -> torch.Tensor:
    """Normal weights; the rows differ greatly in size."""
    generator = torch.Generator().manual_seed(seed)
    sizes = 10.0 ** torch.randint(-4, 3, (out, 1), generator=generator)
    return scale * sizes * torch.randn(out, d, generator=generator) + shift


matrices = st.builds(
    matrix, seed=st.integers(0, 99), scale=st.sampled_from([1e-20, 0.02, 1e15]), shift=st.sampled_from([0.0, 0.5, -1e4])
)


def on_a_scale(groups: torch.Tensor, low: float, high: float) -> torch.Tensor:
    """Uniform numbers (..., n) -> weights whose extremes in each n are `low` and `high` times a power of two."""
    weight = low + (high - low) * groups
    weight[..., 0], weight[..., 1] = low, high
    sizes = 2.0 ** torch.arange(-7, 4)
    return weight * sizes[: groups[..., 0].numel()].view(*groups.shape[:-1], 1)


@given(st.integers(0, 99), st.sampled_from([-127, -50]))
def test_int8_is_the_lesson_where_the_scales_are_bfloat16_numbers(seed, low):
    weight = on_a_scale(
        torch.rand(5, 192, generator=torch.Generator().manual_seed(seed), dtype=torch.float64), low, 127
    )
    packed, (codes, scale) = int8.quantize(weight), lesson.quantize_int8(weight)
    assert torch.equal(packed.values, codes) and torch.equal(packed.scales.double()[:, None], scale)
    assert torch.equal(packed.dequantize().double(), lesson.dequantize_int8(codes, scale))


@given(st.integers(0, 99), st.integers(-20, 9))
def test_int4_is_the_lesson_where_scales_and_offsets_are_bfloat16_numbers(seed, low):
    groups = torch.rand(3, 3, 64, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    weight = on_a_scale(groups, low, low + 15).flatten(1)
    packed, (values, scale, least) = int4.quantize(weight), lesson.quantize_int4(weight, 64)
    assert torch.equal(packed.values, values) and torch.equal(packed.scales.double(), scale[..., 0])
    assert torch.equal(packed.dequantize().double(), lesson.dequantize_int4(values, scale, least))


@given(matrices)
def test_int8_is_within_half_a_step_of_every_weight(weight):
    packed = int8.quantize(weight)
    error = (packed.dequantize().double() - weight.double()).abs()
    assert (error <= packed.scales.double()[:, None] / 2 * (1 + 1e-5)).all()
    assert (packed.scales.double() <= weight.double().abs().amax(1) / 127 * (1 + 2**-8)).all()


@given(matrices)
def test_int4_is_within_half_a_step_of_every_weight(weight):
    packed = int4.quantize(weight)
    error = (packed.dequantize().double() - weight.double()).abs().unflatten(1, (3, 64))
    rounding = 2e-7 * weight.abs().amax(1)[:, None, None].double()  # of the sum of offset and steps in float32
    assert (error <= packed.scales.double()[..., None] / 2 * (1 + 1e-5) + rounding).all()


def test_a_step_of_int4_is_a_fifteenth_of_the_range_of_its_group():
    weight = matrix()
    ranges = weight.unflatten(1, (3, 64))
    torch.testing.assert_close(
        int4.quantize(weight).scales.float(), (ranges.amax(-1) - ranges.amin(-1)) / 15, rtol=2**-8, atol=0
    )


@given(st.integers(0, 99))
def test_nf4_takes_the_nearest_level_of_its_block(seed):
    weight = matrix(seed=seed)
    packed = nf4.quantize(weight)
    absmax = packed._absmax().double()[..., None]
    nearest = (weight.double().unflatten(1, (3, 64))[..., None] - absmax[..., None] * nf4.levels()).abs().amin(-1)
    error = (packed.dequantize().double() - weight.double()).abs().unflatten(1, (3, 64))
    assert (error <= nearest + 1e-6 * (absmax + nearest)).all()


def test_the_levels_of_nf4_are_the_published_ones():
    torch.testing.assert_close(nf4.levels(), torch.tensor(PUBLISHED, dtype=torch.float64), rtol=0, atol=3e-7)


def test_double_quantization_moves_no_absmax_by_more_than_half_a_step():
    weight = matrix(out=301)
    packed, absmax = nf4.quantize(weight), weight.unflatten(1, (3, 64)).abs().amax(-1)
    half = packed.scales.float().repeat_interleave(256)[: absmax.numel()].view_as(absmax) / 2
    assert ((packed._absmax() - absmax).abs() <= half * (1 + 1e-4)).all()


@pytest.mark.parametrize("name", ["int8", "int4"])
@pytest.mark.parametrize("seed", range(5))
def test_weights_that_a_format_can_hold_come_back_exactly(name, seed):
    held = FORMATS[name](matrix(seed=seed)).dequantize()
    assert torch.equal(FORMATS[name](held).dequantize(), held)


def test_weights_on_the_levels_of_nf4_come_back_exactly():
    weight = nf4.levels().float().repeat(7, 12)  # every absmax is 1
    assert torch.equal(nf4.quantize(weight).dequantize(), weight)


@each_format
def test_zeros_stay_zero_and_a_large_row_does_not_touch_its_neighbours(quantize):
    weight = matrix()
    weight[3] = 0
    weight[5, 64:128] = 0
    held = quantize(weight).dequantize()
    assert not held[3].any() and not held[5, 64:128].any() and held.isfinite().all()
    assert not quantize(torch.zeros(3, 64)).dequantize().any()


@each_format
def test_some_rows_are_those_of_the_whole(quantize):
    packed, ids = quantize(matrix(out=29)), torch.tensor([[3, 28], [0, 3], [7, 7]])
    assert torch.equal(packed.rows(ids), packed.dequantize()[ids])


@pytest.mark.parametrize(
    ("name", "bits"), [("int8", 8 + 16 / 4096), ("int4", 4.5), ("nf4", 4 + 8 / 64 + 32 / 64 / 256 + 64 / 2**18)]
)
def test_the_bits_a_weight_are_those_that_the_format_says(name, bits):
    packed = FORMATS[name](torch.randn(64, 4096))
    assert sum(x.nbytes for x in packed) * 8 / 2**18 == bits


@given(st.lists(st.integers(0, 15), min_size=2, max_size=20).filter(lambda x: len(x) % 2 == 0))
def test_nibbles_come_back(values):
    values = torch.tensor(values)
    assert (
        torch.equal(unpack_nibbles(pack_nibbles(values)).long(), values)
        and len(pack_nibbles(values)) == len(values) // 2
    )


@pytest.mark.parametrize("group", [0, 1, 3, 128, 7])
@pytest.mark.parametrize("quantize", [int4.quantize, nf4.quantize])
def test_groups_that_do_not_divide_the_width_are_refused(quantize, group):
    with pytest.raises(
        ValueError, match=rf"group = {group}: expected an even number that divides the width .* here 192; choose"
    ):
        quantize(matrix(), group)
