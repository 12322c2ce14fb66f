"""Masked tokens: number, kinds, whole words, and independent draws."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from minillm.constants import IGNORE
from minillm.datasets.masking import Masking
from minillm.tokenizers.bpe import BPETokenizer
from minillm.tokenizers.byte import ByteTokenizer
from minillm.tokenizers.char import CharTokenizer
from minillm.tokenizers.sentencepiece import SentencePieceTokenizer
from minillm.tokenizers.unigram import UnigramTokenizer

TEXT = (
    'The cat\'s hat sat on the mat. "Why, on the mat?" asked Bella, who was 12 and naïve.\n'
    "The cat went home to think about that."
)
TOKENIZERS = {
    "byte": ByteTokenizer(),
    "char": CharTokenizer.train([TEXT]),
    "bpe": BPETokenizer.train([TEXT * 3], 290),
    "unigram": UnigramTokenizer.train([TEXT * 3], 300),
    "sentencepiece": SentencePieceTokenizer.train([TEXT * 30], 300, "bpe"),
}
BYTE = TOKENIZERS["byte"]
every_tokenizer = pytest.mark.parametrize("tokenizer", TOKENIZERS.values(), ids=TOKENIZERS)


BERT = {"fraction": 0.15, "whole_words": True, "masked": 0.8, "random": 0.1}


def masking_of(tokenizer, **changes) -> Masking:
    """A Masking with the shares of BERT, except for `changes`."""
    return Masking(tokenizer, **(BERT | changes))


def rows(B: int, T: int, seed: int = 0) -> torch.Tensor:
    """Random bytes with an END here and there and some padding."""
    g = torch.Generator().manual_seed(seed)
    tokens = torch.randint(256, (B, T), generator=g)
    tokens[torch.rand(B, T, generator=g) < 0.03] = BYTE.end_id
    tokens[torch.rand(B, T, generator=g) < 0.05] = -1
    return tokens


def blanks(tokens: torch.Tensor, *seed: int, **config):
    """The masked batch, where it has blanks, and where blanks may be."""
    batch = masking_of(BYTE, **config)(tokens, *seed)
    return batch, batch.targets != IGNORE, (tokens >= 0) & (tokens != BYTE.end_id)


def assert_share(part: torch.Tensor, whole: torch.Tensor, expected: float) -> None:
    """Within four standard errors."""
    n = int(whole.sum())
    assert abs(int(part.sum()) - expected * n) < 4 * math.sqrt(n * expected * (1 - expected))


@pytest.mark.parametrize(("fraction", "masked", "random"), [(0.15, 0.8, 0.1), (0.4, 0.5, 0.3)])
def test_so_many_tokens_are_blanked_and_so_many_of_these_masked_exchanged_and_kept(fraction, masked, random):
    tokens = rows(200, 211)
    batch, blank, free = blanks(tokens, 5, fraction=fraction, masked=masked, random=random, whole_words=False)
    assert_share(blank, free, fraction)
    is_mask, is_same = batch.tokens == BYTE.vocab_size, batch.tokens == tokens
    assert_share(blank & is_mask, blank, masked)
    assert_share(blank & is_same, blank, 1 - masked - random + random / 256)  # one exchange in 256 changes nothing
    exchanged = batch.tokens[blank & ~is_mask & ~is_same]
    assert 0 <= exchanged.min() < 9 and 247 < exchanged.max() < 256, "every byte, and never END"


@settings(max_examples=40)
@given(st.integers(1, 7), st.integers(1, 23), st.integers(0, 2**32 - 1), st.floats(0.01, 1), st.booleans())
def test_what_is_not_blank_is_untouched_and_uncounted_and_what_is_blank_has_its_token_as_target(
    B, T, seed, fraction, whole_words
):
    tokens = rows(B, T, seed)
    batch, blank, free = blanks(tokens, seed, fraction=fraction, whole_words=whole_words)
    assert torch.equal(batch.tokens[~blank], tokens[~blank]) and torch.equal(batch.targets[blank], tokens[blank])
    assert not (blank & ~free).any(), "neither END nor padding is asked for"
    assert not (batch.targets == BYTE.vocab_size).any() and not ((batch.tokens == BYTE.end_id) & blank).any()
    assert torch.equal(blank.any(1), free.any(1)), "every row with a token has a blank"
    assert batch.tokens.dtype == batch.targets.dtype == torch.long


@every_tokenizer
def test_exchanged_tokens_are_any_but_end_wherever_the_tokenizer_has_it(tokenizer):
    masking = masking_of(tokenizer, fraction=1.0, masked=0.0, random=1.0, whole_words=False)
    seen = masking(torch.full((60, 101), tokenizer.encode("a")[0]), 0).tokens.unique().tolist()
    assert seen == [token for token in range(tokenizer.vocab_size) if token != tokenizer.end_id]


@given(st.integers(0, 2**32 - 1), st.integers(0, 10**6))
@settings(max_examples=20)
def test_the_same_seed_and_step_give_the_same_blanks_and_others_give_others(seed, step):
    tokens, masking = rows(5, 31), masking_of(BYTE)
    one = masking(tokens, seed, step, 1)
    assert all(map(torch.equal, one, masking(tokens, seed, step, 1)))
    others = [masking(tokens, seed, step + 1, 1), masking(tokens, seed + 1, step, 1), masking(tokens, seed, step, 2)]
    assert all(not torch.equal(one.targets, other.targets) for other in others)


def test_over_many_steps_every_place_is_blanked_equally_often():
    tokens, masking = torch.full((3, 17), 65), masking_of(BYTE, whole_words=False)
    counts = sum((masking(tokens, 0, step).targets != IGNORE).long() for step in range(600)).flatten()
    expected = counts.float().mean()  # a little over 0.15, for rows that would have none
    assert 90 < expected < 102
    chi_squared = ((counts - expected) ** 2 / (expected * 0.85)).sum()
    assert abs(chi_squared - 50) < 4 * math.sqrt(100)


@every_tokenizer
def test_words_are_runs_of_letters_and_digits_with_the_space_before_them_if_the_tokenizer_keeps_it_there(tokenizer):
    tokens = tokenizer.encode(TEXT)
    word = masking_of(tokenizer).words(torch.tensor([tokens]))[0].tolist()
    texts = [
        b"".join(tokenizer.decode_bytes([t]) for t, w in zip(tokens, word, strict=True) if w == n)
        for n in range(max(word) + 1)
    ]
    assert b"".join(texts) == TEXT.encode()
    found = [text.decode().strip() for text in texts]
    for name in ("The", "cat", "mat", "asked", "Bella", "12", "naïve", "think", "about"):
        assert name in found
    assert all(text.strip().isalnum() or not any(c.isalnum() for c in text[1:-1]) for text in found), found


@every_tokenizer
@pytest.mark.parametrize("seed", range(3))
def test_whole_words_are_blanked_together_and_share_their_fate(tokenizer, seed):
    masking = masking_of(tokenizer, fraction=0.4)
    text = tokenizer.encode(TEXT)
    tokens = torch.tensor([[tokenizer.end_id, *text], [*text, -1]])
    batch, words = masking(tokens, seed), masking.words(tokens)
    blank, is_mask = batch.targets != IGNORE, batch.tokens == tokenizer.vocab_size
    for row in range(2):
        for word in words[row].unique():
            members = (words[row] == word) & (tokens[row] >= 0) & (tokens[row] != tokenizer.end_id)
            for together in (blank[row][members], is_mask[row][members]):
                assert together.all() or not together.any()
    assert blank.any() and not blank[tokens >= 0].all()


def test_without_whole_words_pieces_are_blanked_one_by_one():
    tokens = torch.tensor([BYTE.encode("abcdefghijklmnopqrstuvwxyz")])
    alone, together = (
        masking_of(BYTE, fraction=0.4, whole_words=w)(tokens, 0).targets != IGNORE for w in (False, True)
    )
    assert alone.any() and not alone.all() and together.all()
