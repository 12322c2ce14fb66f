"""Conversations: messages of roles, and the template that writes them as tokens.

A chat model has learned from conversations in one notation, its template: special tokens mark where a message begins
and ends, and who speaks. Only the template may add special tokens; the text of a message never yields one, so a user
cannot forge the message of another role. Read before: `tokenizer`.
"""

from collections.abc import Sequence
from typing import Protocol, TypedDict


class Message(TypedDict):
    """One message of a conversation."""

    role: str  # "system", "user" or "assistant"
    content: str


class Template(Protocol):
    """The notation of a model's conversations."""

    def render(self, messages: Sequence[Message], answer: bool = True) -> list[int]:
        """The tokens of a conversation; with `answer`, followed by the beginning of the assistant's next message.

        Raises ValueError for a conversation that the template cannot write.
        """
        ...
