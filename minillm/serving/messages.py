"""Messages: the conversation in the body of a chat request.

Each message has a role and a content: a string, or an array of text parts, which are joined. A message of the assistant
may have the steps before its answer apart, as think or, the name of other servers, as reasoning_content. A field that
would be ignored is refused, except for empty ones: clients send the answers of an assistant back as they got them. Read
before: `body_fields`; after: `bodies`.
"""

from typing import Any

from minillm.config.fields import suggest
from minillm.serving.body_fields import expected
from minillm.tokenizers.chat import Message

ROLES = ("system", "user", "assistant")
STEPS = ("think", "reasoning_content")


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
    known = ["role", "content", *STEPS]
    more = {name: other for name, other in value.items() if name not in known[:2] and other not in (None, [], "")}
    for name in more.keys() - {*STEPS}:
        raise ValueError(f"{where}.{name}: unknown field; expected {suggest(name, known)}")
    if isinstance(content, list):
        content = "".join(_read_part(part, f"{where}.content[{i}]") for i, part in enumerate(content))
    if not isinstance(content, str):
        raise expected(f"{where}.content", content, "a string, or an array of text parts")
    return {"role": role, "content": content, **_read_steps(more, role, where)}


def _read_steps(named: dict[str, Any], role: str, where: str) -> dict[str, str]:
    """The steps before an answer, under our name; empty for no steps."""
    if not named:
        return {}
    name, steps = next(iter(named.items()))
    if role != "assistant":
        raise ValueError(f"{where}.{name}: expected it only beside the role assistant, found {role}; leave it out")
    if len(named) > 1:
        raise ValueError(f"{where}.{name}: expected one of {' and '.join(STEPS)}; leave one out")
    if not isinstance(steps, str):
        raise expected(f"{where}.{name}", steps, "a string")
    return {"think": steps}


def _read_part(value: Any, where: str) -> str:
    if not isinstance(value, dict) or value.keys() != {"type", "text"} or value["type"] != "text":
        raise ValueError(f'{where}: expected {{"type": "text", "text": ...}}; this model reads only text')
    if not isinstance(value["text"], str):
        raise expected(f"{where}.text", value["text"], "a string")
    return value["text"]
