"""A Ray cluster of several nodes on this machine, clients that ask it, and a node that is lost."""

from __future__ import annotations

import asyncio
import itertools
import os
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from rttc_graph.errors import RttcError
from rttc_graph.installation.local import LocalRttc
from rttc_graph.integrations.ray_serve.ray_library import ray_library
from rttc_graph.protocols import NewSample
from rttc_graph.samples.ingest import ingest
from rttc_graph.settings import RttcSettings
from rttc_graph.support.extras import require

__all__ = ("Answered", "Nodes", "ask_all", "fill", "nodes", "recovery_seconds")

DOMAIN = "words"
_STORE_BYTES = 80 * 2**20
_HEAD_CPUS = 4
"""Room for all replicas of a node that is lost."""

OWN_ONLY = 0.9999
"""Similarity at which no other question's samples or adapter are taken."""


@dataclass(frozen=True, slots=True)
class Nodes:
    """The nodes of a cluster on this machine."""

    cluster: Any
    workers: list[Any]

    def lose(self) -> None:
        """Kill a node on which a replica of the policy model runs, and not the cluster's head."""
        busy = {node_of(actor) for actor in policy_replicas()}
        found = next(one for one in self.workers if one.node_id in busy)
        self.workers.remove(found)
        self.cluster.remove_node(found, allow_graceful=False)

    def add(self) -> None:
        """Add a node."""
        self.workers.append(_worker(self.cluster))


def _worker(cluster: Any) -> Any:
    return cluster.add_node(num_cpus=1, object_store_memory=_STORE_BYTES)


def policy_replicas() -> list[dict[str, Any]]:
    """Return Ray's records of the replicas of policy models that live."""
    table: dict[str, dict[str, Any]] = ray_library()._private.state.actors()
    return [
        one
        for one in table.values()
        if "policy-model" in str(one.get("Name")) and one["State"] == "ALIVE"
    ]


def node_of(actor: dict[str, Any]) -> str:
    """Return the id of the node that an actor runs on."""
    return str(actor["Address"]["NodeID"])


@contextmanager
def nodes(count: int = 3) -> Generator[Nodes]:
    """Start a cluster of a head and workers, and connect this process with it."""
    os.environ.setdefault("RAY_worker_niceness", "0")  # as on a machine of their own
    ray = ray_library()
    utils = require("ray.cluster_utils", extra="ray", purpose="clusters for tests")
    cluster: Any = utils.Cluster(
        initialize_head=True,
        head_node_args={
            "num_cpus": _HEAD_CPUS,
            "object_store_memory": _STORE_BYTES,
            "include_dashboard": False,
        },
    )
    try:
        workers = [_worker(cluster) for _ in range(count - 1)]
        ray.init(address=cluster.address, log_to_driver=False)
        yield Nodes(cluster, workers)
    finally:
        ray.shutdown()
        cluster.shutdown()


@dataclass(frozen=True, slots=True)
class Answered:
    """One ask of a client."""

    question: str
    began: float
    """Reading of `time.monotonic()`."""
    seconds: float
    answer: str | None
    """`None` for an ask that was lost."""
    adapter: str | None
    events: tuple[str, ...] = ()
    """Events of the run's ledger."""
    error: str = ""


@dataclass(slots=True)
class _Bell:
    """Rings once, after so many asks."""

    after: int
    ring: Callable[[], None] | None
    asked: int = 0
    rang_at: float | None = field(default=None)

    async def count(self) -> None:
        self.asked += 1
        if self.ring is not None and self.asked == self.after:
            self.rang_at = time.monotonic()
            await asyncio.to_thread(self.ring)


SETTINGS = RttcSettings(
    policy="ttt",
    k=2,
    max_new_tokens=6,
    samples_similarity=OWN_ONLY,
    adapter_similarity=OWN_ONLY,
    reuse_loss=0.0,
    evidence_similarity=0.0,
    ttt_samples_per_step=64,
    ttt_min_steps=12,
    ttt_stop_loss=0.0,
    ttt_learning_rate=1e-2,
    budget_seconds=120.0,
)
"""Every question has an adapter of its own, and is answered with it."""


async def fill(local: LocalRttc, questions: int) -> list[str]:
    """Store a solved sample for each question, and return the questions."""
    asked = [f"which word has number {n}{n * 7 % 10}{n * 3 % 10}?" for n in range(questions)]
    samples = [
        NewSample(question=question, answer=f"{chr(97 + n % 26) * 3} {n}", domain=DOMAIN)
        for n, question in enumerate(asked)
    ]
    knowledge = local.knowledge
    await ingest(samples, knowledge.knowledge_base, knowledge.embedder, tenant=local.config.tenant)
    return asked


async def ask_all(
    local: LocalRttc,
    questions: Sequence[str],
    *,
    clients: int,
    after: int = 0,
    ring: Callable[[], None] | None = None,
) -> tuple[list[Answered], float | None]:
    """Ask questions by clients, each of which asks one after the other.

    Args:
        local: The installation.
        questions: Asked once each, in order.
        clients: Clients that ask at once.
        after: Asks after which `ring` is called, on a thread.
        ring: Does something to the cluster meanwhile.

    Returns:
        The answers, and the reading of `time.monotonic()` at which `ring` was called.
    """
    waiting, bell = iter(questions), _Bell(after, ring)
    found: list[Answered] = []

    async def client(mine: Iterator[str]) -> None:
        for question in mine:
            found.append(await _ask(local, question))
            await bell.count()

    await asyncio.gather(*(client(waiting) for _ in range(clients)))
    return found, bell.rang_at


async def _ask(local: LocalRttc, question: str) -> Answered:
    began = time.monotonic()
    try:
        result = await local.ask(question, domain=DOMAIN, settings=SETTINGS)
    except RttcError as exc:
        return Answered(question, began, time.monotonic() - began, None, None, error=str(exc))
    ledger = result["ledger"]
    return Answered(
        question,
        began,
        time.monotonic() - began,
        result["answer"],
        result["candidates"][-1]["adapter"],
        tuple(one["event"] for one in ledger),
        "; ".join(str(one["detail"]) for one in ledger if one["event"] == "failed"),
    )


def recovery_seconds(asked: Sequence[Answered], lost_at: float) -> float:
    """Return how long after a loss the last slow ask ended; 0 if none was slow.

    Slow is more than twice the 95th percentile of those that had ended before.
    """
    before = sorted(one.seconds for one in asked if one.began + one.seconds < lost_at)
    limit = 2 * before[int(0.95 * len(before))]
    ends = [
        one.began + one.seconds - lost_at
        for one in asked
        if one.began + one.seconds >= lost_at and one.seconds > limit
    ]
    return max(ends, default=0.0)


def in_turn(questions: Sequence[str], count: int) -> list[str]:
    """Return so many questions, all in turn."""
    return list(itertools.islice(itertools.cycle(questions), count))
