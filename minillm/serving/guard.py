"""Guard: the layer in front of all routes: the key, the stop, and the headers of every answer.

The key is compared in constant time, so that the time of a refusal says nothing about it. The page and /health need no
key: the page must open before a person can type one. While the server stops, what runs is finished, and new requests
are refused. Read before: `errors`.
"""

import hmac
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from minillm.serving.errors import ApiError, respond
from minillm.serving.prometheus import Meter
from minillm.serving.reading import ASGIMessage, Receive, Send
from minillm.serving.worker import STOPPING

OPEN = ("/", "/health")  # paths that need no key
HEADERS = [(b"x-content-type-options", b"nosniff"), (b"referrer-policy", b"no-referrer")]


@dataclass
class Gate:
    """Whether the server takes new requests."""

    closed: bool = False


class Guard:
    """An ASGI middleware."""

    def __init__(self, app: Any, key: str, gate: Gate, meter: Meter, paths: Collection[str]):
        """`key`: "" for none. `paths`: those that are counted by name."""
        self.app, self.key, self.gate, self.meter, self.paths = app, key.encode(), gate, meter, paths

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        path = scope["path"]

        async def sent(message: ASGIMessage) -> None:
            if message["type"] == "http.response.start":
                self.meter.requests[path if path in self.paths else "other", message["status"]] += 1
                message = {**message, "headers": [*message.get("headers", []), *HEADERS]}
            await send(message)

        refusal = self._refusal(path, scope["headers"])
        if refusal is not None:
            await respond(refusal.body(), refusal.status, refusal.headers)(scope, receive, sent)
            return
        await self.app(scope, receive, sent)

    def _refusal(self, path: str, headers: list[tuple[bytes, bytes]]) -> ApiError | None:
        if self.key and path not in OPEN:
            given = [value for name, value in headers if name == b"authorization"]
            scheme, _, key = (given[0] if len(given) == 1 else b"").partition(b" ")
            right = hmac.compare_digest(key.strip(), self.key)
            if scheme.lower() != b"bearer" or not right:
                return ApiError(
                    401,
                    "authorization: expected the header 'Authorization: Bearer KEY' with the key of this server",
                    code="invalid_api_key",
                    headers={"www-authenticate": "Bearer"},
                )
        if self.gate.closed and path != "/health":
            return STOPPING
        return None
