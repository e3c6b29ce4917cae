"""The seam to the solved questions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from rttc_graph.protocols.embedder import Vector
from rttc_graph.settings import SamplesChoice
from rttc_graph.state import Sample


@dataclass(frozen=True, slots=True, kw_only=True)
class NewSample:
    """A sample on its way into the knowledge base."""

    question: str
    answer: str
    domain: str
    external_id: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True, slots=True, kw_only=True)
class Ingested:
    """Result of an ingest; samples that are in neither number were stored already."""

    new: int
    updated: int = 0
    """Number of samples that replaced others of the domain with the same `external_id`, or that
    were stored with other metadata."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchResult:
    """Samples nearest first, and the revision of the domain they were read from."""

    samples: list[Sample]
    revision: int
    fallback: str = ""
    """Why another server was searched than the one that is meant for it; empty if none was."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DomainStats:
    """Size of one domain of the knowledge base."""

    domain: str
    samples: int
    revision: int
    bytes: int
    """Size of the tenant's rows on disk, indexes not included."""
    index: Literal["exact", "hnsw"]


class KnowledgeBase(Protocol):
    """Solved questions, searchable by meaning."""

    async def search(
        self,
        vector: Vector,
        *,
        k: int,
        domain: str | None,
        tenant: str,
        choice: SamplesChoice = "nearest",
    ) -> SearchResult:
        """Return `k` samples for `vector`, nearest first, all domains if `domain` is `None`.

        They are the nearest by cosine, or those that `rttc_graph.samples.selection.sift` chooses
        among the nearest `preselected(choice, k)`; fewer than `k` only if there are fewer.

        The revision is the domain's, or the sum over the tenant's domains; every change raises it.

        Raises:
            KnowledgeBaseError: The search failed.
        """
        ...

    async def missing(self, samples: Sequence[NewSample], *, tenant: str) -> list[bool]:
        """Tell for each sample whether `ingest` would change anything, so that it is embedded."""
        ...

    async def ingest(
        self, samples: Sequence[NewSample], vectors: Sequence[Vector], *, tenant: str
    ) -> Ingested:
        """Store the samples in one transaction.

        Samples that are stored already (same question, answer, domain, tenant) are skipped. A
        sample with the `external_id` of stored samples of the same domain and tenant, but another
        question or answer, replaces them. One that is stored under the same `external_id`, or
        without one like this one, gets the metadata that it comes with; without metadata it keeps
        what is stored.

        Raises:
            ConfigurationError: Two of the samples share an id in one domain, with different
                content.
            KnowledgeBaseError: Nothing of this call was stored.
        """
        ...

    async def delete(self, *, domain: str, tenant: str) -> int:
        """Delete a domain's samples and return how many there were."""
        ...

    async def stats(self, *, tenant: str) -> list[DomainStats]:
        """Return the size of each domain, by name."""
        ...
