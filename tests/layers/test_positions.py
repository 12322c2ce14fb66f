"""Positions: formulas by hand, invariances of rotation, and precision at large positions."""

import cmath
import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from minillm.layers.positions import (
    Alibi,
    LearnedPositions,
    NoPositions,
    Rotary,
    SinusoidalPositions,
    no_bias,
    no_rotation,
)
from minillm.layers.rotary_scaling import SCALINGS, Scaling, frequencies_of
from minillm.lessons import positions as lesson
from minillm.models.decoder import Decoder, DecoderConfig
from tests.tiny import assert_equal

ROTARY = Rotary(6, context_length=200, base=123.0)
LONG = Rotary(8, context_length=16_001)

seeds = st.integers(0, 2**32 - 1)
heads = seeds.map(
    lambda seed: torch.randn(2, 3, 1, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
)
places = st.integers(0, 99)


def turned(x: torch.Tensor, position: int, rotary: Rotary = ROTARY) -> torch.Tensor:
    return rotary(x, torch.tensor([[position]]))


def test_queries_are_turned_as_in_the_lesson():
    x, positions = torch.randn(2, 3, 7, 6, dtype=torch.float64), torch.randint(11, 40, (7,))
    assert_equal(Rotary(6, context_length=40)(x, positions[None]), lesson.rotary(x, positions))


@pytest.mark.parametrize("d_model", [9, 10])
def test_sinusoidal_positions_are_those_of_the_lesson_in_float32(d_model):
    out = SinusoidalPositions(31, d_model)(torch.arange(31)[None])[0]
    torch.testing.assert_close(out, lesson.sinusoidal(31, d_model).float(), rtol=0, atol=2e-7)


@pytest.mark.parametrize("n_heads", [1, 4, 16])
def test_the_bias_is_that_of_the_lesson(n_heads):
    places = torch.arange(7)
    assert_equal(Alibi(n_heads)(places[None], places[None, None], torch.float64)[0], lesson.alibi(n_heads, 7))


def test_rotation_is_multiplication_by_a_complex_number_of_length_one():
    x = torch.randn(2, 3, 7, 6, dtype=torch.float64)
    out = ROTARY(x, torch.arange(5, 12)[None])
    for t in range(7):
        for i in range(3):
            turn = cmath.exp(1j * (5 + t) * 123.0 ** (-2 * i / 6))
            expected = torch.complex(x[:, :, t, i], x[:, :, t, i + 3]) * turn
            assert_equal(out[:, :, t, i], expected.real)
            assert_equal(out[:, :, t, i + 3], expected.imag)


@given(heads, heads, places, places, places)
def test_a_score_depends_on_the_distance_alone(q, k, i, j, shift):
    here = (turned(q, i) * turned(k, j)).sum(-1)
    there = (turned(q, i + shift) * turned(k, j + shift)).sum(-1)
    assert_equal(here, there)


@given(heads, places, places)
def test_lengths_stay_and_turns_add_up(x, i, j):
    assert_equal(turned(x, i).norm(dim=-1), x.norm(dim=-1))
    assert_equal(turned(turned(x, i), j), turned(x, i + j))
    assert_equal(turned(x, 0), x)


def test_the_same_vectors_at_two_offsets_are_two_results_and_stay_as_they_were():
    x = torch.randn(2, 3, 4, 6)
    before, first, second = x.clone(), ROTARY(x, torch.arange(4)[None]), ROTARY(x, torch.arange(7, 11)[None])
    assert (first - second).abs().min() > 1e-6
    assert torch.equal(ROTARY(x, torch.arange(4)[None]), first)
    assert torch.equal(x, before)


def test_every_row_is_turned_to_positions_of_its_own():
    x, positions = torch.randn(2, 3, 4, 6), torch.tensor([[0, 1, 2, 3], [-1, 5, 9, 150]])
    out = ROTARY(x, positions)
    for b, t in [(0, 3), (1, 1), (1, 3)]:
        assert torch.equal(out[b, :, t], turned(x[b : b + 1, :, t : t + 1], int(positions[b, t]))[0, :, 0])


def test_angles_of_a_bfloat16_model_are_exact_at_position_16000():
    c = DecoderConfig(n_layers=1, d_model=24, n_heads=3, context_length=16_500)
    model = Decoder(c, vocab_size=7).to(torch.bfloat16)
    rotary = model.blocks[0].attention.rotate
    for position in (255, 257, 16_000, 16_499):
        cos_sin = turned(torch.tensor([1.0] * 4 + [0.0] * 4)[None, None, None], position, rotary)[0, 0, 0]
        angles = [position * 10000.0 ** (-2 * i / 8) for i in range(4)]
        expected = [*map(math.cos, angles), *map(math.sin, angles)]
        torch.testing.assert_close(cos_sin, torch.tensor(expected), rtol=0, atol=1e-7)


@given(seeds, st.integers(0, 16_000))
def test_bfloat16_vectors_are_turned_by_the_right_angle_up_to_their_own_rounding(seed, position):
    x = torch.randn(1, 3, 1, 8, generator=torch.Generator().manual_seed(seed)).bfloat16()
    out, exact = turned(x, position, LONG), turned(x.double(), position, LONG)
    assert out.dtype == torch.bfloat16
    assert (out.double() - exact).abs().max() < 3 * 2**-8 * x.abs().max()


def test_the_gradient_is_turned_back():
    x = torch.randn(2, 3, 4, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: ROTARY(x, torch.tensor([[0, 1, 2, 3], [7, -1, 50, 150]])), x)


def test_sinusoidal_positions_are_sines_and_cosines_in_turn():
    layer = SinusoidalPositions(context_length=31, d_model=10)
    out = layer(torch.arange(3, 20)[None])
    for t in range(17):
        for i in range(10):
            angle = (3 + t) / 10000 ** (2 * (i // 2) / 10)
            assert out[0, t, i].item() == pytest.approx(math.cos(angle) if i % 2 else math.sin(angle), abs=1e-6)
    assert not layer.state_dict()


def test_sinusoidal_positions_of_an_odd_width_end_with_a_sine():
    even, odd = SinusoidalPositions(31, 10), SinusoidalPositions(31, 9)
    assert odd(torch.tensor([[7]])).shape == (1, 1, 9)
    assert odd(torch.tensor([[7]]))[0, 0, -1].item() == pytest.approx(math.sin(7 / 10000 ** (8 / 9)))
    assert even(torch.tensor([[7]])).shape == (1, 1, 10)


def test_learned_positions_are_rows_of_a_table_and_an_empty_place_reads_no_row_that_is_not_there():
    layer = LearnedPositions(11, 5)
    positions = torch.tensor([[3, 0, 10], [-1, -1, 2]])
    out = layer(positions)
    for b, t in [(0, 0), (0, 1), (0, 2), (1, 2)]:
        assert torch.equal(out[b, t], layer.table.weight[positions[b, t]])
    assert out.isfinite().all()


def test_no_positions_change_nothing():
    x = torch.randn(2, 3, 4, 6)
    assert torch.equal(x + NoPositions()(torch.arange(4)[None]), x)
    assert no_rotation(x, torch.arange(4)[None]) is x


def test_heads_of_odd_width_cannot_be_turned():
    with pytest.raises(ValueError, match="d_head = 5: expected an even number"):
        Rotary(5, 10)


@pytest.mark.parametrize(
    ("n_heads", "exponents"),
    [
        (1, [8]),
        (2, [4, 8]),
        (8, [1, 2, 3, 4, 5, 6, 7, 8]),
        (16, [n / 2 for n in range(1, 17)]),
        (3, [4, 8, 2]),
        (6, [2, 4, 6, 8, 1, 3]),
        (12, [1, 2, 3, 4, 5, 6, 7, 8, 0.5, 1.5, 2.5, 3.5]),
    ],
)
def test_slopes_are_the_papers_for_powers_of_two_and_for_other_numbers_of_heads(n_heads, exponents):
    assert_equal(Alibi(n_heads).slopes, torch.tensor([2.0**-n for n in exponents], dtype=torch.float64))


@pytest.mark.parametrize("groups", [1, 2, 3, 6])
def test_a_bias_is_minus_slope_times_distance_for_every_row_group_and_head(groups):
    alibi, q, k = Alibi(6), torch.randint(-1, 50, (2, 5)), torch.randint(-1, 50, (2, groups, 7))
    bias = alibi(q, k, torch.float64)
    assert bias.shape == (2, 6, 5, 7)
    for b, h, t, s in itertools.product(range(2), range(6), range(5), range(7)):
        distance = abs(q[b, t].item() - k[b, h * groups // 6, s].item())
        assert bias[b, h, t, s].item() == pytest.approx(-alibi.slopes[h].item() * distance, rel=1e-15)


@given(seeds, st.integers(0, 10_000))
def test_a_bias_depends_on_the_distance_alone(seed, shift):
    q, k = torch.randint(0, 50, (2, 1, 5), generator=torch.Generator().manual_seed(seed))
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        bias = Alibi(6)(q, k[:, None], dtype)
        assert bias.dtype == dtype
        assert torch.equal(bias, Alibi(6)(q + shift, k[:, None] + shift, dtype))


def test_in_bfloat16_a_bias_far_out_is_wrong_by_its_last_rounding_alone():
    q, k = torch.tensor([[16_000]]), torch.arange(16_000)[None, None]
    bias, exact = Alibi(12)(q, k, torch.bfloat16).double(), Alibi(12)(q, k, torch.float64)
    assert ((bias - exact).abs() <= 1.001 * 2**-8 * exact.abs()).all()


def test_no_bias_adds_nothing():
    assert no_bias(torch.arange(3)[None], torch.arange(3)[None, None], torch.float32) == 0.0


def test_ntk_scaling_is_that_of_the_reference_for_a_text_of_that_length():
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(hidden_size=30, num_attention_heads=3, head_dim=10, max_position_embeddings=17)
    config.rope_parameters = {"rope_type": "dynamic", "rope_theta": 97.0, "factor": 1.0}
    compute = transformers.modeling_rope_utils.ROPE_INIT_FUNCTIONS["dynamic"]
    expected, _ = compute(config, device="cpu", seq_len=51)  # three times as long as the trained texts
    found = SCALINGS["ntk"](10, 97.0, Scaling("ntk", factor=3.0)).frequencies
    torch.testing.assert_close(found.float(), expected)
    plain = frequencies_of(10, 97.0)
    assert found[0] == plain[0] and float(plain[-1] / found[-1]) == pytest.approx(3)
    with pytest.raises(ValueError, match="d_head = 2: expected at least 4"):
        Rotary(2, 9, scaling=Scaling("ntk", factor=3.0))
