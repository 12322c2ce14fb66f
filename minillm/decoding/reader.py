"""A model that follows texts which may lose their last tokens again, as those that were only guessed do.

Where the state can take tokens back (a KV cache, the tokens of an n-gram), that is what happens. A recurrent state
cannot: it is copied before guesses are read, and where one was wrong the copy reads on from there, over what was right.
Read `models/language_model.py` first.
"""

import torch
from torch import Tensor

from minillm.constants import EMPTY
from minillm.models.language_model import LanguageModel, State


class Reader:
    """A model, and a state that has read a part of each of some texts."""

    def __init__(self, model: LanguageModel, state: State):
        """Raises ValueError for a state that can neither take tokens back nor be copied."""
        self.model, self.state = model, state
        self.copies = state.rollback == "copy"
        if state.rollback == "none":
            raise ValueError(
                f"state = {type(state).__name__} of rollback = none: expected one that can take tokens back, since drafts may be rejected; "
                "decode without a draft, or take a cache that keeps every token (contiguous, paged, int8, int4)"
            )

    def read(self, texts: Tensor, lengths: Tensor, draft: Tensor | None = None) -> Tensor:
        """Read what is not yet read of the first `lengths` (B,) tokens of texts (B, S), one at least, and then draft (B, K).

        Logits after the last token of each text and after each of its draft's, (B, 1 + K, V), in one call.
        """
        unread = self._unread(texts, lengths)
        if self.copies:
            self.before = self.state.copy()
        logits, self.state = self.model(unread if draft is None else torch.cat([unread, draft], 1), self.state)
        return logits[:, unread.shape[1] - 1 :]

    def push(self, tokens: Tensor) -> Tensor:
        """Read one more token each, (B,), or EMPTY: the logits after it, (B, V)."""
        logits, self.state = self.model(tokens[:, None], self.state)
        return logits[:, -1]

    def back(self, texts: Tensor, lengths: Tensor) -> None:
        """Have read no more than the first `lengths` (B,) tokens of texts (B, S), of which nothing changed since `read` but drafts."""
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
        """Row i becomes what row `rows[i]` was."""
        self.state.reorder(rows)

    def _unread(self, texts: Tensor, lengths: Tensor) -> Tensor:
        """The tokens between what is read and `lengths` (B,), all ending in the same column: (B, T), EMPTY on the left."""
        width = int((lengths - self.state.lengths).max())
        columns = lengths[:, None] + torch.arange(-width, 0, device=texts.device)
        return texts.gather(1, columns.clamp(min=0)).masked_fill(columns < self.state.lengths[:, None], EMPTY)
