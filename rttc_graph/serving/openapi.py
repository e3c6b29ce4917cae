"""The OpenAPI document: what FastAPI finds, corrected where LangServe says what is not so."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from rttc_graph.serving.http_errors import Problem

__all__ = ("describe",)

_STREAMS = ("/rttc/stream", "/rttc/stream_log", "/rttc/stream_events")
_REFUSALS = ("400", "401", "403", "408", "413", "415", "422", "429", "500", "502", "503", "504")
_OPEN = ("/", "/healthz", "/readyz", "/metrics")


def describe(app: FastAPI) -> None:
    """Make `/openapi.json` say what the routes do."""
    made: dict[str, Any] = {}

    def document() -> dict[str, Any]:
        if not made:
            made.update(_document(app))
        return made

    openapi: Callable[[], dict[str, Any]] = document
    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's documented way


def _document(app: FastAPI) -> dict[str, Any]:
    schema = get_openapi(title=app.title, version=app.version, routes=app.routes)
    paths: dict[str, Any] = schema["paths"]
    schemas = schema.setdefault("components", {}).setdefault("schemas", {})
    schemas.setdefault("Problem", Problem.model_json_schema())
    for path, item in paths.items():
        for operation in item.values():
            if path.startswith("/rttc/"):
                _correct(path, operation)
            if path not in _OPEN:
                operation["security"] = [{"key": []}]
    schema["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    return schema


def _correct(path: str, operation: dict[str, Any]) -> None:
    """Describe an operation of LangServe's: it refuses as we do, and some of them stream."""
    problem = {"application/json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    for status in _REFUSALS:
        operation["responses"][status] = {"description": "Refused.", "content": problem}
    if path in _STREAMS:
        events = {"text/event-stream": {"schema": {"type": "string"}}}
        operation["responses"]["200"] = {"description": "Events.", "content": events}
    # LangServe's hashes of settings are switched off.
    operation["parameters"] = [
        given for given in operation.get("parameters", []) if given["name"] != "config_hash"
    ]
