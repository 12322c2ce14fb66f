"""Cloze: an encoder and its tokenizer predict masked tokens and find the sentences that are most like a text.

An encoder is bidirectional and does not generate text, so it answers questions about whole texts. Read before: `model`.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from minillm.datasets.masking import MASK
from minillm.decoding.attention_map import AttentionMap
from minillm.decoding.rows import pad_right
from minillm.models.heads import nearest, sentence_vectors
from minillm.text.model import opening, read_attention
from minillm.tokenizers.tokenizer import Tokenizer

EXAMPLE = f"Once there was a clever {MASK} called Anna."  # a text with a masked token


class Candidate(NamedTuple):
    """A candidate for a masked token."""

    text: str  # with its leading space, if it has one
    probability: float


class Cloze:
    """Predicts masked tokens: an encoder and its tokenizer."""

    def __init__(self, model: nn.Module, tokenizer: Tokenizer, documents: bool):
        """`documents`: whether the training text was many documents, or one long text."""
        self.model, self.tokenizer, self.documents = model, tokenizer, documents
        pieces = [tokenizer.decode_bytes([token]) for token in range(tokenizer.vocab_size)]
        spaced = any(len(piece) > 1 and piece.startswith(b" ") for piece in pieces)
        # if the vocabulary has words with a leading space, the space before [MASK] is part of the masked token
        self.blank = re.compile((" ?" if spaced else "") + re.escape(MASK))
        self.after_space = torch.tensor([spaced and piece.startswith(b" ") for piece in pieces])  # (V,)

    def encode(self, text: str) -> list[int]:
        """The ids that the model reads. Each [MASK] is one id, so it is a whole word only if that word is one token."""
        ids = opening(self.tokenizer, self.documents)
        for i, part in enumerate(self.blank.split(text)):
            ids += [*([self.model.mask_id] if i else []), *self.tokenizer.encode(part)]
        return [*ids, *self.tokenizer.closing]

    @torch.inference_mode()
    def fill(self, text: str, n: int) -> list[list[Candidate]]:
        """The n most probable tokens for each [MASK], given the rest of the text. Raises ValueError without a [MASK].

        Special tokens are excluded. After a space, the candidates are the tokens with a leading space (words), if the
        vocabulary has any; otherwise they are the tokens without one (endings and punctuation). Probabilities are
        normalized over the candidates.
        """
        if MASK not in text:
            raise ValueError(
                f'"{text}": expected a text with {MASK} in it, as in "{EXAMPLE}"; write {MASK} for each blank'
            )
        tokens = torch.tensor([self.encode(text)], device=next(self.model.parameters()).device)
        logits = self.model(tokens)[tokens == self.model.mask_id][:, : self.tokenizer.vocab_size].float()  # (blanks, V)
        spaced = torch.tensor([blank.startswith(" ") for blank in self.blank.findall(text)])  # (blanks,)
        possible = spaced[:, None] == self.after_space
        possible[:, list(self.tokenizer.special_tokens.values())] = False
        best = (
            logits.masked_fill(~possible.to(logits.device), -torch.inf)
            .softmax(-1)
            .topk(min(n, self.tokenizer.vocab_size))
        )
        return [
            [Candidate(self.tokenizer.decode([token]), p) for token, p, fits in zip(*row, strict=True) if fits]
            for row in zip(
                best.indices.tolist(),
                best.values.tolist(),
                possible.gather(1, best.indices.cpu()).tolist(),
                strict=True,
            )
        ]

    def show(self, text: str, n: int) -> str:
        """`fill` as a printable table, and the text with the best candidate for each [MASK]."""
        blanks, lines, written = self.fill(text, n), [], text
        for i, candidates in enumerate(blanks, start=1):
            lines += [f"blank {i}"] + [
                f"  {candidate.probability:7.4f}  {candidate.text!r}" for candidate in candidates
            ]
            written = self.blank.sub(lambda _, best=candidates[0]: best.text, written, count=1)
        return "\n".join([*lines, "", written])

    @torch.inference_mode()
    def nearest(self, text: str, among: Sequence[str], n: int) -> list[tuple[str, float]]:
        """The n texts with the greatest cosine similarity to `text`, and the cosines, in descending order."""
        [query] = self.vectors([text])
        return [(among[row], cosine) for row, cosine in nearest(query, self.vectors(among), n)]

    @torch.inference_mode()
    def vectors(self, texts: Sequence[str]) -> Tensor:
        """One vector of length 1 for each text, (N, D): the mean of its hidden vectors.

        Raises ValueError for a text longer than the context.
        """
        batches = [self._batch(texts[i : i + 256]) for i in range(0, len(texts), 256)]
        return torch.cat([sentence_vectors(self.model, tokens) for tokens in batches])

    def attention(self, text: str) -> AttentionMap:
        """Self-attention weights of a text. Raises ValueError for a text longer than the context."""
        return read_attention(self.model, self.tokenizer, self.encode(text))

    def _batch(self, texts: Sequence[str]) -> Tensor:
        return pad_right([self.encode(text) for text in texts]).to(next(self.model.parameters()).device)
