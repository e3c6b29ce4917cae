"""What each route needs: a scope, a place in a queue, and how much it may be sent.

One table, read before a request is: so nothing of a body is looked at for a client that may not
send one, and a route that is added without a line here is closed to everyone with a limited key.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from starlette.types import Scope

from rttc_graph.protocols.api_keys import KeyScope

__all__ = ("QueueName", "RouteRights", "needed_rights")

QueueName = Literal["runs", "kb"]
"""Name of the queue that a request waits in: for the models, or for the knowledge base."""


@dataclass(frozen=True, slots=True)
class RouteRights:
    """Rights and queue that a request needs."""

    scope: KeyScope | Literal["any"] | None
    """Scope that the key must have: `any` for a route that takes every valid key, `None` for one
    that is open to all."""
    queue: QueueName | None = None
    is_ingest: bool = False
    is_counted: bool = True
    """Whether it counts among the requests of its address."""


_ALIVE = "/healthz"
"""Costs no more than a refusal, and whoever asks may end a server that does not answer."""
_OPEN = frozenset({"/", _ALIVE, "/readyz", "/metrics", "/openapi.json", "/docs"})
_ME = "/me"
_PAGE = "/page/"
_FEEDBACK = "/v1/feedback"
"""Waits for the database, not for a model."""
_WRITES = frozenset({"/kb/ingest", "/kb/correct", "/kb/delete"})


def needed_rights(request: Scope) -> RouteRights:
    """Return what a request needs, by its path and method."""
    path, works = request["path"], request["method"] == "POST"
    if path in _OPEN or path.startswith(_PAGE):
        return RouteRights(None, is_counted=path != _ALIVE)
    if path == _ME:
        return RouteRights("any")
    if path.startswith("/runs/"):
        return RouteRights("runs:read", "kb" if works else None)
    if path.startswith("/kb/"):
        scope: KeyScope = "kb:write" if path in _WRITES else "kb:read"
        is_large = path in ("/kb/ingest", "/kb/missing")
        return RouteRights(scope, "kb" if works else None, is_ingest=is_large)
    if path == _FEEDBACK:
        return RouteRights("ask", "kb" if works else None)
    return RouteRights("ask", "runs" if works else None)
