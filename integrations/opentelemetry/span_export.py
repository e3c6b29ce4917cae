"""Sends spans by OTLP over HTTP, and hangs runs below the trace that a caller is in.

Where spans go is said by OpenTelemetry's own variables: OTEL_EXPORTER_OTLP_ENDPOINT,
OTEL_EXPORTER_OTLP_HEADERS, OTEL_SERVICE_NAME, OTEL_TRACES_SAMPLER and so on. They are sent on a
thread of the library's own, so a collector that is down costs no run anything but its spans.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator, MutableMapping
from contextlib import contextmanager
from importlib.metadata import version
from typing import Any

from opentelemetry import context, propagate
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from rttc_graph.integrations.opentelemetry.run_traces import RunTraces

__all__ = ("TraceParents", "exported_traces")

_SERVICE = "rttc-graph"

_Message = MutableMapping[str, Any]


@contextmanager
def exported_traces(*, with_texts: bool = False) -> Generator[RunTraces]:
    """Yield a handler whose spans are sent; those still in hand are sent when the block ends.

    Args:
        with_texts: Whether spans hold questions, answers and words of errors.
    """
    provider = TracerProvider(resource=_resource(), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    try:
        yield RunTraces(provider, with_texts=with_texts)
    finally:
        provider.shutdown()


def _resource() -> Resource:
    """Return who sends the spans: what OpenTelemetry's variables say, else our own name."""
    found = Resource.create({"service.version": version("rttc-graph")})
    if str(found.attributes["service.name"]).startswith("unknown_service"):
        found = found.merge(Resource({"service.name": _SERVICE}))
    return found


class TraceParents:
    """ASGI middleware that makes the trace in a request's headers the one its runs belong to.

    Args:
        app: The application.
    """

    def __init__(self, app: Callable[..., Awaitable[None]]) -> None:
        self._app = app

    async def __call__(
        self,
        scope: _Message,
        receive: Callable[[], Awaitable[_Message]],
        send: Callable[[_Message], Awaitable[None]],
    ) -> None:
        """Handle a request within its caller's trace (`traceparent` of W3C, by default)."""
        carried = {
            name.decode("latin-1"): value.decode("latin-1")
            for name, value in scope.get("headers", ())
        }
        token = context.attach(propagate.extract(carried))
        try:
            await self._app(scope, receive, send)
        finally:
            context.detach(token)
