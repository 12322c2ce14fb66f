"""Texts of encoders: masked tokens, labels and nearest sentences, on models with known outputs."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from minillm.datasets.masking import MASK
from minillm.text.classifier import TextClassifier
from minillm.text.cloze import Cloze
from minillm.tokenizers.bpe import BPETokenizer
from minillm.tokenizers.char import CharTokenizer
from tests.models.test_encoder import encoder

WORDS = BPETokenizer.train(["the cat sat on the mat and the cat ate the rat " * 9], 300)


class Fixed(nn.Module):
    """The same logits at every place: `scores[i]` for token i, -50 for all others, 99 for END and [MASK]."""

    def __init__(self, tokenizer, scores: dict[str, float]):
        super().__init__()
        self.mask_id, table = tokenizer.vocab_size, torch.full((tokenizer.vocab_size + 1,), -50.0)
        for text, score in scores.items():
            (token,) = tokenizer.encode(text)
            table[token] = score
        table[tokenizer.end_id] = table[self.mask_id] = 99.0
        self.table = nn.Parameter(table)
        self.read: list[list[int]] = []

    def forward(self, tokens):
        self.read += tokens.tolist()
        return self.table.expand(*tokens.shape, -1)


def test_a_blank_takes_its_space_along_and_is_one_token_between_the_tokens_around_it():
    model = Fixed(WORDS, {" cat": 0.0})
    cloze = Cloze(model, WORDS, documents=True)
    m = model.mask_id
    assert cloze.encode(f"the {MASK} sat") == [WORDS.end_id, *WORDS.encode("the"), m, *WORDS.encode(" sat")]
    assert cloze.encode(f"{MASK}{MASK} on {MASK}") == [WORDS.end_id, m, m, *WORDS.encode(" on"), m]
    letters = CharTokenizer.train(["the cat sat"])
    cloze = Cloze(Fixed(letters, {"c": 0.0}), letters, documents=True)
    assert cloze.encode(f"the {MASK}at") == [
        letters.end_id,
        *letters.encode("the "),
        letters.vocab_size,
        *letters.encode("at"),
    ]


def test_candidates_come_with_their_probability_among_the_tokens_that_can_stand_there_the_best_first():
    cloze = Cloze(Fixed(WORDS, {" cat": 2.0, " rat": 1.0, " mat": 0.0}), WORDS, documents=True)
    first, second = cloze.fill(f"the {MASK} sat on the {MASK}", 2)
    expected = torch.tensor([2.0, 1.0, 0.0]).softmax(0)[:2].tolist()
    assert (
        first
        == second
        == [(" cat", pytest.approx(expected[0], rel=1e-4)), (" rat", pytest.approx(expected[1], rel=1e-4))]
    )
    everything = cloze.fill(f"the {MASK}", 10**6)[0]
    spaced = [token for token in range(WORDS.vocab_size) if WORDS.decode_bytes([token]).startswith(b" ")]
    assert len(everything) == len(spaced) and sum(p for _, p in everything) == pytest.approx(1, abs=1e-5)
    shown = cloze.show(f"the {MASK} sat on the {MASK}", 2)
    assert "blank 1\n   0.6652  ' cat'\n   0.2447  ' rat'\nblank 2\n" in shown and shown.endswith(
        "\n\nthe cat sat on the cat"
    )


@given(st.lists(st.sampled_from([f" {MASK}", MASK, " the", " cat", "s", "."]), min_size=1, max_size=7))
def test_a_blank_after_a_space_takes_what_begins_with_one_and_any_other_blank_what_does_not(pieces):
    text = "the" + "".join(pieces)
    blanks = [piece for piece in pieces if MASK in piece]
    if not blanks:
        return
    tokens = [WORDS.decode([token]) for token in range(WORDS.vocab_size) if token != WORDS.end_id]
    cloze = Cloze(Fixed(WORDS, {" cat": 3.0, "s": 9.0}), WORDS, documents=True)
    found = cloze.fill(text, 10**6)
    assert len(found) == len(blanks)
    for blank, candidates in zip(blanks, found, strict=True):
        assert all(candidate.text.startswith(" ") == blank.startswith(" ") for candidate in candidates)
        assert sum(candidate.probability for candidate in candidates) == pytest.approx(1, abs=1e-5)
        assert len(candidates) == sum(piece.startswith(" ") == blank.startswith(" ") for piece in tokens)
        assert candidates[0].text == (" cat" if blank.startswith(" ") else "s")


def test_without_words_in_the_tokenizer_any_token_fills_any_blank():
    letters = CharTokenizer.train(["the cat sat."])
    cloze = Cloze(Fixed(letters, {".": 2.0}), letters, documents=True)
    for text in (f"the {MASK}at", f"the{MASK}"):
        [candidates] = cloze.fill(text, 10**6)
        assert len(candidates) == letters.vocab_size - 1 and candidates[0].text == "."


def test_a_real_encoder_reads_both_sides_of_a_blank():
    torch.manual_seed(0)
    model = encoder(n_layers=1)
    letters = CharTokenizer.train(["abcdefghijklmnopqrstuv"])  # 22 letters and END
    cloze = Cloze(model, letters, documents=True)
    base, left, right = (cloze.fill(text, 3) for text in (f"abc{MASK}def", f"abb{MASK}def", f"abc{MASK}dee"))
    assert base != left and base != right
    logits = model(torch.tensor([[letters.end_id, 0, 1, 2, model.mask_id, 3, 4, 5]]))[0, 4, :22]
    assert base[0][0] == (letters.decode([int(logits.argmax())]), pytest.approx(logits.float().softmax(0).max().item()))


def test_a_text_without_a_blank_is_refused_with_an_example():
    with pytest.raises(
        ValueError,
        match=r'"the cat": expected a text with \[MASK\] in it, as in "Once there was a clever \[MASK\] called',
    ):
        Cloze(Fixed(WORDS, {}), WORDS, documents=True).fill("the cat", 3)


def test_a_sentence_is_nearest_to_itself_whatever_stands_beside_it():
    letters = CharTokenizer.train(["abcdefghijklmnopqrstuv"])
    cloze = Cloze(encoder(), letters, documents=True)
    among = ["abc", "defghijk", "l", "mnopqrstuv"]
    for text in among:
        found = cloze.nearest(text, among, 3)
        assert found[0] == (text, pytest.approx(1)) and len(found) == 3
        assert [cosine for _, cosine in found] == sorted((cosine for _, cosine in found), reverse=True)
    assert dict(cloze.nearest("abc", among, 4))["l"] == pytest.approx(cloze.nearest("abc", ["l"], 1)[0][1])


def test_a_classifier_gives_each_label_its_probability():
    class Sure(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Parameter(torch.tensor([0.0, 1.0]))

        def forward(self, tokens):
            assert tokens.tolist() == [[WORDS.end_id, *WORDS.encode("the cat")]]
            return self.table.expand(len(tokens), -1)

    told = TextClassifier(Sure(), WORDS, documents=True).tell("the cat")
    assert told == {"bad": pytest.approx(0.2689, abs=1e-4), "good": pytest.approx(0.7311, abs=1e-4)}
