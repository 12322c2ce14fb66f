"""Explanations of draws are true, change nothing, and can be replayed bit for bit."""

import json
import math
from itertools import pairwise

import hypothesis
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from minillm.decoding import explain
from minillm.decoding.drafts import ModelDrafter
from minillm.decoding.explain import Choice, ExplainingSampler, from_json, redraw, show, to_json
from minillm.decoding.generate import generate
from minillm.decoding.sampler import Sampler, SamplingConfig, build_pipeline, seeded
from minillm.decoding.speculative import Tally, speculate
from minillm.decoding.transforms import Temperature, TopK, TopP
from minillm.models.language_model import evaluating
from tests.decoding.toys import Remembers

MODEL = Remembers(11)
DRAFTS = {"the target itself": MODEL, "another": Remembers(11, seed=3)}

settings = st.builds(
    SamplingConfig,
    temperature=st.sampled_from([0.0, 0.3, 1.0, 2.0]),
    top_k=st.sampled_from([0, 1, 3, 7]),
    top_p=st.sampled_from([0.0, 0.5, 0.9, 1.0]),
    min_p=st.sampled_from([0.0, 0.2]),
    repetition_penalty=st.sampled_from([1.0, 1.5]),
)


def explained(sampling: SamplingConfig, seed: int, n: int = 6) -> tuple[list[int], list[Choice]]:
    sampler = ExplainingSampler(build_pipeline(sampling))
    [completion] = generate(MODEL, [[1, 2, 3]], sampler, max_new_tokens=n, generators=seeded([seed]))
    return completion.tokens, sampler.choices


@given(settings, st.integers(0, 2**31))
def test_explaining_changes_no_token_and_replays_bit_for_bit(sampling, seed):
    tokens, choices = explained(sampling, seed)
    plain = Sampler(build_pipeline(sampling))
    assert tokens == generate(MODEL, [[1, 2, 3]], plain, max_new_tokens=6, generators=seeded([seed]))[0].tokens
    assert [choice.token for choice in choices] == tokens
    again = from_json(to_json(choices, prompt="x"))
    assert again == choices and [redraw(choice) for choice in again] == tokens
    assert to_json(explained(sampling, seed)[1]) == to_json(choices)


@hypothesis.settings(max_examples=25)
@given(settings, st.integers(0, 2**31), st.integers(1, 4), st.sampled_from(["the target itself", "another"]))
def test_the_verdicts_are_those_that_were_given_and_replay_bit_for_bit(sampling, seed, n_draft, other):
    """With the target as its own draft, and with another draft model."""
    sampler, tally = Sampler(build_pipeline(sampling)), Tally()
    explaining = ExplainingSampler(sampler.pipeline)
    how = {"max_new_tokens": 7, "drafter": ModelDrafter(DRAFTS[other], 0.1), "n_draft": n_draft}
    [plain] = speculate(MODEL, [[1, 2, 3]], sampler, generators=seeded([seed]), **how)
    [watched] = speculate(
        MODEL, [[1, 2, 3]], sampler, generators=seeded([seed]), tallies=[tally], watch=explaining.watch, **how
    )
    choices = explaining.choices
    assert watched == plain and [choice.token for choice in choices] == plain.tokens
    verdicts = [choice.draft for choice in choices if choice.draft is not None]
    assert sum(verdict.accepted for verdict in verdicts) == tally.n_accepted and len(verdicts) == tally.n_tested
    assert all(
        choice.token == choice.draft.token for choice in choices if choice.draft is not None and choice.draft.accepted
    )
    again = from_json(to_json(choices))
    assert again == choices and [redraw(choice) for choice in again] == plain.tokens


@pytest.mark.parametrize("n_draft", [0, 1, 3])
def test_with_a_draft_every_choice_is_explained_by_the_text_before_it(n_draft):
    pipeline, prompt = build_pipeline(SamplingConfig(frequency_penalty=0.7)), [1, 2, 2]
    explaining = ExplainingSampler(pipeline)
    how = {"drafter": ModelDrafter(DRAFTS["another"], 0.1), "n_draft": n_draft, "watch": explaining.watch}
    [written] = speculate(MODEL, [prompt], Sampler(pipeline), max_new_tokens=9, generators=seeded([5]), **how)
    for i, choice in enumerate(explaining.choices[: len(written.tokens)]):
        text = torch.tensor([prompt + written.tokens[:i]])
        with evaluating(MODEL):
            logits = MODEL(text)[0][:, -1]
        for transform in pipeline:
            logits = transform(logits, text)
        expected = logits[0].double().softmax(-1)
        for token, p in choice.stages[len(pipeline)].best:
            assert p == pytest.approx(float(expected[token]), abs=1e-9)


@given(settings, st.integers(0, 2**31))
def test_every_stage_says_what_it_removed(sampling, seed):
    for choice in explained(sampling, seed, n=2)[1]:
        assert (
            choice.stages[0].removed == 0.0
            and choice.token in choice.tokens
            and len(choice.tokens) == choice.stages[-1].n_possible
        )
        for before, after in pairwise(choice.stages):
            assert after.n_possible <= before.n_possible
            assert (after.removed == 0) == (after.n_possible == before.n_possible) and 0 <= after.removed <= 1
        for stage in choice.stages:
            assert -1e-12 <= stage.entropy <= math.log(stage.n_possible) + 1e-9
            assert [p for _, p in stage.best] == sorted((p for _, p in stage.best), reverse=True)


def test_the_numbers_of_a_distribution_that_one_can_do_by_hand():
    logits = torch.tensor([[0.5, 0.25, 0.125, 0.125]], dtype=torch.float64).log()
    sampler = ExplainingSampler([TopK(3), TopP(0.6), Temperature(1.0)], nbytes=lambda: 77)
    sampler(logits, torch.empty(1, 0, dtype=torch.long), seeded([0]))
    [choice] = sampler.choices
    model, top_k, top_p, temperature = choice.stages
    assert (model.n_possible, top_k.n_possible, top_p.n_possible, temperature.n_possible) == (4, 3, 2, 2)
    assert model.entropy == pytest.approx(1.75 * math.log(2)) and top_k.removed == pytest.approx(0.125)
    assert top_p.removed == pytest.approx(1 / 7) and temperature.removed == 0
    assert top_p.best == [(0, pytest.approx(2 / 3)), (1, pytest.approx(1 / 3))]
    assert choice.nbytes == 77 and choice.vocab_size == 4 and choice.tokens == [0, 1]
    table = show([choice], "abcd".__getitem__)
    assert (
        "top-p 0.6" in table and "2 left  -0.143" in table and "'a' 0.667  'b' 0.333" in table and "77 bytes" in table
    )


def test_more_rows_than_one_are_refused():
    with pytest.raises(ValueError, match="2 rows: expected one"):
        ExplainingSampler([])(torch.zeros(2, 3), torch.empty(2, 0, dtype=torch.long), seeded([0, 1]))


def test_the_nucleus_grows_with_p_and_with_doubt(capsys):
    assert explain.main(["nucleus"]) == 0
    _, *rows = capsys.readouterr().out.splitlines()
    kept = [[int(word) for word in row[50:].split()[:-1]] for row in rows]
    assert kept[0] == [1] * 5 and kept[-1] == [50, 70, 90, 95, 99]
    for narrow, wide in pairwise(kept):
        assert narrow == sorted(narrow) and all(a <= b for a, b in zip(narrow, wide, strict=True))


def test_a_recorded_token_that_was_not_drawn_is_found(tmp_path, capsys):
    _, choices = explained(SamplingConfig(), seed=3)
    path = tmp_path / "why.json"
    path.write_text(to_json(choices, prompt="x"))
    assert explain.main(["replay", str(path)]) == 0 and "6 of 6 tokens" in capsys.readouterr().out
    forged = json.loads(path.read_text())
    forged["choices"][2]["uniform"] = (
        1 - forged["choices"][2]["uniform"] if abs(forged["choices"][2]["uniform"] - 0.5) > 0.2 else 0.999
    )
    path.write_text(json.dumps(forged))
    assert explain.main(["replay", str(path)]) == 1 and "number 3 is the first" in capsys.readouterr().out


@pytest.mark.parametrize("words", [["replay"], ["nothing"], [], ["replay", "nowhere.json"], ["replay", __file__]])
def test_what_cannot_be_explained_is_answered_with_a_sentence(words, capsys):
    assert explain.main(words) == 2
    said = capsys.readouterr().err
    assert "expected" in said or "No such file" in said
