"""`/me`: what a caller may do here, for pages that show only that."""

from __future__ import annotations

from fastapi import APIRouter
from pydantic import BaseModel, Field
from starlette.requests import Request

from rttc_graph.protocols.api_keys import KeyScope
from rttc_graph.serving.admission.authentication import request_caller
from rttc_graph.serving.http_errors import Problem

__all__ = ("me_router",)

_STATUSES = (401, 403, 429, 503)


class Me(BaseModel):
    """A caller."""

    tenant: str = Field(description="Whose samples and runs it works with, if it names no other.")
    any_tenant: bool = Field(description="Whether it may name another: the server has no keys.")
    scopes: list[KeyScope]


def me_router(*, default_tenant: str) -> APIRouter:
    """Return the route.

    Args:
        default_tenant: Tenant of callers without a key.
    """
    router = APIRouter(
        tags=["health"], responses={status: {"model": Problem} for status in _STATUSES}
    )

    @router.get("/me")
    async def tell_caller(request: Request) -> Me:
        """Tell what the caller's key opens; a key that is not known gets 401."""
        caller = request_caller(request.scope)
        return Me(
            tenant=caller.tenant or default_tenant,
            any_tenant=caller.tenant is None,
            scopes=list(caller.scopes),
        )

    return router
