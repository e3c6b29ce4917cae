"""`/healthz`, `/readyz` and `/metrics`, which need no key and tell nothing about anybody."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Literal

from fastapi import APIRouter
from pydantic import BaseModel
from starlette.responses import Response

from rttc_graph.errors import RttcError
from rttc_graph.serving.admission.shared_call import SharedCall
from rttc_graph.serving.http_errors import HttpError, Problem
from rttc_graph.serving.metrics import CONTENT_TYPE, Metrics

__all__ = ("health_router",)

_PATIENCE_SECONDS = 5.0


class Health(BaseModel):
    """The server is there."""

    status: Literal["ok"] = "ok"


def health_router(metrics: Metrics, check: Callable[[], Awaitable[None]]) -> APIRouter:
    """Return the routes.

    Args:
        metrics: What `/metrics` shows.
        check: Raises what keeps the server from answering.
    """
    router = APIRouter(tags=["health"])

    async def in_time() -> None:
        async with asyncio.timeout(_PATIENCE_SECONDS):
            await check()

    shared = SharedCall(in_time)  # however many ask, the database is asked once at a time

    @router.get("/healthz")
    async def tell_alive() -> Health:
        """Tell that the process is alive and its event loop free."""
        return Health()

    @router.get("/readyz", responses={503: {"model": Problem}})
    async def tell_ready() -> Health:
        """Tell whether questions can be answered: the database is there."""
        try:
            await shared()
        except (RttcError, TimeoutError) as exc:
            raise HttpError(
                503, "the database does not answer", kind="NotReady", retry_after_seconds=1
            ) from exc
        return Health()

    @router.get(
        "/metrics",
        response_class=Response,
        responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
    )
    async def show_metrics() -> Response:
        """Show the figures in the text format of Prometheus."""
        return Response(metrics.text(), headers={"content-type": CONTENT_TYPE})

    return router
