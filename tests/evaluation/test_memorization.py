"""A model that memorized its text is distinguished from one that learned its rule."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from minillm.datasets.tokens import TokenStream
from minillm.decoding.generate import generate
from minillm.decoding.sampler import Sampler, SamplingConfig, build_pipeline, seeded
from minillm.evaluation.memorization import (
    LEAST,
    WINDOW,
    Memorized,
    count_memorized,
    memorization_remark,
    overfitting_remark,
)
from tests.tiny import VOCAB, decoder

GREEDY = Sampler(build_pipeline(SamplingConfig(temperature=0.0)))


def stream_of(ids: list[int]) -> TokenStream:
    """One text."""
    return TokenStream(np.array([0, *ids, 0], np.uint8), np.array([0]), n_bytes=len(ids))


class Next(nn.Module):
    """Predicts t + 1 after t."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, tokens, state=None):
        return nn.functional.one_hot((tokens + 1) % VOCAB, VOCAB) * self.weight, None


@settings(max_examples=15)
@given(st.integers(0, 99), st.integers(9, 29))
def test_a_window_is_known_where_greedy_decoding_writes_its_second_half(seed, T):
    model = decoder(seed % 5, n_layers=1)
    prompt = np.random.default_rng(seed).integers(1, VOCAB, 2).tolist()
    [written] = generate(model, [[0, *prompt]], GREEDY, max_new_tokens=26, generators=seeded([0]), end_id=0)
    ids = [*prompt, *(token for token in written.tokens if token)]
    wrong = list(ids)
    wrong[-1] = wrong[-1] % (VOCAB - 1) + 1
    for text in (ids, wrong):
        stream = stream_of(text)
        known = tried = 0
        for start in range(0, len(stream.ids) - 1, T):
            row = stream.ids[start : start + T + 1].tolist()
            if len(row) - 1 < LEAST:
                continue
            n_given = (len(row) - 1) // 2 + 1
            [rest] = generate(
                model, [row[:n_given]], GREEDY, max_new_tokens=len(row) - n_given, generators=seeded([0]), end_id=None
            )
            known, tried = known + (list(rest.tokens) == row[n_given:]), tried + 1
        assert count_memorized(model, stream, T, False) == (known, tried)


def test_a_rule_is_recited_from_text_that_was_never_seen_and_one_wrong_token_is_none():
    rule = [i % VOCAB for i in range(1, 27 * VOCAB)]  # the END after it follows from the rule too
    assert count_memorized(Next(), stream_of(rule), 999, False).share == 1.0
    assert count_memorized(Next(), stream_of(rule[: WINDOW - 2]), 999, False) == (0, 1), (
        "after the last token stands END"
    )
    assert count_memorized(Next(), stream_of([7] * 10 * WINDOW), 999, False).known == 0
    assert count_memorized(Next(), stream_of(rule[: LEAST - 2]), 999, False) == (0, 0)


@pytest.mark.parametrize(
    ("train", "val", "known"),
    [
        ((60, 64), (0, 8), True),
        ((32, 64), (2, 8), True),
        ((31, 64), (0, 8), False),
        ((60, 64), (5, 8), False),
        ((9, 9), (0, 0), True),
        ((0, 0), (0, 0), False),
    ],
)
def test_by_heart_is_half_of_the_training_text_and_much_less_of_other_text(train, val, known):
    said = memorization_remark(Memorized(*train), Memorized(*val))
    assert ("the model has memorized the text" in said) == known and (said == "") != known
    assert not known or (f"{train[0]} of {train[1]}" in said and f"{val[0]} of {val[1]}" in said)


def rows(val: dict[int, float], train: float) -> list[dict]:
    return [
        {"step": 1, "loss": 9.0},
        *({"step": step, "val_loss": loss} for step, loss in val.items()),
        {"step": max(val), "loss": train},
    ]


def test_what_followed_the_best_validation_is_told_by_both_losses():
    assert overfitting_remark(rows({10: 3.0, 20: 2.0, 30: 1.5}, 0.1), 30) == "", "the best was the last"
    worse = overfitting_remark(rows({10: 3.0, 20: 2.0, 30: 2.1}, 2.0), 20)
    assert "best with 2.000 at step 20" in worse and "step 30 had 2.100" in worse and "memorize" not in worse
    for train, said in (
        (2.1, "validation was"),
        (1.9, "the model has begun to memorize the text"),
        (0.5, "the model has begun"),
        (0.3, "the model has memorized"),
    ):
        assert overfitting_remark(rows({10: 3.0, 20: 2.0, 30: 4.0}, train), 20).startswith(said)
    heart = overfitting_remark(rows({10: 3.0, 20: 2.0, 30: 4.0}, 0.3), 20)
    assert "at step 30 its loss was 0.300 on the training text and 4.000" in heart
    assert "best was 2.000 at step 20, whose weights are kept" in heart
    assert overfitting_remark([], 0) == ""


@pytest.mark.parametrize(
    ("n", "jump", "known"),
    [(64, 31, 1), (64, 32, 0), (64, 63, 0), (9, 3, 1), (9, 4, 0), (8, 3, 1), (8, 4, 0)],
)
def test_the_first_half_is_given_and_every_token_of_the_second_must_follow(n, jump, known):
    ids = np.array([(i + 5 * (i > jump)) % VOCAB for i in range(n + 1)], np.uint8)
    assert count_memorized(Next(), TokenStream(ids, np.array([0]), n_bytes=n), 999, False) == (known, 1)
