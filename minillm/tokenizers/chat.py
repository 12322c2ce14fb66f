"""Conversations: messages of roles, and the template that writes them as tokens.

A chat model has learned from conversations in one notation, its template: special tokens mark where a message begins
and ends, and who speaks. Only the template may add special tokens; the text of a message never yields one, so a user
cannot forge the message of another role. Read before: `tokenizer`.
"""

from collections.abc import Sequence
from typing import Protocol, TypedDict

from minillm.config.fields import suggest

ROLES = ("system", "user", "assistant")
EXAMPLE = '[{"role": "user", "content": "Hello"}]'


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


def check_messages(messages: Sequence[Message], roles: Sequence[str] = ROLES) -> None:
    """Raise ValueError for what is no conversation: no message, an unknown role, a content that is not text."""
    if isinstance(messages, str | dict) or not messages:
        raise ValueError(f"messages = {messages!r}: expected a list of at least one; give {EXAMPLE}")
    for i, message in enumerate(messages):
        if not isinstance(message, dict) or message.keys() != {"role", "content"}:
            raise ValueError(f"messages[{i}] = {message!r}: expected a role and a content; give {EXAMPLE}")
        if message["role"] not in roles:
            raise ValueError(
                f"messages[{i}].role = {message['role']!r}: expected {suggest(str(message['role']), list(roles))}"
            )
        if not isinstance(message["content"], str):
            raise ValueError(f"messages[{i}].content = {message['content']!r}: expected text; join its parts")
