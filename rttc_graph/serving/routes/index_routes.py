"""`/`: what this server has, for programs, and the page, for browsers; neither needs a key."""

from __future__ import annotations

from collections.abc import Mapping

from fastapi import APIRouter
from pydantic import BaseModel, Field
from starlette.requests import Request
from starlette.responses import Response

from rttc_graph.serving.routes.page_routes import first_page

__all__ = ("INDEX", "index_router", "places")

INDEX = "/"


class Index(BaseModel):
    """Name and places of a server."""

    name: str = "rttc-graph"
    version: str
    places: dict[str, str] = Field(description="Paths, and what is there.")


def places(
    *, has_graph: bool, has_feedback: bool, has_history: bool, has_knowledge_base: bool
) -> dict[str, str]:
    """Return the paths of a server that a newcomer wants, each with what is there."""
    found: dict[str, str] = {}
    if has_graph:
        found |= {
            "/v1/chat/completions": "POST a conversation, as to OpenAI; the model is rttc",
            "/rttc/invoke": "POST a question, as LangServe takes it; batch and stream beside it",
            "/rttc/playground/": "GET a page to try it on",
        }
    if has_feedback:
        found["/v1/feedback"] = "POST whether an answer was right, by its run_id"
    if has_history:
        found["/runs/list"] = "POST which finished runs; show, stats, calibrations beside it"
    if has_knowledge_base:
        found["/kb/search"] = (
            "POST a text or a vector; list, count, ingest, correct, delete beside it"
        )
    return found | {
        "/openapi.json": "GET every route, with what it takes and returns",
        "/readyz": "GET whether questions can be answered",
        "/metrics": "GET figures for Prometheus",
    }


def index_router(version: str, found: Mapping[str, str]) -> APIRouter:
    """Return the route.

    Args:
        version: Version of the server.
        found: What `places` returns.
    """
    router = APIRouter(tags=["health"])

    @router.get(
        INDEX,
        response_model=Index,
        responses={200: {"content": {"text/html": {"schema": {"type": "string"}}}}},
    )
    async def tell_places(request: Request) -> Response:
        """Tell what is here; a browser is shown the page."""
        if "text/html" in request.headers.get("accept", ""):
            return first_page(request)
        index = Index(version=version, places=dict(found))
        return Response(
            index.model_dump_json(),
            media_type="application/json",
            headers={"vary": "accept"},
        )

    return router
