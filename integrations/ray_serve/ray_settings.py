"""Settings of the replicas on a Ray cluster; known without Ray."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import ClassVar

from pydantic import ConfigDict

from rttc_graph.errors import ConfigurationError
from rttc_graph.support.identity import checked_name

__all__ = ("RaySettings",)

_MAY_BE_ZERO = frozenset({"max_replicas", "trainers", "gpus", "cpus", "small_gpus", "small_cpus"})


@dataclass(frozen=True, slots=True, kw_only=True)
class RaySettings:
    """How many replicas there are of each part, and what each of them takes.

    Raises:
        ConfigurationError: A number is below its least, or `max_replicas` is below `min_replicas`.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    name: str = "rttc"
    """Beginning of the applications' names in the cluster; servers with the same one share
    replicas, so another installation needs another."""
    min_replicas: int = 1
    """Replicas of the policy model that are always there."""
    max_replicas: int = 0
    """Most replicas of the policy model, as requests demand; 0 keeps to `min_replicas`."""
    target_requests: float = 8.0
    """Requests in hand per replica that scaling aims at; the engine's batch has 16 rows."""
    most_requests: int = 32
    """Requests in hand per replica beyond which another replica is asked, also for an adapter that
    it does not hold: two batches."""
    adapters: int = 64
    """Adapters per replica that the cluster is told of. Which are in memory is up to
    `max_resident_bytes`."""
    trainers: int = 1
    """Replicas that train and do not answer; 0 trains on the replicas of the policy model."""
    most_trainings: int = 4
    """Trainings per trainer, the one that runs included; as many again may wait for a trainer."""
    judges: int = 1
    """Replicas of the reward model, where it is computed here and not asked for elsewhere."""
    embedders: int = 1
    """Replicas of the embedder, likewise."""
    cpus: float = 0.5
    """CPUs that a replica of the policy model or a trainer takes from the cluster's count."""
    gpus: float = 0.0
    """GPUs of the same, in parts too: 0.5 puts two on one GPU."""
    small_cpus: float = 0.1
    """CPUs of a reward model and of an embedder."""
    small_gpus: float = 0.0
    """GPUs of the same."""
    start_seconds: float = 600.0
    """Longest wait for all replicas to be ready, loading of the models included."""

    def __post_init__(self) -> None:
        checked_name("ray.name", self.name)
        for item in fields(self):
            value = getattr(self, item.name)
            if isinstance(value, str):
                continue
            is_allowed = value >= 0 if item.name in _MAY_BE_ZERO else value > 0
            if not is_allowed:
                least = "0 or more" if item.name in _MAY_BE_ZERO else "above 0"
                raise ConfigurationError(f"ray.{item.name}={value!r} must be {least}")
        if self.max_replicas and self.max_replicas < self.min_replicas:
            raise ConfigurationError(
                f"ray.max_replicas={self.max_replicas!r} is below ray.min_replicas="
                f"{self.min_replicas!r}: raise it, or leave it out to keep to that number"
            )
