"""Joins routes, queues, keys and limits into one ASGI application."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, cast

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from langchain_core.callbacks import BaseCallbackHandler
from langgraph.checkpoint.base import BaseCheckpointSaver
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import Response

from rttc_graph.errors import RttcError
from rttc_graph.graph import RttcParts
from rttc_graph.protocols import Embedder
from rttc_graph.protocols.api_keys import ApiKeyStore
from rttc_graph.protocols.managed_knowledge_base import ManagedKnowledgeBase
from rttc_graph.protocols.run_history import RunHistory
from rttc_graph.samples.corrections import Corrections
from rttc_graph.serving.admission.admission import Admission
from rttc_graph.serving.admission.authentication import Authentication
from rttc_graph.serving.admission.request_queue import RequestQueue
from rttc_graph.serving.admission.route_rights import QueueName
from rttc_graph.serving.http_errors import HttpError, as_http_error, first_problem, response_to
from rttc_graph.serving.metrics import Metrics, Reading
from rttc_graph.serving.openapi import describe
from rttc_graph.serving.routes.feedback_routes import feedback_router
from rttc_graph.serving.routes.health_routes import health_router
from rttc_graph.serving.routes.index_routes import INDEX, index_router, places
from rttc_graph.serving.routes.kb_routes import knowledge_base_router
from rttc_graph.serving.routes.langserve_routes import PATH, langserve_router
from rttc_graph.serving.routes.me_routes import me_router
from rttc_graph.serving.routes.openai_routes import openai_router
from rttc_graph.serving.routes.page_routes import page_router
from rttc_graph.serving.routes.run_routes import ToldCalibrations, run_router
from rttc_graph.serving.runs import Runner
from rttc_graph.serving.serve_options import ServeOptions

__all__ = ("ServedParts", "create_app")

_log = logging.getLogger(__name__)

_VERSION = version("rttc-graph")

_NO_ROUTE = "Not Found"
"""Words of Starlette for a path without a route; errors of ours say more."""

_SHOWN_CHARACTERS = 80

_KB_PLACES = 8
"""Searches at once: as many as the database has connections."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedParts:
    """Parts that a server offers; a part that is `None` has no routes."""

    parts: RttcParts | None = None
    """Parts of the graph, at `/rttc` and `/v1`."""
    knowledge_base: ManagedKnowledgeBase | None = None
    """Knowledge base, at `/kb`; needs `embedder` too."""
    embedder: Embedder | None = None
    """Embedder whose vectors the knowledge base holds."""
    corrections: Corrections | None = None
    """Ratings of runs, at `/v1/feedback`."""
    history: RunHistory | None = None
    """Finished runs, at `/runs`."""
    calibrations: ToldCalibrations | None = None
    """Tells a tenant's calibrations, at `/runs/calibrations`."""
    default_tenant: str = "default"
    """Tenant of callers without a key."""
    checkpointer: BaseCheckpointSaver[Any] | None = None
    """Keeps conversations; by default the server does, in memory."""
    callbacks: Sequence[BaseCallbackHandler] = ()
    """Handlers of LangChain's that hear of every run, as those of traces do."""
    readings: Sequence[Reading] = ()
    """Figures of the parts, for `/metrics`."""


async def _is_there() -> None:
    """Find nothing that keeps the server from answering."""


def create_app(
    served: ServedParts,
    *,
    options: ServeOptions | None = None,
    keys: ApiKeyStore | None = None,
    keys_required: bool = False,
    hosts: Sequence[str] = (),
    check: Callable[[], Awaitable[None]] = _is_there,
) -> FastAPI:
    """Return the application.

    Args:
        served: What is served.
        options: Limits.
        keys: Who may call; `None` lets everybody in, for hosts with an authentication of their own.
        keys_required: Refuse requests without a key even while there are no keys.
        hosts: Names in the `Host` header that are answered; all if there are none. Without keys
            this is the protection against DNS rebinding.
        check: Raises what keeps the server from answering, for `/readyz`.
    """
    options = options or ServeOptions()
    queues: dict[QueueName, RequestQueue] = {
        "runs": RequestQueue(options.concurrency, options.queue, options.queue_seconds),
        "kb": RequestQueue(_KB_PLACES, _KB_PLACES * 8, options.queue_seconds),
    }
    metrics = Metrics(queues, served.readings)
    app = FastAPI(title="rttc-graph", version=_VERSION, docs_url=None, redoc_url=None)
    app.include_router(health_router(metrics, check))
    app.include_router(page_router())
    app.include_router(me_router(default_tenant=served.default_tenant))
    has_knowledge_base = served.knowledge_base is not None and served.embedder is not None
    app.include_router(
        index_router(
            _VERSION,
            places(
                has_graph=served.parts is not None,
                has_feedback=served.corrections is not None,
                has_history=served.history is not None,
                has_knowledge_base=has_knowledge_base,
            ),
        )
    )
    if served.parts is not None:
        runner = Runner(
            served.parts,
            metrics,
            threads=options.threads,
            checkpointer=served.checkpointer,
            callbacks=served.callbacks,
        )
        app.include_router(openai_router(runner))
        app.include_router(langserve_router(runner, batch=options.batch))
    if served.corrections is not None:
        app.include_router(
            feedback_router(served.corrections, default_tenant=served.default_tenant)
        )
    if served.history is not None:
        app.include_router(
            run_router(
                served.history,
                calibrations=served.calibrations,
                default_tenant=served.default_tenant,
            )
        )
    if served.knowledge_base is not None and served.embedder is not None:
        app.include_router(
            knowledge_base_router(
                served.knowledge_base, served.embedder, default_tenant=served.default_tenant
            )
        )
    _speak_of_errors(app)
    describe(app)
    # The last one added is the outermost.
    authentication = Authentication(keys, required=keys_required)
    app.add_middleware(
        cast("Any", Admission),
        authentication=authentication,
        queues=queues,
        options=options,
        metrics=metrics,
    )
    if hosts:
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(hosts))
    if options.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(options.cors_origins),
            allow_methods=["GET", "POST"],
            allow_headers=["authorization", "content-type"],
        )
    return app


def _speak_of_errors(app: FastAPI) -> None:
    """Give every error the shape of its family of routes."""

    async def ours(request: Request, error: Exception) -> Response:
        assert isinstance(error, RttcError)
        shown = as_http_error(error)
        if shown is not error and shown.status >= 500:
            _log.warning("%s: %s", shown.status, error)  # the client gets less
        return response_to(shown, request.url.path)

    async def invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return response_to(HttpError(422, first_problem(error.errors())), request.url.path)

    async def http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        detail, path = str(error.detail), request.url.path
        if detail == _NO_ROUTE:
            shown_path = repr(path[:_SHOWN_CHARACTERS])
            detail = f"there is no {shown_path} here: GET {INDEX} lists what there is"
        shown = HttpError(error.status_code, detail, kind="HTTPException", headers=error.headers)
        return response_to(shown, request.url.path)

    async def misfit(request: Request, error: Exception) -> Response:
        """LangServe lets the errors of a batch's inputs out as they are."""
        assert isinstance(error, ValidationError)
        if not request.url.path.startswith(f"{PATH}/"):
            return await unexpected(request, error)
        return response_to(HttpError(422, first_problem(error.errors())), request.url.path)

    async def unexpected(request: Request, error: Exception) -> Response:
        kind = type(error).__name__  # its text may hold anything; the log has it
        shown = HttpError(500, f"unexpected {kind}; the server's log has it", kind="InternalError")
        return response_to(shown, request.url.path)

    app.add_exception_handler(Exception, unexpected)
    app.add_exception_handler(ValidationError, misfit)
    app.add_exception_handler(RttcError, ours)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, http)
