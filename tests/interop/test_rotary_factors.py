"""Rotary factors: the scaling is found again from what it does to each pair."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from minillm.interop.rotary_factors import factors_of, scaling_of
from minillm.layers.rotary_scaling import Scaling


@given(
    width=st.sampled_from([10, 32, 64, 128]),
    base=st.sampled_from([1e4, 5e5, 1e6]),
    factor=st.sampled_from([1.5, 2.0, 8.0, 32.0]),
    length=st.sampled_from([512, 8192, 131072]),
    few=st.floats(0.3, 3),
    more=st.floats(0.5, 30),
    told=st.booleans(),
)
def test_a_scaling_is_found_from_its_factors(width, base, factor, length, few, more, told):
    few, many = round(few, 2), round(few + more, 2)
    factors = factors_of(width, base, Scaling("llama3", factor, length, few, many))
    if float(factors[-1]) < factor:
        return  # not even the slowest pair is wholly scaled
    found = scaling_of(factors.float(), base, **({"trained_length": length} if told else {}))
    low, high = found["low_freq_factor"], found["high_freq_factor"]
    again = Scaling("llama3", found["factor"], found["original_max_position_embeddings"], low, high)
    torch.testing.assert_close(factors_of(width, base, again), factors, rtol=1e-5, atol=0)
    inside = (factors > 1.001) & (factors < 0.999 * factor)
    if told and inside.sum() > 3:
        assert (found["factor"], low, high) == pytest.approx((factor, few, many), rel=2e-3)


def test_the_factors_of_llama_3_1_have_the_parameters_that_it_was_published_with():
    factors = factors_of(128, 5e5, Scaling("llama3", 8.0, 8192, 1.0, 4.0)).float()
    found = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    assert scaling_of(factors, 5e5) == found | {"original_max_position_embeddings": 8192}
    for wrong in (
        factors.flip(0),
        factors**1.01,
        factors * 0,
        -factors,
        factors / 0,
        factors * float("nan"),
        torch.full((64,), 3.0),
    ):
        with pytest.raises(ValueError, match="expected the factors of a rotary scaling"):
            scaling_of(wrong, 5e5)
