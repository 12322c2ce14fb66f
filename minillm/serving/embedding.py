"""Embeddings: sentence vectors over HTTP, for a run whose text side offers them.

Sentence vectors: Reimers and Gurevych 2019. Clients of OpenAI's API ask for base64 by default: the little-endian
float32 numbers of a vector, as text. Read before: `body_fields`.
"""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from torch import Tensor

from minillm.serving.body_fields import BodyFields, expected
from minillm.serving.errors import ApiError
from minillm.tokenizers.tokenizer import Tokenizer

MOST_TEXTS = 256


class Embedder(Protocol):
    """A text side that turns texts into vectors."""

    tokenizer: Tokenizer

    def vectors(self, texts: Sequence[str]) -> Tensor:
        """One vector for each text, (N, D). Raises ValueError for a text that it cannot read."""
        ...


@dataclass(frozen=True)
class EmbeddingBody:
    """A request for sentence vectors."""

    texts: Sequence[str]
    base64: bool


def read_embedding(body: dict[str, Any], name: str) -> EmbeddingBody:
    """A body of /v1/embeddings for the model `name`. Raises ApiError."""
    fields = BodyFields(body)
    texts = fields.needed("input", _texts)
    model = fields.typed("model", str, name)
    form = fields.typed("encoding_format", Literal["float", "base64"], "float")
    fields.refuse(dimensions="the vectors of this model have one length")
    fields.finish()
    if model != name:
        raise ApiError(404, f"model = {model!r}: expected {name!r}", "model", "model_not_found")
    return EmbeddingBody(texts, form == "base64")


def embed(embedder: Embedder, body: EmbeddingBody, name: str) -> dict[str, Any]:
    """The answer. Raises ApiError for a text that the model cannot read."""
    try:
        rows = embedder.vectors(body.texts).float().cpu()
        n = sum(map(len, embedder.tokenizer.encode_many(body.texts)))
    except ValueError as e:
        raise ApiError(400, f"input: {e}", "input", "invalid_value") from None
    vectors: list[Any] = rows.tolist()
    if body.base64:
        vectors = [base64.b64encode(row.numpy().astype("<f4").tobytes()).decode() for row in rows]
    data = [{"object": "embedding", "index": i, "embedding": vector} for i, vector in enumerate(vectors)]
    return {"object": "list", "data": data, "model": name, "usage": {"prompt_tokens": n, "total_tokens": n}}


def _texts(value: Any) -> list[str]:
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not 0 < len(texts) <= MOST_TEXTS:
        raise expected("input", value, f"a string, or an array of 1 to {MOST_TEXTS} strings")
    if not all(isinstance(text, str) and text for text in texts):
        raise ValueError("input: expected strings that are not empty; token ids are not read here")
    return texts
