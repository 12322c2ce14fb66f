"""The Unigram model equals the lesson, which lists all segmentations of short words."""

import math
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from minillm.lessons import unigram as lesson
from minillm.lessons.unigram import probability, segmentations
from minillm.tokenizers.unigram import (
    FLOOR,
    Lattice,
    PieceModel,
    UnigramTokenizer,
    learn_pieces,
    logprob_without,
    normalize,
    seed_pieces,
)

laws = settings(max_examples=70, deadline=None)
TEXT = "the theme of the thesis is there; the other thesis is theirs. " * 3 + "naïve naïveté " * 5


@st.composite
def models(draw) -> dict[bytes, float]:
    """Probabilities of a, b, c and of some longer pieces."""
    longer = draw(st.sets(st.text("abc", min_size=2, max_size=4).map(str.encode), max_size=13))
    pieces = [b"a", b"b", b"c", *sorted(longer)]
    weights = [draw(st.floats(0.01, 1)) for _ in pieces]
    return {piece: weight / sum(weights) for piece, weight in zip(pieces, weights, strict=True)}


def logs(p: dict[bytes, float]) -> dict[bytes, float]:
    return {piece: math.log(p[piece]) for piece in p}


words = st.text("abc", max_size=8).map(str.encode)
counts_of_words = st.dictionaries(words.filter(len), st.integers(1, 7), min_size=1, max_size=5)


@laws
@given(p=models(), word=words)
def test_viterbi_finds_the_best_of_all_segmentations_as_the_lesson_does(p, word):
    pieces, score = PieceModel(logs(p)).viterbi(word)
    best = max(probability(x, p) for x in segmentations(word, p))
    assert b"".join(pieces) == b"".join(lesson.encode(word, p)) == word
    for found in (math.exp(score), probability(pieces, p), probability(lesson.encode(word, p), p)):
        assert found == pytest.approx(best, rel=1e-12)


@laws
@given(p=models(), word=words, alpha=st.sampled_from([0.0, 0.3, 1.0, 2.0]))
def test_forward_sums_over_all_segmentations(p, word, alpha):
    total = math.fsum(probability(x, p) ** alpha for x in segmentations(word, p))
    assert PieceModel(logs(p)).forward(word, alpha)[-1] == pytest.approx(math.log(total), abs=1e-10)


@laws
@given(p=models(), counts=counts_of_words)
def test_expected_counts_and_the_next_probabilities_are_the_lessons(p, counts):
    expected = lesson.expected_counts(counts, p)
    log_likelihood = math.fsum(
        n * math.log(sum(probability(x, p) for x in segmentations(w, p))) for w, n in counts.items()
    )
    found, found_likelihood = Lattice(counts, list(p)).expected_counts(np.array(list(logs(p).values())))
    assert found_likelihood == pytest.approx(log_likelihood, abs=1e-9)
    assert found.tolist() == pytest.approx([expected[piece] for piece in p], abs=1e-9)
    shares = [expected[piece] / expected.total() for piece in p]
    assert np.exp(normalize(found)).tolist() == pytest.approx(shares, abs=1e-12)


@laws
@given(p=models(), counts=counts_of_words)
def test_the_cost_of_pruning_a_piece_is_the_lessons(p, counts):
    model, expected = PieceModel(logs(p)), lesson.expected_counts(counts, p)
    for piece in (piece for piece in p if len(piece) > 1):
        cost = expected[piece] * (model.logprobs[piece] - logprob_without(model, piece))
        assert cost == pytest.approx(lesson.cost(piece, expected, p), abs=1e-9)


def test_the_stems_and_endings_of_the_lesson_are_learned():
    for learned in (learn_pieces(Counter(lesson.WORDS), 5), lesson.train({w.encode(): 1 for w in lesson.WORDS}, 5)):
        assert {piece for piece in learned if len(piece) > 1} == {b"low", b"new", b"wid", b"er", b"est"}


@laws
@given(p=models(), counts=counts_of_words)
def test_a_step_of_em_never_lowers_the_likelihood(p, counts):
    lattice, scores, before = Lattice(counts, list(p)), np.log(list(p.values())), -math.inf
    for _ in range(5):
        expected, log_likelihood = lattice.expected_counts(scores)
        assert log_likelihood >= before - 1e-9
        scores, before = normalize(expected), log_likelihood


def test_pruned_pieces_are_out_of_the_sums():
    pieces = [b"a", b"b", b"ab", b"ba"]
    scores = np.log([0.3, 0.3, 0.2, 0.2])
    lattice = Lattice({b"abab": 3, b"ba": 2}, pieces)
    lattice.keep(np.array([True, True, False, True]))
    fewer = [0, 1, 3]
    expected, log_likelihood = Lattice({b"abab": 3, b"ba": 2}, [pieces[i] for i in fewer]).expected_counts(
        scores[fewer]
    )
    found, found_likelihood = lattice.expected_counts(scores)
    assert (
        found_likelihood == pytest.approx(log_likelihood)
        and found[fewer].tolist() == pytest.approx(expected.tolist())
        and found[2] == 0
    )


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0, 3.0])
def test_sampled_segmentations_come_as_often_as_their_share_says(alpha):
    p = {b"a": 0.3, b"b": 0.25, b"ab": 0.2, b"ba": 0.15, b"aba": 0.1}
    word, n = b"ababa", 1500
    shares = {tuple(x): probability(x, p) ** alpha for x in segmentations(word, p)}
    generator = torch.Generator().manual_seed(11)
    seen = Counter(tuple(PieceModel(logs(p)).sample(word, alpha, generator)) for _ in range(n))
    assert seen.keys() <= shares.keys()
    expected = {each: n * share / sum(shares.values()) for each, share in shares.items()}
    chi_square = sum((seen[each] - expected[each]) ** 2 / expected[each] for each in shares)
    freedom = len(shares) - 1
    assert chi_square < freedom + 4 * math.sqrt(2 * freedom)


def test_training_finds_the_frequent_words_and_keeps_every_byte_possible():
    tokenizer = UnigramTokenizer.train([TEXT], 270)
    assert tokenizer.vocab_size == 270 and len(set(tokenizer.pieces)) == 270
    assert [tokenizer.pieces[token] for token in tokenizer.encode("the thesis is")] == [b"the", b" thesis", b" is"]
    assert min(tokenizer.model.logprobs.values()) >= FLOOR
    assert sum(map(math.exp, tokenizer.model.logprobs.values())) == pytest.approx(1, abs=1e-6)


def test_seeds_are_the_substrings_that_cover_most():
    counts = Counter({"abcdef": 3, "gh": 5, "é": 2, "once": 1})
    assert seed_pieces(counts, 1) == [b"abcdef"]
    seeds = seed_pieces(counts, 1000)
    assert b"gh" in seeds and "é".encode() in seeds and b"once" not in seeds and all(len(seed) > 1 for seed in seeds)


def test_pruning_keeps_what_is_hard_to_replace_rather_than_what_is_frequent():
    """Pruning: "ab" is frequent, but "a" and "b" are likely enough to replace it; "wxyz" needs four unlikely bytes."""
    counts = Counter({"a": 1000, "b": 1000, "ab": 600, "wxyz": 20})
    assert [piece for piece in learn_pieces(counts, 1) if len(piece) > 1] == [b"wxyz"]


def test_more_pieces_give_a_higher_likelihood():
    counts = Counter({"abcd": 40, "abcx": 1, "zabc": 1, "cdef": 30, "cd": 3, "gh": 20, "ghgh": 9})
    few, more = (
        sum(n * PieceModel(learned).forward(word.encode())[-1] for word, n in counts.items())
        for learned in (learn_pieces(counts, 3), learn_pieces(counts, 6))
    )
    assert more > few


def test_samples_differ_and_all_decode_to_the_text():
    tokenizer = UnigramTokenizer.train([TEXT], 300)
    text = "the naïve thesis, 漢"
    first, again = (
        [tokenizer.sample(text, 0.05, generator) for _ in range(20)]
        for generator in (torch.Generator().manual_seed(s) for s in (3, 3))
    )
    assert first == again and len(set(map(tuple, first))) > 5
    assert {tokenizer.decode(tokens) for tokens in first} == {text}
    assert tokenizer.sample(text, 1000.0, torch.Generator().manual_seed(3)) == tokenizer.encode(text)


@pytest.mark.parametrize("alpha", [-0.1, math.inf, math.nan])
def test_an_alpha_that_is_no_temperature_is_refused(alpha):
    with pytest.raises(ValueError, match=r"alpha = .*: expected a number from 0"):
        UnigramTokenizer.train([TEXT], 260).sample("a", alpha, torch.Generator())


def test_training_does_not_depend_on_the_order_of_documents():
    numbers = torch.randint(7, (300, 5), generator=torch.Generator().manual_seed(5)).tolist()
    texts = [" " + "".join("abcdefg"[n] for n in row) for row in numbers]
    assert UnigramTokenizer.train(texts, 280).to_dict() == UnigramTokenizer.train(texts[::-1], 280).to_dict()


def test_pieces_without_every_byte_are_refused():
    with pytest.raises(ValueError, match="logprobs lack b'"):
        UnigramTokenizer({b"a": 0.0})
