"""Rollback: a model reads drafted tokens and removes the rejected ones from its state.

A state that can take tokens back (a KV cache, the tokens of an n-gram) is truncated. A recurrent state cannot: it is
copied before a draft is read, and after a rejection the copy reads the accepted tokens. Read before:
`models/language_model.py`.
"""

import torch
from torch import Tensor

from minillm.constants import EMPTY
from minillm.models.language_model import LanguageModel, State


class Reader:
    """A model with a state for a batch of texts; the state can be rolled back."""

    def __init__(self, model: LanguageModel, state: State):
        """Raises ValueError for a state that can neither take tokens back nor be copied."""
        self.model, self.state = model, state
        self.copies = state.rollback == "copy"
        if state.rollback == "none":
            raise ValueError(
                f"state = {type(state).__name__} of rollback = none: expected one that can take tokens back, "
                "since drafts may be rejected; decode without a draft, "
                "or take a cache that keeps every token (contiguous, paged, int8, int4)"
            )

    def read(self, texts: Tensor, lengths: Tensor, draft: Tensor | None = None) -> Tensor:
        """Read what is unread of the first `lengths` (B,) tokens of texts (B, S), at least one, then draft (B, K).

        One call of the model. Returns the logits after each text's last token and each drafted one, (B, 1 + K, V).
        """
        unread = self._unread(texts, lengths)
        if self.copies:
            self.before = self.state.copy()
        logits, self.state = self.model(unread if draft is None else torch.cat([unread, draft], 1), self.state)
        return logits[:, unread.shape[1] - 1 :]

    def push(self, tokens: Tensor) -> Tensor:
        """Read one more token of each row, (B,), which may be EMPTY; return the logits after it, (B, V)."""
        logits, self.state = self.model(tokens[:, None], self.state)
        return logits[:, -1]

    def back(self, texts: Tensor, lengths: Tensor) -> None:
        """Roll back to the first `lengths` (B,) tokens of texts (B, S); only drafts may have changed since `read`."""
        if not bool((self.state.lengths > lengths).any()):
            return
        if not self.copies:
            self.state.truncate(torch.minimum(self.state.lengths, lengths))
            return
        kept = torch.minimum(self.state.lengths, lengths)
        self.state = self.before
        unread = self._unread(texts, kept)
        if unread.shape[1]:
            _, self.state = self.model(unread, self.state)

    def reorder(self, rows: Tensor) -> None:
        """Row i becomes the former row `rows[i]`."""
        self.state.reorder(rows)

    def _unread(self, texts: Tensor, lengths: Tensor) -> Tensor:
        """The unread tokens before `lengths` (B,), padded with EMPTY on the left: (B, T)."""
        width = int((lengths - self.state.lengths).max())
        columns = lengths[:, None] + torch.arange(-width, 0, device=texts.device)
        return texts.gather(1, columns.clamp(min=0)).masked_fill(columns < self.state.lengths[:, None], EMPTY)
