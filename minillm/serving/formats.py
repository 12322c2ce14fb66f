"""Formats of answers: the JSON of a chat completion and of a text completion, whole and in chunks.

A stream of server-sent events has a chunk that opens each choice, one for each piece of text, and one with the
finish_reason; joined, the pieces are the text of the whole answer. Read before: `worker`.
"""

from collections.abc import Sequence
from typing import Any, Protocol

from minillm.serving.worker import Drawn
from minillm.tokenizers.tokenizer import Tokenizer

FINISH = {"end": "stop", "stop": "stop", "length": "length", "context": "length"}  # reason -> finish_reason


class Format(Protocol):
    """The form of the answers to one kind of request."""

    prefix: str  # of the answer's id
    whole: str  # the "object" of an answer
    part: str  # the "object" of a chunk

    def choice(self, echo: str, text: str, drawn: Sequence[Drawn] | None) -> dict[str, Any]:
        """The fields of a whole choice, besides index and finish_reason; drawn None: without logprobs."""
        ...

    def opening(self, echo: str) -> dict[str, Any]:
        """The fields of the first chunk of a choice."""
        ...

    def delta(self, echo: str, text: str, drawn: Sequence[Drawn] | None) -> dict[str, Any]:
        """The fields of a chunk with more text."""
        ...

    def closing(self) -> dict[str, Any]:
        """The fields of the last chunk, which has the finish_reason."""
        ...


class Spelling:
    """Tokens as text, for people and for programs."""

    def __init__(self, tokenizer: Tokenizer):
        self.tokenizer = tokenizer
        self.names = {i: name for name, i in tokenizer.special_tokens.items()}

    def bytes_of(self, token: int) -> bytes | None:
        """The bytes of a token; None for a special one, and for an id that only the model has."""
        if token in self.names or token >= self.tokenizer.vocab_size:
            return None
        return self.tokenizer.decode_bytes([token])

    def name(self, token: int) -> str:
        """A token as text; a part of a character as its bytes, so that different tokens have different names."""
        data = self.bytes_of(token)
        if data is None:
            return self.names.get(token, f"<|unused {token}|>")
        try:
            return data.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)


class ChatFormat:
    """The `Format` of /v1/chat/completions."""

    prefix, whole, part = "chatcmpl", "chat.completion", "chat.completion.chunk"

    def __init__(self, tokenizer: Tokenizer):
        self.spelling = Spelling(tokenizer)

    def choice(self, echo: str, text: str, drawn: Sequence[Drawn] | None) -> dict[str, Any]:
        """See `Format.choice`."""
        message = {"role": "assistant", "content": text, "refusal": None}
        return {"message": message, "logprobs": self._logprobs(drawn)}

    def opening(self, echo: str) -> dict[str, Any]:
        """See `Format.opening`."""
        return {"delta": {"role": "assistant", "content": ""}, "logprobs": None}

    def delta(self, echo: str, text: str, drawn: Sequence[Drawn] | None) -> dict[str, Any]:
        """See `Format.delta`."""
        return {"delta": {"content": text}, "logprobs": self._logprobs(drawn)}

    def closing(self) -> dict[str, Any]:
        """See `Format.closing`."""
        return {"delta": {}, "logprobs": None}

    def _logprobs(self, drawn: Sequence[Drawn] | None) -> dict[str, Any] | None:
        if drawn is None:
            return None
        found = []
        for each in drawn:
            top = [self._entry(*pair) for pair in each.top]
            found.append(self._entry(each.token, each.logprob) | {"top_logprobs": top})
        return {"content": found, "refusal": None}

    def _entry(self, token: int, logprob: float) -> dict[str, Any]:
        data = self.spelling.bytes_of(token)
        return {
            "token": self.spelling.name(token),
            "logprob": finite(logprob),
            "bytes": None if data is None else [*data],
        }


class CompletionFormat:
    """The `Format` of /v1/completions."""

    prefix, whole, part = "cmpl", "text_completion", "text_completion"

    def __init__(self, tokenizer: Tokenizer):
        self.spelling = Spelling(tokenizer)

    def choice(self, echo: str, text: str, drawn: Sequence[Drawn] | None) -> dict[str, Any]:
        """See `Format.choice`."""
        return {"text": echo + text, "logprobs": self._logprobs(len(echo), drawn)}

    def opening(self, echo: str) -> dict[str, Any]:
        """See `Format.opening`."""
        return {"text": echo, "logprobs": None}

    def delta(self, echo: str, text: str, drawn: Sequence[Drawn] | None) -> dict[str, Any]:
        """See `Format.delta`."""
        return {"text": text, "logprobs": self._logprobs(len(echo), drawn)}

    def closing(self) -> dict[str, Any]:
        """See `Format.closing`."""
        return {"text": "", "logprobs": None}

    def _logprobs(self, offset: int, drawn: Sequence[Drawn] | None) -> dict[str, Any] | None:
        if drawn is None:
            return None
        name = self.spelling.name
        return {
            "tokens": [name(each.token) for each in drawn],
            "token_logprobs": [finite(each.logprob) for each in drawn],
            "top_logprobs": [{name(token): finite(logprob) for token, logprob in each.top} for each in drawn],
            "text_offset": [offset + each.begin for each in drawn],
        }


def finite(logprob: float) -> float:
    """A logprob as JSON has it: without minus infinity, for which clients expect -9999."""
    return max(logprob, -9999.0)
