"""Conversation: questions and answers with a chat model, turn by turn.

A chat model continues one text: the system message and all turns, in the notation of its template. When the text no
longer fits the context, the oldest turns are left out as a whole, and the system message stays. Read before:
`tokenizers/chat.py`, `kept_state`.
"""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from minillm.decoding.rows import Reason
from minillm.decoding.sampler import SamplingConfig
from minillm.text.kept_state import KeptState, Work
from minillm.text.model import TextModel
from minillm.tokenizers.chat import Message, Template, split_thought, whole_text


class Turn(NamedTuple):
    """A question of the user and the answer of the model."""

    question: str
    answer: str


class Answer(NamedTuple):
    """An answer, why it ended, what was left out for it, and what it took."""

    text: str
    reason: Reason
    n_left_out: int  # oldest turns that did not fit the context
    work: Work


class Conversation:
    """The turns of a conversation and the model that answers; they can be taken back one by one."""

    def __init__(self, text: TextModel, system: str = ""):
        """`system`: the system message; "": none."""
        self.text, self.system, self.kept = text, system, KeptState(text)
        self.turns: list[Turn] = []

    def messages(self, question: str | None = None, n_left_out: int = 0) -> list[Message]:
        """The messages of the conversation, without the oldest `n_left_out` turns, and a new question."""
        told: list[tuple[str, str]] = [("system", self.system)] if self.system else []
        for turn in self.turns[n_left_out:]:
            told += [("user", turn.question), ("assistant", turn.answer)]
        told += [] if question is None else [("user", question)]
        return [{"role": role, "content": content} for role, content in told]

    def ask(
        self,
        question: str,
        sampling: SamplingConfig,
        *,
        max_new_tokens: int,
        seed: int,
        stop: Sequence[str] = (),
        show: Callable[[str], object] | None = None,
        stopped: Callable[[], bool] = lambda: False,
    ) -> Answer:
        """Ask a question; the turn is kept with its answer. Parameters as `KeptState.generate`.

        Raises ValueError, and keeps nothing, for a question that the template or the context cannot take.
        """
        n_left_out = self.n_to_leave_out(question, max_new_tokens)
        ids = self.text.converse(self.messages(question, n_left_out))
        how = {"max_new_tokens": max_new_tokens, "seed": seed, "stop": stop, "show": show, "stopped": stopped}
        found, work = self.kept.generate(ids, sampling, **how)
        self.turns.append(Turn(question, found.text))
        return Answer(found.text, found.reason, n_left_out, work)

    def undo(self) -> Turn:
        """Take back the last turn. Raises ValueError if there is none."""
        if not self.turns:
            raise ValueError("the conversation has no turn: expected one to take back; ask something first")
        return self.turns.pop()

    def retry(self, sampling: SamplingConfig, **how: Any) -> Answer:
        """Ask the last question again; parameters and errors as `ask`. Without an answer, the last turn stays."""
        last = self.undo()
        try:
            return self.ask(last.question, sampling, **how)
        except BaseException:
            self.turns.append(last)
            raise

    def n_to_leave_out(self, question: str, max_new_tokens: int) -> int:
        """The fewest of the oldest turns without which the conversation and an answer fit the context.

        The room for an answer is `max_new_tokens`, but at most a quarter of the context. Raises ValueError for a
        question that leaves no room for a token.
        """
        context_length = self.text.model.context_length
        if context_length is None:
            return 0

        def room(n_left_out: int) -> int:
            return context_length - len(self.text.converse(self.messages(question, n_left_out)))

        wanted = min(max_new_tokens, context_length // 4)
        n = bisect_left(range(len(self.turns)), True, key=lambda n: room(n) >= wanted)
        if n == len(self.turns) and room(n) < 1:
            raise ValueError(
                f"question = {len(question):,} characters: expected fewer, since with the system message it has "
                f"{context_length - room(n):,} tokens and the context {context_length:,}; shorten one of the two"
            )
        return n


def keeps_beginnings(template: Template, messages: Sequence[Message]) -> bool:
    """Whether a template writes every turn as it was when it was the last one, the steps of its answer included.

    Otherwise earlier turns are written anew in each turn, and their tokens must be read again. Raises ValueError as
    `Template.render`.
    """
    whole = template.render(messages, answer=False)
    answers = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
    begun = [template.render(messages[:i]) for i in answers if i]
    ended = [template.render(messages[: i + 1], answer=False) for i in answers]
    same = all(whole[: len(ids)] == ids for ids in begun + ended)
    return same and not any(_loses_steps(template, messages[: i + 1]) for i in answers)


def _loses_steps(template: Template, messages: Sequence[Message]) -> bool:
    """Whether a template leaves out the steps of the last answer: other steps would make no difference."""
    think, content = split_thought(whole_text(messages[-1]))
    if think is None:
        return False
    other: Message = {"role": "assistant", "content": content, "think": f"{think}..."}
    return template.render(messages, answer=False) == template.render([*messages[:-1], other], answer=False)
