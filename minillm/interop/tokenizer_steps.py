"""Steps of a tokenizer.json, as its file writes them; for tokenizers that are written, and for those of GGUF files."""

from typing import Any


def isolated(pattern: str) -> dict[str, Any]:
    """The step that cuts a text around each match of a pattern."""
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


def byte_level(use_regex: bool) -> dict[str, Any]:
    """The step that writes bytes as printable characters, with or without cutting GPT-2's words."""
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": use_regex}
