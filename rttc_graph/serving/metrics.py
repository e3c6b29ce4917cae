"""Figures for Prometheus: requests, queues, answers, tokens; never a text or a tenant's name."""

from __future__ import annotations

import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.types import Scope

from rttc_graph.serving.admission.request_queue import RequestQueue
from rttc_graph.serving.admission.route_rights import QueueName
from rttc_graph.state import RttcOutput

__all__ = ("CONTENT_TYPE", "Metrics")

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_METHODS = frozenset({"GET", "POST", "HEAD", "OPTIONS", "PUT", "DELETE", "PATCH"})


class HasStatus(Protocol):
    """An answer on its way."""

    status: int | None


class Metrics:
    """The figures of one application, in a registry of its own.

    Args:
        queues: The queues to look at.
    """

    def __init__(self, queues: Mapping[QueueName, RequestQueue]) -> None:
        self._registry = registry = CollectorRegistry()
        self._requests = Counter(
            "rttc_requests", "Requests.", ["route", "method", "status"], registry=registry
        )
        self._seconds = Histogram(
            "rttc_request_seconds",
            "From the first byte of a request to the last of its answer, waiting included.",
            ["route"],
            buckets=_SECONDS,
            registry=registry,
        )
        self._hung_up = Counter(
            "rttc_hung_up", "Clients that left before their answer.", registry=registry
        )
        self._answers = Counter("rttc_answers", "Answers, by arm.", ["arm"], registry=registry)
        self._run_seconds = Histogram(
            "rttc_run_seconds", "Runs, by arm.", ["arm"], buckets=_SECONDS, registry=registry
        )
        self._tokens = Counter(
            "rttc_tokens", "Tokens of all arms, by kind.", ["kind"], registry=registry
        )
        self._recalls = Counter(
            "rttc_cache", "What the query-state cache had.", ["what", "result"], registry=registry
        )
        inside = Gauge("rttc_inside", "Requests being answered.", ["lane"], registry=registry)
        waiting = Gauge("rttc_waiting", "Requests in a queue.", ["lane"], registry=registry)
        for name, queue in queues.items():
            inside.labels(name).set_function(partial(_inside, queue))
            waiting.labels(name).set_function(partial(_waiting, queue))

    @contextmanager
    def request(self, scope: Scope, answer: HasStatus) -> Generator[None]:
        """Count a request and its time; one that ends without an answer has status 499."""
        started = time.monotonic()
        try:
            yield
        finally:
            route = getattr(scope.get("route"), "path", "other")
            method = scope["method"] if scope["method"] in _METHODS else "other"
            self._requests.labels(route, method, str(answer.status or 499)).inc()
            self._seconds.labels(route).observe(time.monotonic() - started)

    def hung_up(self) -> None:
        """Count a client that left."""
        self._hung_up.inc()

    def count_run(self, output: RttcOutput) -> None:
        """Count a finished run."""
        self._answers.labels(output["arm"]).inc()
        self._run_seconds.labels(output["arm"]).observe(output["seconds"])
        for candidate in output["candidates"]:
            self._tokens.labels("prompt").inc(candidate["prompt_tokens"])
            self._tokens.labels("completion").inc(candidate["completion_tokens"])
            self._tokens.labels("trained").inc(candidate["trained_tokens"])
        for what in ("samples", "adapter"):
            self._recalls.labels(what, output["cache"][what]).inc()

    def text(self) -> bytes:
        """Return all figures as Prometheus reads them."""
        return generate_latest(self._registry)


def _inside(queue: RequestQueue) -> float:
    return queue.inside


def _waiting(queue: RequestQueue) -> float:
    return queue.waiting
