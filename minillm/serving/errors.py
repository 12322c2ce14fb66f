"""Errors of the API: a status and a JSON body that clients of OpenAI's API know.

    {"error": {"message": ..., "type": ..., "param": ..., "code": ...}}

`param` names the field that is wrong, if one is. `code` is a word for programs, `message` a sentence for people.
"""

import json
from collections.abc import Mapping
from typing import Any

from minillm.serving.strict_json import clipped


class ApiError(Exception):
    """A refusal or a failure, with its HTTP status."""

    def __init__(
        self,
        status: int,
        message: str,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ):
        super().__init__(message)
        self.status, self.param, self.code, self.headers = status, param, code, dict(headers or {})

    @property
    def kind(self) -> str:
        """The type of the error, by its status."""
        if self.status == 429:
            return "rate_limit_error"
        return "server_error" if self.status >= 500 else "invalid_request_error"

    def body(self) -> dict[str, Any]:
        """The JSON body."""
        message = clipped(str(self))
        return {"error": {"message": message, "type": self.kind, "param": self.param, "code": self.code}}


def queue_full(n: int, what: str, most: int) -> ApiError:
    """The refusal of a request for which there is no room now."""
    message = f"{n} {what}: expected at most {most}; ask again later"
    return ApiError(429, message, code="queue_full", headers={"retry-after": "1"})


def to_json(value: Any) -> bytes:
    """JSON as bytes; ASCII only, so that any string can be written."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).encode()


def respond(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Any:
    """A JSON response of starlette."""
    from starlette.responses import Response

    return Response(to_json(value), status, headers, media_type="application/json")
