"""Telling: from the events of one text to news for a client.

A piece of text may be held back, because a character or a stop string may go on in the next token. The logprobs of
tokens are held back with it: a token is told of when the text where it begins is shown, so a token that a stop string
cut away is never told of. The joined pieces, and the joined tokens, are the same whether a text is streamed or told at
once. Read before: `worker`, `decoding/stopping.py`.
"""

import time

from minillm.decoding.rows import Event
from minillm.decoding.stopping import StopText
from minillm.serving.errors import ApiError
from minillm.serving.worker import Drawn, News, Tell, TextOrder
from minillm.tokenizers.tokenizer import Tokenizer

IMPOSSIBLE = (
    "sampling: expected a token that can be drawn, found none: every token is forbidden, or the model's numbers are "
    "not finite; loosen the penalties"
)


class Telling:
    """A `Stop` for one text that also hears its events, and tells."""

    def __init__(self, order: TextOrder, tokenizer: Tokenizer, tell: Tell):
        self.order, self.tell = order, tell
        prompt = () if isinstance(order.prompt, str) else order.prompt  # a plain text does not end with a mark
        self.watcher = StopText(tokenizer, order.stop, self._show, prompt)
        self.pieces: list[str] = []  # shown, but not told
        self.pending: list[Drawn] = []  # drawn, but not told
        self.n_shown = self.n_drawn = self.begin = 0
        self.first_at: float | None = None  # time of the first token

    def push(self, token: int) -> bool:
        """See `Stop.push`."""
        self.begin = self.n_shown + len(self.watcher.cut.held) + self.watcher.decoder.broken_by(token)
        return self.watcher.push(token)

    def finish(self) -> bool:
        """See `Stop.finish`."""
        return self.watcher.finish()

    def hear(self, event: Event) -> None:
        """Tell of what can be told after this event, if the order is eager or the text has ended."""
        self.first_at = self.first_at or time.perf_counter()
        if event.reason == "failed":
            self.tell(News(error=ApiError(400, IMPOSSIBLE, code="no_token")))
            return
        ended = event.reason is not None
        # subtle: an END is an event without a token; so is the end of a text that may have no token at all
        self.n_drawn += event.token is not None or event.reason in ("end", "stop")
        if self.order.logprobs and event.token is not None:
            self.pending.append(Drawn(self.begin, event.token, event.logprob, event.top))
        if ended or (self.order.eager and self.pieces):
            cut = not ended or event.reason == "stop"
            drawn = [each for each in self.pending if each.begin < self.n_shown or not cut]
            text = "".join(self.pieces)
            self.pieces, self.pending = [], self.pending[len(drawn) :]
            self.tell(News(text, tuple(drawn), event.reason, self.n_drawn, self.first_at))

    def _show(self, piece: str) -> None:
        self.pieces.append(piece)
        self.n_shown += len(piece)
