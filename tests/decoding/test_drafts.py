"""Drafters draw from the distributions that they report, and continue from the accepted text."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from minillm.constants import EMPTY
from minillm.decoding.drafts import LAYER, LEAST_COST, LOOK_UP, ModelDrafter, PromptLookup, relative_cost
from minillm.decoding.reader import Reader
from minillm.decoding.sampler import Sampler, SamplingConfig, build_pipeline
from minillm.lessons.speculative_decoding import draw
from tests import tiny
from tests.decoding.test_generate import MODELS, all_prompts, sampler_for, samplings
from tests.decoding.toys import distribution

V = 7
ROOM = 6


def laid_out(rows, room=ROOM):
    """Texts (B, longest + room) and their lengths."""
    width = max(map(len, rows)) + room
    return torch.tensor([row + [EMPTY] * (width - len(row)) for row in rows]), torch.tensor([len(row) for row in rows])


@pytest.mark.parametrize("name", MODELS)
@settings(max_examples=8, deadline=None, derandomize=True)
@given(all_prompts.filter(lambda rows: len(rows[0]) < 8), samplings, st.data())
def test_a_model_drafts_from_its_own_shaped_distribution_with_the_history_of_each_place(name, rows, sampling, data):
    rows, model = [row[:5] for row in rows[:3]], MODELS[name]
    wanted = [data.draw(st.integers(0, 4)) for _ in rows]
    u = torch.rand(len(rows), max(wanted), generator=torch.Generator().manual_seed(len(rows)), dtype=torch.float64)
    texts, lengths = laid_out(rows)
    with torch.inference_mode(), ModelDrafter(model).begin(len(rows)) as drafting:
        draft = drafting.propose(texts, lengths, torch.tensor(wanted), sampler_for(sampling, rows, 2), u)
        for row, text in enumerate(rows):
            tokens, q = draft.tokens[row].tolist(), draft.probs[row]
            for i in range(wanted[row]):
                expected = distribution(model, text + tokens[:i], sampler_for(sampling, [text], 2))
                assert q[i].tolist() == pytest.approx(expected, abs=1e-9) and tokens[i] == draw(
                    expected, float(u[row, i])
                )
            assert tokens[wanted[row] :] == [EMPTY] * (u.shape[1] - wanted[row]) and not q[wanted[row] :].any()


def test_a_draft_ends_where_everything_is_banned():
    sampler = Sampler(build_pipeline(SamplingConfig(no_repeat_ngram=1)))
    texts, lengths = laid_out([[0, 1, 2, 3, 4], [5]])
    with torch.inference_mode(), ModelDrafter(MODELS["rotary"]).begin(2) as drafting:
        draft = drafting.propose(
            texts, lengths, torch.tensor([4, 4]), sampler, torch.full((2, 4), 0.5, dtype=torch.float64)
        )
    assert (draft.tokens >= 0).sum(1).tolist() == [2, 4] and draft.tokens[0, 2:].tolist() == [EMPTY] * 2
    assert draft.probs.sum(-1).tolist() == [pytest.approx([1, 1, 0, 0]), pytest.approx([1] * 4)]


@pytest.mark.parametrize("name", [*MODELS, "experts"])
@settings(max_examples=7, deadline=None, derandomize=True)
@given(st.data())
def test_after_any_drafts_and_rejections_a_reader_is_a_fresh_one_that_read_the_text(name, data):
    """Rows accept different numbers of tokens and leave the batch; logits equal those of the whole text read alone."""
    model = tiny.decoder(**tiny.SHAPES["experts"]) if name == "experts" else MODELS[name]
    token, text = st.integers(0, V - 1), lambda low, high: st.lists(st.integers(0, V - 1), min_size=low, max_size=high)
    rows = [data.draw(text(1, 3)) for _ in range(data.draw(st.integers(1, 3)))]
    with torch.inference_mode():
        reader = Reader(model, model.start(len(rows)))
        for _ in range(3):
            k, n_pushed = data.draw(st.integers(0, 2)), data.draw(st.integers(0, 1))
            texts, lengths = laid_out(rows)
            drafts = [data.draw(text(0, k)) for _ in rows]
            logits = reader.read(
                texts, lengths, torch.tensor([d + [EMPTY] * (k - len(d)) for d in drafts]) if k else None
            )
            for row, draft, got in zip(rows, drafts, logits, strict=True):
                whole = model(torch.tensor([row + draft]))[0][0, len(row) - 1 :]
                tiny.assert_equal(got[: len(draft) + 1], whole)
            for _ in range(n_pushed):
                pushed = [data.draw(token) for _ in rows]
                drafts = [[*draft, t] for draft, t in zip(drafts, pushed, strict=True)]
                for row, draft, got in zip(rows, drafts, reader.push(torch.tensor(pushed)), strict=True):
                    tiny.assert_equal(got, model(torch.tensor([row + draft]))[0][0, -1])
            kept = [data.draw(st.integers(0, len(draft))) for draft in drafts]
            rows = [row + draft[:n] for row, draft, n in zip(rows, drafts, kept, strict=True)]
            reader.back(*laid_out(rows))
            assert reader.state.lengths.tolist() == list(map(len, rows))
            staying = data.draw(st.lists(st.integers(0, len(rows) - 1), min_size=1, max_size=len(rows), unique=True))
            reader.reorder(torch.tensor(staying))
            rows = [rows[i] + [data.draw(token)] for i in staying]  # the token that the target adds


def looked_up(text, longest, k):
    """Oracle of prompt lookup in plain Python."""
    for n in range(longest, 0, -1):
        for place in range(len(text) - n - 1, -1, -1):
            if text[place : place + n] == text[-n:] and len(text) > n:
                grown = list(text)
                for i in range(k):
                    grown.append(grown[place + n + i])
                return grown[len(text) :]
    return []


@settings(max_examples=80, deadline=None, derandomize=True)
@given(
    st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=14), min_size=1, max_size=4),
    st.integers(1, 4),
    st.integers(0, 5),
)
def test_the_text_is_looked_up_as_one_would_by_hand(rows, longest, k):
    texts, lengths = laid_out(rows)
    wanted = torch.tensor([max(0, k - i) for i in range(len(rows))])
    draft = PromptLookup(3, longest).propose(
        texts, lengths, wanted, Sampler(), torch.zeros(len(rows), k, dtype=torch.float64)
    )
    for i, (row, tokens, q) in enumerate(zip(rows, draft.tokens.tolist(), draft.probs, strict=True)):
        expected = looked_up(row, longest, k)[: max(0, k - i)]
        assert tokens == expected + [EMPTY] * (k - len(expected))
        assert q.argmax(-1)[: len(expected)].tolist() == expected
        assert q.sum(-1).tolist() == [1.0] * len(expected) + [0.0] * (k - len(expected))


def test_the_latest_of_the_longest_matches_wins():
    texts, lengths = laid_out([[1, 2, 3, 0, 2, 3, 4, 3, 5, 1, 2, 3]])
    for longest, first in ((3, 0), (2, 4), (1, 5)):
        draft = PromptLookup(6, longest).propose(
            texts, lengths, torch.tensor([1]), Sampler(), torch.zeros(1, 1, dtype=torch.float64)
        )
        assert draft.tokens.tolist() == [[first]]


def test_a_cost_is_a_count_of_weights_that_are_read_and_of_layers_that_are_called():
    small, large = (tiny.decoder(n_layers=n, tied=tied) for n, tied in ((1, False), (3, True)))
    efforts = []
    for model in (small, large):
        named = dict(model.named_parameters(remove_duplicate=False))
        read = sum(p.numel() for name, p in named.items() if not name.startswith("embed"))
        efforts.append(read + LAYER * len({name.rpartition(".")[0] for name in named}))
    assert relative_cost(small, large) == efforts[0] / efforts[1] and relative_cost(large, large) == 1
    assert relative_cost(MODELS["ngram"], large) == 3 * LOOK_UP * LAYER / efforts[1] > LEAST_COST
    assert (
        relative_cost(MODELS["markov"], large) == LEAST_COST == PromptLookup(3).cost != PromptLookup(3, cost=0.5).cost
    )
