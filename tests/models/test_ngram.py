"""The n-gram model equals the lessons; its distributions sum to one after every context, seen or not."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from minillm.constants import EMPTY, IGNORE
from minillm.datasets.batch import Batch
from minillm.lessons import ngram as lesson
from minillm.lessons.smoothing import add_k, all_counts, kneser_ney, kneser_ney_counts, stupid_backoff
from minillm.models import ngram_counts
from minillm.models.ngram import Ngram, NgramConfig, frequency_table, main
from minillm.models.ngram_counts import NgramCounts
from minillm.objectives.next_token import next_token
from tests.tiny import assert_equal, assert_reads_on

V = 5
AMOUNTS = {"kneser-ney": ("discount", 0.6), "add-k": ("k", 0.3), "stupid-backoff": ("backoff", 0.4)}
RULES = {
    "kneser-ney": (kneser_ney, kneser_ney_counts),
    "add-k": (add_k, all_counts),
    "stupid-backoff": (stupid_backoff, all_counts),
}
THREE = "I love machine learning. I love deep learning. You love machine learning."

every_smoothing = pytest.mark.parametrize("smoothing", AMOUNTS)
texts = st.lists(st.lists(st.integers(0, V - 1), max_size=12), max_size=5)
histories = st.lists(st.integers(0, V - 1), max_size=6)


def config(order, smoothing):
    name, amount = AMOUNTS[smoothing]
    return NgramConfig(order=order, smoothing=smoothing, **{name: amount})


def batch(rows, width=None):
    """A batch of rows: the tokens are all but the last of a row, the targets all but the first."""
    width = width or max([len(row) for row in rows], default=0)
    padded = torch.tensor([row + [EMPTY] * (width - len(row)) for row in rows], dtype=torch.long).view(len(rows), width)
    targets = padded[:, 1:].masked_fill(padded[:, 1:] == EMPTY, IGNORE)
    return Batch(padded[:, :-1].masked_fill(targets == IGNORE, EMPTY), targets)


def counted(order, smoothing, rows, vocab_size=V):
    model = Ngram(config(order, smoothing), vocab_size).double()
    if rows:
        model.count(batch(rows, max(2, *map(len, rows))))
    return model


def after(model, history):
    """The distribution over the next token."""
    contexts = torch.tensor([EMPTY] * 9 + list(history))[len(history) + 9 - model.config.order + 1 :]
    return model.probabilities(contexts[None])[0]


def scores_of_the_lesson(kind, order, rows, history):
    """The score of each token after a history, by a rule of the lesson."""
    (rule, counting), (_, amount) = RULES[kind], AMOUNTS[kind]
    context, counts = tuple(history[max(0, len(history) - order + 1) :]), counting(rows, order)
    return torch.tensor([rule(token, context, counts, V, amount) for token in range(V)], dtype=torch.float64)


@every_smoothing
@settings(max_examples=40)
@given(order=st.integers(1, 5), rows=texts, history=histories)
def test_every_probability_is_the_lessons(smoothing, order, rows, history):
    scores = scores_of_the_lesson(smoothing, order, rows, history)
    expected = scores / scores.sum() if smoothing == "stupid-backoff" else scores
    assert_equal(after(counted(order, smoothing, rows), history), expected)


@pytest.mark.parametrize(("kind", "amount"), [("kneser-ney", "discount"), ("add-k", "k")])
@settings(max_examples=30)
@given(order=st.integers(2, 4), rows=texts)
def test_without_smoothing_a_seen_context_has_the_probabilities_of_the_lesson_on_ngrams(kind, amount, order, rows):
    model = Ngram(NgramConfig(order=order, smoothing=kind, **{amount: 1e-300}), V).double()
    if rows:
        model.count(batch(rows, max(2, *map(len, rows))))
    counts = lesson.count_ngrams(rows, order)
    for context in {ngram[:-1] for ngram in counts}:
        p = lesson.probabilities(context, counts)
        expected = torch.tensor([p.get(token, 0.0) for token in range(V)], dtype=torch.float64)
        assert_equal(model.probabilities(torch.tensor([context]))[0], expected)


@settings(max_examples=30)
@given(rows=st.lists(st.lists(st.sampled_from("abcd"), min_size=2, max_size=9), min_size=1, max_size=5))
def test_the_table_of_a_text_is_the_lessons(rows):
    text = " ".join(" ".join(row) + "." for row in rows)
    assert dict(frequency_table(text, order=2)) == lesson.count_ngrams(rows, 2)


@every_smoothing
@settings(max_examples=15)
@given(order=st.integers(1, 4), rows=texts)
def test_probabilities_are_positive_and_sum_to_one_after_every_context(smoothing, order, rows):
    model = counted(order, smoothing, rows)
    contexts = torch.tensor(list(itertools.product(range(-1, V), repeat=order - 1)), dtype=torch.long)
    p = model.probabilities(contexts)
    assert (p > 0).all()
    assert_equal(p.sum(-1), torch.ones(len(contexts), dtype=torch.float64))


@every_smoothing
@pytest.mark.parametrize("order", [1, 4])
def test_before_anything_is_counted_the_perplexity_is_exactly_the_size_of_the_vocabulary(smoothing, order):
    model = Ngram(config(order, smoothing), 17).double()
    loss = next_token(model, batch([[3, 1, 4, 1, 5, 9, 2, 6]]))
    assert math.exp(loss.total / loss.count) == pytest.approx(17, rel=1e-14)


def test_a_token_that_follows_only_one_other_is_unlikely_elsewhere():
    """The idea of Kneser-Ney: after an unknown context, the number of contexts of a token matters, not its count."""
    san, francisco, glasses = 0, 1, 2
    rows = [[san, francisco]] * 9 + [[3, glasses], [4, glasses], [5, glasses]]
    for smoothing, likelier in (("kneser-ney", glasses), ("add-k", francisco), ("stupid-backoff", francisco)):
        p = after(counted(2, smoothing, rows, vocab_size=7), [6])
        assert p.argmax() == likelier


@settings(max_examples=20)
@given(rows=texts.filter(len), order=st.integers(1, 4), data=st.data())
def test_counts_do_not_depend_on_the_batches_nor_on_their_order(rows, order, data):
    model = counted(order, "kneser-ney", rows)
    other = Ngram(model.config, V).double()
    for row in data.draw(st.permutations(rows)):
        other.count(batch([row], 13))
    for a, b in zip(model.counts.levels, other.counts.levels, strict=True):
        assert torch.equal(a.keys, b.keys) and torch.equal(a.counts, b.counts)


@settings(max_examples=30)
@given(rows=texts, order=st.integers(1, 4))
def test_the_table_holds_each_ngram_with_its_frequency_in_order(rows, order):
    model = counted(order, "add-k", rows)
    for m in range(1, order + 1):
        grams, counts = model.counts.table(m)
        found = {tuple(gram): n for gram, n in zip(grams.tolist(), counts.tolist(), strict=True)}
        assert found == lesson.count_ngrams(rows, m)
        assert list(found) == sorted(found)


@settings(max_examples=20)
@given(rows=texts.filter(len), order=st.integers(1, 4), most=st.integers(1, 30), part=st.integers(1, 30))
def test_counts_and_weights_do_not_depend_on_how_much_is_sorted_together(rows, order, most, part):
    whole = counted(order, "kneser-ney", rows)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ngram_counts, "MOST", most)
        patch.setattr(ngram_counts, "PART", part)
        cut = counted(order, "kneser-ney", rows)
        assert_equal(after(cut, [1, 2]), after(whole, [1, 2]))
    for a, b in zip(whole.counts.levels, cut.counts.levels, strict=True):
        assert torch.equal(a.keys, b.keys) and torch.equal(a.counts, b.counts)


def test_long_ngrams_of_a_large_vocabulary_have_keys_that_fit():
    vocab_size, order = 2**20 + 7, 9
    text = torch.randint(vocab_size - 50, vocab_size, (1, 300), generator=torch.Generator().manual_seed(0))
    counts = NgramCounts(order, vocab_size)
    counts.add(text, torch.ones_like(text, dtype=torch.bool))
    grams, n = counts.table(order)
    windows = sorted(map(tuple, text[0].unfold(0, order, 1).tolist()))
    assert grams.tolist() == [list(window) for window in windows] and n.tolist() == [1] * len(windows)
    assert all((level.keys >= 0).all() and (level.keys.diff() > 0).all() for level in counts.levels)


def test_targets_that_do_not_count_are_context_and_no_more():
    tokens = torch.tensor([[1, 2, 3, 4]])
    targets = torch.tensor([[IGNORE, IGNORE, 4, IGNORE]])
    model = Ngram(config(3, "stupid-backoff"), V).double()
    assert model.count(Batch(tokens, targets)) == 1
    for m, grams in ((1, [[4]]), (2, [[3, 4]]), (3, [[2, 3, 4]])):
        assert model.counts.table(m)[0].tolist() == grams
    assert after(model, [2, 3]).argmax() == 4
    assert_equal(after(model, [1, 2]), after(model, [0, 0]))


@every_smoothing
@settings(max_examples=20)
@given(order=st.integers(1, 4), data=st.data())
def test_after_any_reading_reordering_and_truncating_a_state_is_worth_a_fresh_reading(smoothing, order, data):
    model, rows = counted(order, smoothing, [[0, 1, 2, 3, 4, 0, 2, 4, 1, 3]] * 2 + [[0, 3, 3, 1]]), [[], [], []]
    state = model.start(3)
    for _ in range(data.draw(st.integers(2, 7))):
        action = data.draw(st.sampled_from(["read", "truncate", "reorder"]))
        if action == "truncate":
            lengths = [data.draw(st.integers(0, len(row))) for row in rows]
            state.truncate(torch.tensor(lengths))
            rows = [row[:n] for row, n in zip(rows, lengths, strict=True)]
        elif action == "reorder":
            order_of_rows = data.draw(st.lists(st.integers(0, len(rows) - 1), min_size=1, max_size=4))
            state.reorder(torch.tensor(order_of_rows))
            rows = [rows[i].copy() for i in order_of_rows]
        else:
            T = data.draw(st.integers(0, 5))
            ids = data.draw(st.lists(st.integers(-1, V - 1), min_size=T * len(rows), max_size=T * len(rows)))
            chunk = torch.tensor(ids, dtype=torch.long).view(len(rows), T)
            assert_reads_on(model, state, rows, chunk)
        assert state.lengths.tolist() == [len(row) for row in rows]


def test_more_than_was_read_cannot_be_kept_and_the_callers_lengths_are_not():
    model = counted(3, "add-k", [[0, 1, 2]])
    state = model.start(2)
    model(torch.tensor([[1, 2, 3]] * 2), state)
    with pytest.raises(ValueError, match=r"lengths = \[4, 3\]: expected at most the tokens read, \[3, 3\]"):
        state.truncate(torch.tensor([4, 3]))
    lengths = torch.tensor([2, 1])
    state.truncate(lengths)
    lengths += 1
    assert state.lengths.tolist() == [2, 1] and state.nbytes() > 0
    assert model(torch.tensor([[1]]))[1] is None


@every_smoothing
def test_a_context_that_reaches_across_an_end_is_the_part_from_the_end_on(smoothing):
    end = 0
    model = counted(4, smoothing, [[end, 1, 2, 3, end], [end, 2, 1, end], [end, 1, 2, 2, end]])
    for history in ([end], [end, 1], [end, 1, 2]):
        assert_equal(after(model, [3, 3, *history]), after(model, history))
    assert after(model, [3, end]).argmax() == 1, "what begins two of three documents"


@every_smoothing
def test_counts_survive_a_checkpoint_and_counting_goes_on(smoothing, tmp_path):
    model, other = counted(3, smoothing, [[0, 1, 2, 3, 0], [0, 2, 2]]), counted(3, smoothing, [[4, 4]])
    tokens = torch.tensor([[0, 1, 2, 3, 2, 2, 4]])
    other(tokens)
    torch.save(model.state_dict(), tmp_path / "counts")
    loaded = other.load_state_dict(torch.load(tmp_path / "counts", weights_only=True))
    assert not loaded.missing_keys and not loaded.unexpected_keys
    for _ in range(2):
        assert torch.equal(other(tokens)[0], model(tokens)[0])
        for m in (model, other):
            m.count(batch([[3, 1, 4], [1, 2, 4]]))


def test_logits_have_the_dtype_that_the_model_was_moved_to_and_are_not_affected_by_it():
    model = counted(3, "kneser-ney", [[0, 1, 2, 3, 0]])
    tokens = torch.tensor([[0, 1, 4]])
    double = model(tokens)[0]
    single = model.float()(tokens)[0]
    assert (double.dtype, single.dtype) == (torch.float64, torch.float32)
    assert torch.equal(double.float(), single)


def test_the_trigram_table_of_the_textbook_has_its_five_rows():
    assert dict(frequency_table(THREE)) == {
        ("I", "love", "machine"): 1,
        ("I", "love", "deep"): 1,
        ("You", "love", "machine"): 1,
        ("love", "machine", "learning"): 2,
        ("love", "deep", "learning"): 1,
    }


def test_other_orders_count_other_lengths_and_no_ngram_crosses_a_sentence():
    assert dict(frequency_table("A b a. B a!", order=1)) == {("A",): 1, ("b",): 1, ("a",): 2, ("B",): 1}
    assert dict(frequency_table("a b. c d e", order=2)) == {("a", "b"): 1, ("c", "d"): 1, ("d", "e"): 1}


@pytest.mark.parametrize(
    ("text", "order", "sentence"),
    [
        ("", 3, "expected a sentence of at least 3 words"),
        ("a b. c d.", 3, "expected a sentence of at least 3 words"),
        ("a b", 0, "order = 0: expected int >= 1"),
    ],
)
def test_a_text_without_such_ngrams_is_refused_with_a_sentence(text, order, sentence):
    with pytest.raises(ValueError, match=sentence):
        frequency_table(text, order)


def test_the_table_is_printed_as_in_a_textbook(capsys):
    main([THREE])
    lines = capsys.readouterr().out.splitlines()
    assert [cell.strip() for cell in lines[0].split("|")] == ["", "word 1", "word 2", "next word", "frequency", ""]
    assert len(lines) == 2 + 5 and len(set(map(len, lines))) == 1
    assert lines[-1].replace(" ", "") == "|love|machine|learning|2|"
    with pytest.raises(SystemExit, match="2"):
        main(["too short"])
    assert "expected a sentence of at least 3 words" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"order": 0}, r"order = 0: expected int >= 1"),
        ({"k": 0.0, "smoothing": "add-k"}, r"k = 0\.0: expected float > 0"),
        ({"discount": 1.5}, r"discount = 1\.5: expected float > 0 and <= 1"),
        ({"smoothing": "kneser"}, r"smoothing = 'kneser': expected .*did you mean kneser-ney"),
        ({"k": 0.5}, r"model\.k = 0\.5: expected none, since model\.smoothing = kneser-ney does not use it"),
        ({"discount": 0.5, "smoothing": "stupid-backoff"}, r"choose kneser-ney"),
    ],
)
def test_a_config_that_cannot_work_or_would_be_ignored_is_refused(changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        NgramConfig(**changes)
