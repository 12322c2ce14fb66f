"""Hosts: the names under which the server may be asked, against DNS rebinding.

A page of a foreign site can point its own name at 127.0.0.1 and so ask a server on the machine of its reader; but the
Host header then has the foreign name. starlette checks the header; here its refusal becomes an error of the API, as
clients expect. Read before: `errors`.
"""

from collections.abc import Sequence
from typing import Any

from minillm.serving.errors import ApiError, respond
from minillm.serving.reading import ASGIMessage, Receive, Send

REFUSAL = ApiError(
    400,
    "Host: expected a name of this server in this header; to allow another one, start it with --allow-host NAME",
    code="invalid_host",
)


class Hosts:
    """An ASGI middleware."""

    def __init__(self, app: Any, allowed: Sequence[str]):
        self.app, self.allowed = app, list(allowed)

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        """See ASGI."""
        from starlette.middleware.trustedhost import TrustedHostMiddleware

        passed = []

        async def admit(*_: Any) -> None:
            passed.append(True)

        async def discard(message: ASGIMessage) -> None:
            pass

        await TrustedHostMiddleware(admit, allowed_hosts=self.allowed, www_redirect=False)(scope, receive, discard)
        answer = self.app if passed else respond(REFUSAL.body(), REFUSAL.status)
        await answer(scope, receive, send)
