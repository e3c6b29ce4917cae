"""Figures of a replica, which Ray exports for Prometheus from each node."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from rttc_graph.integrations.ray_serve.ray_library import serve_library
from rttc_graph.protocols import Generation, TrainedAdapter

__all__ = ("ReplicaMetrics",)


class ReplicaMetrics:
    """Figures of one replica of a policy model or trainer.

    Ray adds the tags `application`, `deployment` and `replica`, and `ray_` before the names.
    Requests, their seconds and errors, and whether a replica is healthy, Ray Serve counts itself.

    Args:
        resident: Returns the number and the bytes of the adapters in memory; `None` for a model
            that does not tell.
    """

    def __init__(self, resident: Callable[[], Mapping[str, float]] | None) -> None:
        metrics = serve_library().metrics
        self._resident = resident
        self._tokens = metrics.Counter(
            "rttc_replica_tokens", "Tokens by kind: prompt, completion, trained.", ("kind",)
        )
        self._adapters = metrics.Counter(
            "rttc_replica_adapter_calls",
            "Calls that found their adapter in memory (resident), or had to load it (loaded).",
            ("adapter",),
        )
        self._trainings = metrics.Histogram(
            "rttc_replica_training_seconds",
            "Trainings of adapters.",
            boundaries=[0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300],
        )
        self._in_memory = metrics.Gauge(
            "rttc_replica_resident", "Adapters in memory: their number and bytes.", ("what",)
        )

    def count_held(self, *, was_there: bool) -> None:
        """Count a call that names an adapter."""
        self._adapters.inc(tags={"adapter": "resident" if was_there else "loaded"})
        self._tell_resident()

    def count_answers(self, answers: Sequence[Generation]) -> None:
        """Count the tokens of answers."""
        self._count_tokens("prompt", sum(one.prompt_tokens for one in answers))
        self._count_tokens("completion", sum(one.completion_tokens for one in answers))

    def count_training(self, made: TrainedAdapter) -> None:
        """Count a training that has ended."""
        self._trainings.observe(made.seconds)
        self._count_tokens("trained", made.trained_tokens)
        self._tell_resident()

    def _count_tokens(self, kind: str, number: int) -> None:
        if number:
            self._tokens.inc(number, tags={"kind": kind})

    def _tell_resident(self) -> None:
        if self._resident is not None:
            for what, number in self._resident().items():
                self._in_memory.set(number, tags={"what": what})
