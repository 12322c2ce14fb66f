"""Masked tokens: hidden tokens of a text, which a model learns to predict from both sides (Devlin et al. 2019, BERT).

Of 100 tokens, 15 are masked and become targets: 80 % of these become [MASK], 10 % a random token, and 10 % stay as they
are. The last two kinds exist because real texts have no [MASK]: the model cannot tell which plain tokens are targets,
so it must represent every one. Whole words are masked together (Cui et al. 2021), because a word is easy to guess from
its visible end. Masks are drawn anew at every step, as a pure function of (seed, step). The id of [MASK] is the
tokenizer's vocab_size. Read before: `batch`, `windows`.
"""

import numpy as np
import torch
from torch import Tensor

from minillm.constants import IGNORE
from minillm.datasets.batch import Batch
from minillm.tokenizers.tokenizer import Tokenizer

MASK = "[MASK]"  # the masked token, as text


class Masking:
    """Masks tokens in texts of one tokenizer.

    >>> from minillm.tokenizers.byte import ByteTokenizer
    >>> tokenizer = ByteTokenizer()
    >>> masking = Masking(tokenizer, fraction=0.4, whole_words=True, masked=1, random=0)
    >>> tokens = torch.tensor([tokenizer.encode("of ten")])
    >>> masking.words(tokens)
    tensor([[0, 0, 1, 2, 2, 2]])
    >>> masking(tokens, 1)
    Batch(tokens=tensor([[111, 102,  32, 257, 257, 257]]), targets=tensor([[-100, -100, -100,  116,  101,  110]]))
    """

    def __init__(self, tokenizer: Tokenizer, *, fraction: float, whole_words: bool, masked: float, random: float):
        """`fraction` of the tokens are masked, whole words or single tokens.

        Of these, the share `masked` becomes [MASK], the share `random` a random token, and the rest stays as it is.
        """
        self.fraction, self.whole_words, self.masked, self.random = fraction, whole_words, masked, random
        self.end_id, self.mask_id = tokenizer.end_id, tokenizer.vocab_size
        pieces = [tokenizer.decode_bytes([token]) for token in range(tokenizer.vocab_size)]
        self.opens = torch.tensor([_in_a_word(piece[:1]) for piece in pieces])  # (V,): may continue a word
        self.closes = torch.tensor([_in_a_word(piece[-1:]) for piece in pieces])  # (V,): a word may continue after it

    def __call__(self, tokens: Tensor, *seed: int) -> Batch:
        """Mask a batch: tokens (B, T), EMPTY for padding -> masked tokens, and targets: the original tokens or IGNORE.

        END is never masked. A row that would have no masked token gets one: the word with the smallest draw.
        """
        generator = np.random.default_rng(seed)
        word = self.words(tokens)
        # one number a word, (B, T): whether it is masked, and what replaces it
        draw, kind = (torch.from_numpy(generator.random(tokens.shape)).gather(1, word) for _ in range(2))
        other = torch.from_numpy(generator.integers(self.mask_id - 1, size=tokens.shape))
        other = other + (other >= self.end_id)  # any token but END
        maskable = (tokens >= 0) & (tokens != self.end_id)
        least = draw.masked_fill(~maskable, torch.inf).amin(1, keepdim=True)
        masked = maskable & (draw <= least.clamp(min=self.fraction))
        replacement = tokens.where(kind >= self.masked + self.random, other).where(kind >= self.masked, self.mask_id)
        return Batch(replacement.where(masked, tokens), tokens.where(masked, IGNORE))

    def words(self, tokens: Tensor) -> Tensor:
        """Number the words of each row from 0: (B, T) -> (B, T). Without `whole_words`, every token is a word.

        A word continues where letters or digits meet, so spaces, punctuation and END separate words.
        """
        if not self.whole_words:
            return torch.arange(tokens.shape[1]).expand_as(tokens)
        filled, tokens = tokens >= 0, tokens.clamp(min=0)
        continues = torch.zeros_like(filled)
        continues[:, 1:] = (filled[:, :-1] & self.closes[tokens[:, :-1]]) & (filled[:, 1:] & self.opens[tokens[:, 1:]])
        return (~continues).cumsum(1) - 1


def _in_a_word(byte: bytes) -> bool:
    """Whether a byte is a letter, a digit, or part of a character beyond ASCII."""
    return bool(byte) and (byte[0] >= 0x80 or byte.isalnum())
