"""Conversations in files: one JSON object a line, in the forms that other people use.

    {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]}    the common form
    {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello."}]}        ShareGPT
    {"instruction": "Greet me.", "input": "", "output": "Hello."}                                    Alpaca

What is no conversation raises ValueError with its line; nothing is repaired. Read before: `tokenizers/chat.py`.
"""

import json
from pathlib import Path
from typing import Any

from minillm.config.fields import suggest
from minillm.datasets.files import read_text
from minillm.tokenizers.chat import EXAMPLE, Message
from minillm.tokenizers.role_template import check_conversation

SPEAKERS = {"system": "system", "human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant"}
FORMS = f'{{"messages": {EXAMPLE[:-1]}, ...]}}, "conversations" of ShareGPT, or "instruction" and "output" of Alpaca'


def read_conversations(path: Path) -> list[list[Message]]:
    """The conversations of a .jsonl file, each with an answer. Raises ValueError for anything else, with its line."""
    found = []
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            record = json.loads(line)
        except ValueError as e:
            raise ValueError(f"{where}: expected a JSON object, found an error ({e}); mend or remove the line") from e
        try:
            found.append(conversation_of(record))
        except ValueError as e:
            raise ValueError(f"{where}: {e}") from e
    if not found:
        raise ValueError(f"{path}: expected conversations, found no line; write one a line: {FORMS}")
    return found


def conversation_of(record: Any) -> list[Message]:
    """The messages of one record of any of the three forms. Raises ValueError for no conversation with an answer.

    >>> conversation_of({"instruction": "Add.", "input": "2 and 3", "output": "5"})
    [{'role': 'user', 'content': 'Add.\\n\\n2 and 3'}, {'role': 'assistant', 'content': '5'}]
    """
    form = next((name for name in READERS if isinstance(record, dict) and name in record), None)
    if form is None:
        raise ValueError(f"record = {record!r:.60}: expected {FORMS}")
    messages = READERS[form](record)
    check_conversation(messages)
    refuse_no_answer(messages)
    return messages


def refuse_no_answer(messages: list[Message]) -> None:
    """Raise ValueError for a conversation from which nothing would be learned."""
    if all(message["role"] != "assistant" for message in messages):
        raise ValueError("messages: expected at least one of the assistant to learn from, found none; remove the line")


def _common(record: dict) -> list[Message]:
    return record["messages"]


def _share_gpt(record: dict) -> list[Message]:
    turns = record["conversations"]
    for i, turn in enumerate(turns if isinstance(turns, list) else [turns]):
        if not isinstance(turn, dict) or not {"from", "value"} <= turn.keys():
            raise ValueError(f'conversations[{i}] = {turn!r:.60}: expected {{"from": ..., "value": ...}}; mend it')
        if turn["from"] not in SPEAKERS:
            raise ValueError(
                f"conversations[{i}].from = {turn['from']!r}: expected {suggest(str(turn['from']), list(SPEAKERS))}"
            )
    return [*_system(record), *({"role": SPEAKERS[turn["from"]], "content": turn["value"]} for turn in turns)]


def _alpaca(record: dict) -> list[Message]:
    asked, given, answer = (record.get(name, "") for name in ("instruction", "input", "output"))
    for name, text in (("instruction", asked), ("input", given), ("output", answer)):
        if not isinstance(text, str):
            raise ValueError(f"{name} = {text!r:.60}: expected text; mend it")
    question = f"{asked}\n\n{given}" if given else asked
    return [*_system(record), {"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def _system(record: dict) -> list[Message]:
    return [{"role": "system", "content": record["system"]}] if record.get("system") else []


READERS = {"messages": _common, "conversations": _share_gpt, "instruction": _alpaca}
