"""The page: one HTML file at /, with a content security policy that allows its own script and style and nothing else.

The policy names the hashes of the file's script and style elements. So text that a model or a user wrote can never run
as a script, even if it were put into the page unescaped. The page may talk to this server alone, and no other page may
show it in a frame. Content Security Policy Level 3 (W3C). What only the page needs belongs to routes under /page/ (see
`page_routes`).
"""

import html
import re
from base64 import b64encode
from collections.abc import Sequence
from hashlib import sha256
from importlib.resources import files
from typing import Any

from minillm.serving.errors import respond
from minillm.serving.page_api import PageApi

INLINE = re.compile(r"<(script|style)[^>]*>(.*?)</\1>", re.DOTALL)


class Page:
    """The page of one run, and its headers."""

    def __init__(self, name: str):
        """`name`: of the run; it replaces each {{name}} in the file."""
        text = files("minillm.serving").joinpath("page.html").read_text(encoding="utf-8")
        self.name = name
        self.html = text.replace("{{name}}", html.escape(name))
        self.headers = {"content-security-policy": policy(self.html), "cache-control": "no-cache"}


def policy(text: str) -> str:
    """The content security policy for a page with these scripts and styles.

    >>> policy("<style>p {}</style>").split("; ")[1][:14]
    "script-src 'no"
    """
    hashes: dict[str, list[str]] = {"script": [], "style": []}
    for kind, content in INLINE.findall(text):
        hashes[kind].append(f"'sha256-{b64encode(sha256(content.encode()).digest()).decode()}'")
    script, style = (" ".join(found) or "'none'" for found in hashes.values())
    rules = [
        "default-src 'none'",
        f"script-src {script}",
        f"style-src {style}",
        "connect-src 'self'",
        "img-src data:",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    ]
    return "; ".join(rules)


def page_routes(page: Page, api: PageApi | None) -> Sequence[Any]:
    """The routes of the page: / itself, and what only the page asks for, as /page/NAME. `api`: of a run that writes.

    The guard in front of all routes asks for the key at /page/NAME too.
    """
    from starlette.requests import Request
    from starlette.responses import HTMLResponse, Response
    from starlette.routing import Route

    async def show(request: Request) -> HTMLResponse:
        return HTMLResponse(page.html, headers=page.headers)

    async def about(request: Request) -> Response:
        return respond({"name": page.name, "writes": False})

    if api is None:
        return [Route("/", show), Route("/page/about", about)]
    posts = [api.write, api.pipeline, api.xray, api.attention, api.drafts]
    return [
        Route("/", show),
        Route("/page/about", api.about),
        *(Route(f"/page/{post.__name__}", post, methods=["POST"]) for post in posts),
    ]
