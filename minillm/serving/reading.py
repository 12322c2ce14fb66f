"""Reading requests and watching connections: a bounded body, and the end of work for a client that has left.

The sizes and times are bounded whatever the client declares: a body may come in chunks without a length, and one byte
a minute. Read before: `errors`, `limits`.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, MutableMapping
from typing import Any

from minillm.serving.errors import ApiError
from minillm.serving.limits import Limits
from minillm.serving.strict_json import parse_object

ASGIMessage = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[ASGIMessage]]
Send = Callable[[ASGIMessage], Awaitable[None]]


class ClientGone(Exception):
    """The client has closed its connection, or does not read."""


async def read_json(headers: Any, receive: Receive, limits: Limits) -> dict[str, Any]:
    """The JSON object in the body of a request. Raises ApiError, and ClientGone."""
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise ApiError(415, f"content-type = {kind!r}: expected application/json", code="unsupported_media_type")
    coding = headers.get("content-encoding", "identity").strip().lower()
    if coding != "identity":
        raise ApiError(415, f"content-encoding = {coding!r}: expected none", code="unsupported_media_type")
    declared = headers.get("content-length", "0")
    if not (declared.isascii() and declared.isdigit()):
        raise ApiError(400, f"content-length = {declared!r}: expected a number")
    too_long = ApiError(413, f"body: expected at most {limits.body_bytes:,} bytes", code="body_too_large")
    if len(declared) > 15 or int(declared) > limits.body_bytes:
        raise too_long
    body = bytearray()
    try:
        async with asyncio.timeout(limits.read_seconds):
            more = True
            while more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientGone
                body += message.get("body", b"")
                more = message.get("more_body", False)
                if len(body) > limits.body_bytes:
                    raise too_long
    except TimeoutError:
        raise ApiError(
            408, f"body: expected all of it within {limits.read_seconds} s", code="request_timeout"
        ) from None
    try:
        return parse_object(bytes(body))
    except ValueError as e:
        raise ApiError(400, str(e), code="invalid_json") from None


async def while_connected(receive: Receive, work: Coroutine[Any, Any, None]) -> None:
    """Do the work of an answer, whose request has been read; end it as soon as the client leaves."""
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_disconnected(receive))
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            await working
    finally:
        leaving.cancel()
        working.cancel()
        await asyncio.wait((working, leaving))


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
