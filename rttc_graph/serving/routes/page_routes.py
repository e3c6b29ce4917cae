"""`/page/…`: the files of the page at `/`, as they are packaged; `/docs` leads to a part of it.

The page holds nothing of anybody and needs no key; what it shows it asks the other routes for.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from rttc_graph.serving.http_errors import HttpError, Problem

__all__ = ("first_page", "page_router")

FIRST = "index.html"

_KINDS: Mapping[str, str] = {
    "css": "text/css; charset=utf-8",
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
    "txt": "text/plain; charset=utf-8",
}

_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
    )
)
"""Nothing but the packaged files runs on the page, and it talks to this server alone."""

_HEADERS: Mapping[str, str] = {
    "cache-control": "no-cache",
    "content-security-policy": _POLICY,
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


@dataclass(frozen=True, slots=True)
class _File:
    """A file of the page."""

    content: bytes
    kind: str
    tag: str


@cache
def _files() -> Mapping[str, _File]:
    """Return the files by name."""
    found = (item for item in files("rttc_graph.serving.page").iterdir())
    return {
        item.name: _File(
            content := item.read_bytes(),
            _KINDS[item.name.rpartition(".")[2]],
            f'"{hashlib.sha256(content).hexdigest()[:32]}"',
        )
        for item in found
        if item.name.rpartition(".")[2] in _KINDS
    }


def page_router() -> APIRouter:
    """Return the route."""
    router = APIRouter(tags=["page"])
    _files()  # read before a request waits for them

    @router.get("/docs", response_class=Response, include_in_schema=False)
    async def show_routes() -> Response:
        """Lead to the page's list of all routes, where others have theirs."""
        return Response(status_code=307, headers={"location": "/#/docs"})

    @router.get(
        "/page/{name}",
        response_class=Response,
        responses={404: {"model": Problem}},
        include_in_schema=False,
    )
    async def show_file(name: str, request: Request) -> Response:
        """Show a file of the page."""
        if name not in _files():
            raise HttpError(404, f"the page has no file {name[:80]!r}", kind="HTTPException")
        return _response(_files()[name], request)

    return router


def first_page(request: Request) -> Response:
    """Return the page itself."""
    return _response(_files()[FIRST], request)


def _response(file: _File, request: Request) -> Response:
    """Return a file, or that the browser has it already."""
    headers = {**_HEADERS, "etag": file.tag, "vary": "accept"}
    if file.tag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    return Response(file.content, headers={**headers, "content-type": file.kind})
