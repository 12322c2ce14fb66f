"""Blanks: hide some tokens of a text, and let a model that sees both sides of each say what stood there.

Of 15 in 100 tokens, 80 % become [MASK], 10 % a random token, and 10 % stay as they are; all of them are targets (Devlin
et al. 2019). The last two sorts exist because real texts have no [MASK]: the model cannot tell which plain tokens it
will be asked about, so it must know something about every one. Whole words are blanked together (Cui et al. 2021), for
a word whose ending is left standing is no riddle. Masks are drawn anew at every step, as a pure function of (seed,
step). [MASK] is the id after the tokenizer's last.
"""

import numpy as np
import torch
from torch import Tensor

from minillm.constants import IGNORE
from minillm.datasets.batch import Batch
from minillm.tokenizers.tokenizer import Tokenizer

MASK = "[MASK]"  # how a blank is written


class Masking:
    """Makes blanks in texts of one tokenizer."""

    def __init__(self, tokenizer: Tokenizer, *, fraction: float, whole_words: bool, masked: float, random: float):
        """`fraction` of the tokens are blanked, by whole words or each by itself.

        Of these, the share `masked` becomes [MASK], the share `random` a random token, and the rest stays as it is.
        """
        self.fraction, self.whole_words, self.masked, self.random = fraction, whole_words, masked, random
        self.end_id, self.mask_id = tokenizer.end_id, tokenizer.vocab_size
        pieces = [tokenizer.decode_bytes([token]) for token in range(tokenizer.vocab_size)]
        self.opens = torch.tensor([_in_a_word(piece[:1]) for piece in pieces])  # (V,): may go on with a word
        self.closes = torch.tensor([_in_a_word(piece[-1:]) for piece in pieces])  # (V,): a word may go on after it

    def __call__(self, tokens: Tensor, *seed: int) -> Batch:
        """tokens (B, T), EMPTY where none stands -> the same with blanks, and what stood there; IGNORE everywhere else.

        END is never blanked. Where the lot leaves a row without any, it gets one: the word that came closest.
        """
        generator = np.random.default_rng(seed)
        word = self.words(tokens)
        lot, fate = (
            torch.from_numpy(generator.random(tokens.shape)).gather(1, word) for _ in range(2)
        )  # (B, T), one for each word
        other = torch.from_numpy(generator.integers(self.mask_id - 1, size=tokens.shape))
        other = other + (other >= self.end_id)  # any token but END
        free = (tokens >= 0) & (tokens != self.end_id)
        least = lot.masked_fill(~free, torch.inf).amin(1, keepdim=True)
        blank = free & (lot <= least.clamp(min=self.fraction))
        hidden = tokens.where(fate >= self.masked + self.random, other).where(fate >= self.masked, self.mask_id)
        return Batch(hidden.where(blank, tokens), tokens.where(blank, IGNORE))

    def words(self, tokens: Tensor) -> Tensor:
        """Which word of its row each token belongs to, counted from 0: (B, T) -> (B, T). Without whole_words, a token is a word.

        A word goes on where letters or digits meet, so a space, a punctuation mark and END all stand at its border.
        """
        if not self.whole_words:
            return torch.arange(tokens.shape[1]).expand_as(tokens)
        filled, tokens = tokens >= 0, tokens.clamp(min=0)
        goes_on = torch.zeros_like(filled)
        goes_on[:, 1:] = (filled[:, :-1] & self.closes[tokens[:, :-1]]) & (filled[:, 1:] & self.opens[tokens[:, 1:]])
        return (~goes_on).cumsum(1) - 1


def _in_a_word(byte: bytes) -> bool:
    """A letter, a digit, or part of a character beyond ASCII."""
    return bool(byte) and (byte[0] >= 0x80 or byte.isalnum())
