"""Messages: the conversation in the body of a chat request.

Each message has a role and a content: a string, or an array of text parts, which are joined. A field that would be
ignored is refused, except for empty ones: clients send the answers of an assistant back as they got them. Read before:
`body_fields`; after: `bodies`.
"""

from typing import Any

from minillm.config.fields import suggest
from minillm.serving.body_fields import expected
from minillm.tokenizers.chat import Message

ROLES = ("system", "user", "assistant")


def read_messages(value: Any) -> list[Message]:
    """The messages of a conversation. Raises ValueError."""
    if not isinstance(value, list) or not value:
        raise expected("messages", value, "an array of messages, and not empty")
    return [_read_message(each, f"messages[{i}]") for i, each in enumerate(value)]


def _read_message(value: Any, where: str) -> Message:
    if not isinstance(value, dict):
        raise expected(where, value, "an object with role and content")
    role, content = value.get("role"), value.get("content")
    if role not in ROLES:
        raise expected(f"{where}.role", role, f"one of {', '.join(ROLES)}")
    for name, other in value.items():
        if name not in ("role", "content") and other not in (None, [], ""):
            raise ValueError(f"{where}.{name}: unknown field; expected {suggest(name, ['role', 'content'])}")
    if isinstance(content, list):
        content = "".join(_read_part(part, f"{where}.content[{i}]") for i, part in enumerate(content))
    if not isinstance(content, str):
        raise expected(f"{where}.content", content, "a string, or an array of text parts")
    return {"role": role, "content": content}


def _read_part(value: Any, where: str) -> str:
    if not isinstance(value, dict) or value.keys() != {"type", "text"} or value["type"] != "text":
        raise ValueError(f'{where}: expected {{"type": "text", "text": ...}}; this model reads only text')
    if not isinstance(value["text"], str):
        raise expected(f"{where}.text", value["text"], "a string")
    return value["text"]
