"""Conversations: messages of roles, and the template that writes them as tokens.

A chat model has learned from conversations in one notation, its template: special tokens mark where a message begins
and ends, and who speaks. Only the template may add special tokens; the text of a message never yields one, so a user
cannot forge the message of another role. Read before: `tokenizer`.
"""

from collections.abc import Sequence
from typing import NotRequired, Protocol, TypedDict

from minillm.config.fields import suggest

ROLES = ("system", "user", "assistant")
THINK, END_THINK = "<think>", "</think>"  # around the steps before an answer
EXAMPLE = '[{"role": "user", "content": "Hello"}]'


class Message(TypedDict):
    """One message of a conversation."""

    role: str  # "system", "user" or "assistant"
    content: str
    think: NotRequired[str]  # of the assistant: the steps before the answer


class Template(Protocol):
    """The notation of a model's conversations."""

    def render(self, messages: Sequence[Message], answer: bool = True) -> list[int]:
        """The tokens of a conversation; with `answer`, followed by the beginning of the assistant's next message.

        Raises ValueError for a conversation that the template cannot write.
        """
        ...


def whole_text(message: Message) -> str:
    """The text of a message, with its steps before it.

    >>> whole_text({"role": "assistant", "content": "5", "think": "2 + 3 = 5."})
    '<think> 2 + 3 = 5.</think> 5'
    """
    think = message.get("think")
    return message["content"] if think is None else f"{THINK} {think}{END_THINK} {message['content']}"


def split_thought(text: str) -> tuple[str | None, str]:
    """The steps of an answer and its content, the inverse of `whole_text`; None for no steps.

    Steps that never end have no content.

    >>> split_thought("<think> 2 + 3 = 5.</think> 5"), split_thought("5"), split_thought("<think>2 + 3")
    (('2 + 3 = 5.', '5'), (None, '5'), ('2 + 3', ''))
    """
    if not text.startswith(THINK):
        return None, text
    think, _, content = text.removeprefix(THINK).partition(END_THINK)
    return think.removeprefix(" "), content.removeprefix(" ")


def check_messages(messages: Sequence[Message], roles: Sequence[str] = ROLES) -> None:
    """Raise ValueError for what is no conversation: no message, an unknown role, a content that is not text."""
    if isinstance(messages, str | dict) or not messages:
        raise ValueError(f"messages = {messages!r}: expected a list of at least one; give {EXAMPLE}")
    for i, message in enumerate(messages):
        if not isinstance(message, dict) or message.keys() - {"think"} != {"role", "content"}:
            raise ValueError(f"messages[{i}] = {message!r}: expected a role and a content; give {EXAMPLE}")
        if message["role"] not in roles:
            raise ValueError(
                f"messages[{i}].role = {message['role']!r}: expected {suggest(str(message['role']), list(roles))}"
            )
        for part in message.keys() - {"role"}:
            if not isinstance(message[part], str):
                raise ValueError(f"messages[{i}].{part} = {message[part]!r}: expected text; join its parts")
        if "think" in message and message["role"] != "assistant":
            raise ValueError(
                f"messages[{i}].think: expected none beside role = {message['role']!r}, since only the assistant has "
                "steps before its answer; put the text into the content"
            )
