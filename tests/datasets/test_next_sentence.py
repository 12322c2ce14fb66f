"""Next-sentence pairs: the second half is the row's own or another row's, and the target says which."""

import math

import pytest
import torch

from minillm.constants import IGNORE
from minillm.datasets.masking import Masking
from minillm.datasets.next_sentence import masked_pairs, pair_up
from minillm.tokenizers.byte import ByteTokenizer

END = 99


def numbered(B: int, T: int) -> torch.Tensor:
    """Row b is END, then b * 1000 + place for each place."""
    tokens = torch.arange(B)[:, None] * 1000 + torch.arange(T) + 1000
    tokens[:, 0] = END
    return tokens


@pytest.mark.parametrize("T", [5, 6, 17, 24])
def test_a_pair_is_end_first_end_second_end_and_the_answer_tells_whose_the_second_is(T):
    tokens = numbered(11, T)
    paired, segments, follows = pair_up(tokens, END, 7)
    half = T // 2
    for row, (text, kind, answer) in enumerate(zip(paired.tolist(), segments.tolist(), follows.tolist(), strict=True)):
        assert text[:half] == tokens[row, :half].tolist() and text[half] == END and text[-1] == END
        (owner,) = {token // 1000 - 1 for token in text[half + 1 : -1]}
        assert text[half + 1 : -1] == tokens[owner, half : T - 2].tolist()
        assert (owner == row) == answer and kind == [0] * (half + 1) + [1] * (T - half - 1)
    assert set(follows.tolist()) == {0, 1}


def test_half_of_the_pairs_belong_together_and_every_other_row_may_be_the_wrong_one():
    answers, owners = [], set()
    for step in range(200):
        paired, _, follows = pair_up(numbered(5, 9), END, 0, step)
        answers += follows.tolist()
        found = [int(text[5]) // 1000 - 1 for text in paired]
        assert [owner == row for row, owner in enumerate(found)] == follows.bool().tolist()
        owners |= set(enumerate(found))
    assert abs(sum(answers) - 500) < 4 * math.sqrt(1000 / 4)
    assert owners == {(row, owner) for row in range(5) for owner in range(5)}


def test_a_text_that_ends_before_its_half_or_is_given_nothing_is_not_asked_about():
    tokens = numbered(4, 12)
    tokens[1, 4:] = -1
    for step in range(20):
        paired, _, follows = pair_up(tokens, END, step)
        assert follows[1] == IGNORE and (paired[1, 6:] == -1).all()
        for row in (0, 2, 3):
            assert (follows[row] == IGNORE) == bool((paired[row, 6:] == -1).all())
    assert pair_up(numbered(1, 12), END, 0)[2].tolist() == [1]


def test_blanks_are_made_in_pairs_as_in_any_text_and_depend_on_the_seed_alone():
    tokenizer = ByteTokenizer()
    tokens = torch.randint(256, (6, 20))
    tokens[:, 0] = tokenizer.end_id
    masking = Masking(tokenizer, fraction=0.15, whole_words=True, masked=0.8, random=0.1)
    batch, again, other = (masked_pairs(masking, tokens, *seed) for seed in ((3, 4), (3, 4), (3, 5)))
    assert all(map(torch.equal, batch, again)) and not torch.equal(batch.tokens, other.tokens)
    restored = batch.tokens.where(batch.targets == IGNORE, batch.targets)
    paired, segments, follows = pair_up(tokens, tokenizer.end_id, 3, 4, 0)
    assert (
        torch.equal(restored, paired) and torch.equal(batch.segments, segments) and torch.equal(batch.follows, follows)
    )
    assert (batch.targets != IGNORE).any(1).all()
