"""Scoring: the log-probability of a given text, token by token.

    ln p(y | x) = sum over tokens t of y of ln p(y_t | x, y_1 ... y_(t-1))                           the chain rule

So the score of a text is the sum of the scores of its parts, each given the parts before it. Context and text are given
as characters, but a model reads tokens. Both are tokenized as one text, as in training, and a token that begins in the
context and ends in the text belongs to the text. So at least one token is always scored. Read before: `model`.
"""

from collections.abc import Callable, Sequence
from itertools import accumulate, pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from minillm.decoding.rows import logprobs_of, pad_right
from minillm.models.language_model import LanguageModel, device_of, evaluating
from minillm.tokenizers.tokenizer import Tokenizer

AT_ONCE = 2**25  # most logits in one call of the model, unless a single text has more


class ScoredToken(NamedTuple):
    """A token of a scored text."""

    text: str  # U+FFFD for a part of a character; "" for END
    logprob: float  # nats, given all tokens before it


class Question(NamedTuple):
    """The tokens of one text with its context, and which of them to score."""

    ids: list[int]
    n_given: int  # number of context tokens, at least 1; the others are scored, at least 1
    about: object = None  # another input of the model, such as the source of a translation


def split_at(tokenizer: Tokenizer, context: str, text: str) -> tuple[list[int], int]:
    """Tokenize context and text as one text; also return the number of tokens that end within the context.

    The last token is never one of them.

    >>> from minillm.tokenizers.char import CharTokenizer
    >>> split_at(CharTokenizer("abc"), "ab", "c")
    ([0, 1, 2], 2)
    """
    tokens = tokenizer.encode(context + text)
    ends = list(accumulate(len(tokenizer.decode_bytes([token])) for token in tokens))
    n_bytes = sum(ends[-1:]) - len(text.encode())  # counted from the end: a tokenizer may put a space at the beginning
    return tokens, sum(end <= n_bytes for end in ends)


@torch.inference_mode()
def score_tokens(
    model: LanguageModel, questions: Sequence[Question], read: Callable[[Tensor, list[object]], Tensor]
) -> list[list[float]]:
    """The log-probability in nats of every token to score, in the order of the questions.

    `read`(tokens (B, T), the `about` of each row) returns logits (B, T, V) of the model, which is in eval mode
    meanwhile. Rows are batched, as many as AT_ONCE allows; no score depends on the other rows. Raises ValueError for a
    text that is too long.
    """
    for i, question in enumerate(questions):
        n_read, most = len(question.ids) - 1, model.context_length  # the last token is not read
        if most is not None and n_read > most:
            raise ValueError(
                f"text {i} and its context: {n_read} tokens to read, expected at most context_length = {most}; "
                "shorten one of the two"
            )
    scores: list[list[float]] = [[] for _ in questions]
    waiting = sorted(range(len(questions)), key=lambda i: len(questions[i].ids))
    with evaluating(model):
        while waiting:
            n_rows = max(1, AT_ONCE // (model.vocab_size * len(questions[waiting[-1]].ids)))
            waiting, chosen = waiting[:-n_rows], waiting[-n_rows:]  # the longest first
            for i, found in zip(chosen, _score([questions[i] for i in chosen], read, device_of(model)), strict=True):
                scores[i] = found
    return scores


def _score(
    questions: Sequence[Question], read: Callable[[Tensor, list[object]], Tensor], device: torch.device
) -> list[list[float]]:
    tokens = pad_right([ids[:-1] for ids, _, _ in questions]).to(device)  # (B, T)
    targets = pad_right([ids[1:] for ids, _, _ in questions]).to(device)
    n_given = torch.tensor([question.n_given for question in questions], device=device)
    asked = (targets >= 0) & (torch.arange(1, tokens.shape[1] + 1, device=device) >= n_given[:, None])
    logits = read(tokens, [question.about for question in questions])[asked]  # (N, V)
    logprobs = logprobs_of(logits, targets[asked]).tolist()
    begins = [0, *accumulate(len(question.ids) - question.n_given for question in questions)]
    return [logprobs[a:b] for a, b in pairwise(begins)]


def refuse_bare(name: str, given: Sequence[str]) -> None:
    """Raise ValueError for a string instead of a list of texts, since each character would be taken as a text."""
    if isinstance(given, str):
        raise ValueError(f"{name} = {given[:40]!r}: expected a list of texts; write [{given[:40]!r}]")
