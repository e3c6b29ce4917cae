"""Figures for Prometheus: requests, queues, answers, tokens; never a text or a tenant's name."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector
from starlette.types import Scope

from rttc_graph.serving.admission.request_queue import RequestQueue
from rttc_graph.serving.admission.route_rights import QueueName
from rttc_graph.state import RttcOutput

__all__ = ("CONTENT_TYPE", "Metrics", "Reading")

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_METHODS = frozenset({"GET", "POST", "HEAD", "OPTIONS", "PUT", "DELETE", "PATCH"})


class HasStatus(Protocol):
    """An answer on its way."""

    status: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """Figures of a part of the server, read when they are asked for."""

    name: str
    """Name in `/metrics`."""
    help: str
    label: str
    """Name of what tells the figures apart."""
    read: Callable[[], Mapping[str, float]]
    """Returns the figures by the label's value; called often, so it must not wait for anything."""


class Metrics:
    """The figures of one application, in a registry of its own.

    Args:
        queues: The queues to look at.
        readings: Figures of the parts behind the routes.
    """

    def __init__(
        self, queues: Mapping[QueueName, RequestQueue], readings: Sequence[Reading] = ()
    ) -> None:
        self._registry = registry = CollectorRegistry()
        registry.register(_Readings(readings))
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
        self._runs = Counter(
            "rttc_runs",
            "Finished runs, by what became of them: accepted, below (τr) or declined.",
            ["policy", "arm", "outcome"],
            registry=registry,
        )
        self._unanswered = Counter(
            "rttc_runs_without_answer", "Runs that failed, by error.", ["error"], registry=registry
        )
        self._failures = Counter(
            "rttc_failures",
            "Failures that runs have survived, by the node in which they happened.",
            ["node"],
            registry=registry,
        )
        self._training_seconds = Histogram(
            "rttc_training_seconds",
            "Trainings of adapters.",
            buckets=_SECONDS,
            registry=registry,
        )
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

    def count_run(self, output: RttcOutput, *, policy: str) -> None:
        """Count a finished run.

        Args:
            output: What it has returned.
            policy: Policy by which it chose its arms.
        """
        self._runs.labels(policy, output["arm"], _outcome(output)).inc()
        for entry in output["ledger"]:
            if entry["event"] == "failed":
                self._failures.labels(entry["node"]).inc()
            elif entry["event"] == "trained":
                self._training_seconds.observe(entry["detail"].get("seconds", entry["seconds"]))
        self._answers.labels(output["arm"]).inc()
        self._run_seconds.labels(output["arm"]).observe(output["seconds"])
        for candidate in output["candidates"]:
            self._tokens.labels("prompt").inc(candidate["prompt_tokens"])
            self._tokens.labels("completion").inc(candidate["completion_tokens"])
            self._tokens.labels("trained").inc(candidate["trained_tokens"])
        for what in ("samples", "adapter"):
            self._recalls.labels(what, output["cache"][what]).inc()

    def count_unanswered(self, error: Exception) -> None:
        """Count a run that has ended without an answer."""
        self._unanswered.labels(type(error).__name__).inc()

    def text(self) -> bytes:
        """Return all figures as Prometheus reads them."""
        return generate_latest(self._registry)


class _Readings(Collector):
    """Reads the figures of parts as they are asked for."""

    def __init__(self, readings: Sequence[Reading]) -> None:
        self._readings = readings

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Yield a family of figures for each reading."""
        for reading in self._readings:
            family = GaugeMetricFamily(reading.name, reading.help, labels=[reading.label])
            for value, figure in reading.read().items():
                family.add_metric([value], figure)
            yield family


def _outcome(output: RttcOutput) -> str:
    if output["declined"]:
        return "declined"
    return "accepted" if output["accepted"] else "below"


def _inside(queue: RequestQueue) -> float:
    return queue.inside


def _waiting(queue: RequestQueue) -> float:
    return queue.waiting
