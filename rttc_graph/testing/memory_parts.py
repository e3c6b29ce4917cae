"""Knowledge base and ledger store in memory, for tests of graphs without a database.

They behave as those in Postgres do, which the suites in `rttc_graph.testing` hold them to; they
serve all event loops and threads of one process.
"""

from __future__ import annotations

import copy
import math
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from rttc_graph.errors import ConfigurationError, KnowledgeBaseError
from rttc_graph.protocols import (
    DomainStats,
    Ingested,
    NewSample,
    RunRecord,
    SearchResult,
    Vector,
)
from rttc_graph.protocols.managed_knowledge_base import (
    SampleFilter,
    SamplePage,
    StoredSample,
    checked_page,
    page_end,
)
from rttc_graph.samples.selection import preselected, sift
from rttc_graph.samples.unique_ids import check_ids
from rttc_graph.settings import SamplesChoice
from rttc_graph.state import Sample
from rttc_graph.support.identity import check_texts, checked_name, sample_id

__all__ = ("MemoryKnowledgeBase", "MemoryLedgerStore", "cosine")


@dataclass(slots=True)
class _Stored:
    sample: NewSample
    vector: tuple[float, ...]


@dataclass(slots=True)
class _Domain:
    revision: int = 0
    samples: dict[str, _Stored] = field(default_factory=dict[str, _Stored])


class MemoryKnowledgeBase:
    """A `ManagedKnowledgeBase` that compares a query with every sample."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._domains: dict[tuple[str, str], _Domain] = {}
        self._dimension: int | None = None

    async def search(
        self,
        vector: Vector,
        *,
        k: int,
        domain: str | None,
        tenant: str,
        choice: SamplesChoice = "nearest",
    ) -> SearchResult:
        """Return `k` samples for `vector`, nearest first by cosine."""
        if k < 1:
            raise ConfigurationError(f"k={k!r} must be at least 1")
        with self._lock:
            self._check_vector(vector)
            found = list(self._of(tenant, domain))
            rows = [row for one in found for row in one.samples.values()]
        compared = [(_sample(row, vector), row.vector) for row in rows]
        compared.sort(key=lambda pair: _nearest_first(pair[0]))
        near = compared[: preselected(choice, k)]
        if choice == "sift":
            near = [near[i] for i in sorted(sift(vector, [pair[1] for pair in near], k=k))]
        revision = sum(one.revision for one in found)
        return SearchResult(samples=[sample for sample, _ in near], revision=revision)

    async def missing(self, samples: Sequence[NewSample], *, tenant: str) -> list[bool]:
        """Tell for each sample whether an ingest would store or change it."""
        with self._lock:
            stored = {
                key: row.sample
                for one in self._of(tenant, None)
                for key, row in one.samples.items()
            }
            return [
                _key(sample) not in stored
                or bool(self._outdated(sample, tenant))
                or _has_other_metadata(stored[_key(sample)], sample)
                for sample in samples
            ]

    async def ingest(
        self, samples: Sequence[NewSample], vectors: Sequence[Vector], *, tenant: str
    ) -> Ingested:
        """Store the samples, in the place of others with their `external_id`."""
        checked_name("tenant", tenant)
        if len(samples) != len(vectors):
            raise ConfigurationError(
                f"there are {len(samples)} samples and {len(vectors)} vectors; give one for each"
            )
        for sample in samples:
            check_texts(sample.question, sample.answer, sample.metadata)
        check_ids(samples)
        rows = {_key(s): _Stored(s, tuple(v)) for s, v in zip(samples, vectors, strict=True)}
        with self._lock:
            for vector in vectors:
                self._check_vector(vector)
            return self._add(rows, samples, tenant)

    async def delete(self, *, domain: str, tenant: str) -> int:
        """Delete a domain's samples and return how many there were."""
        checked_name("domain", domain)
        with self._lock:
            found = next(self._of(tenant, domain), _Domain())
            count = len(found.samples)
            found.samples.clear()
            found.revision += bool(count)
            return count

    async def list_samples(
        self,
        which: SampleFilter,
        *,
        tenant: str,
        limit: int,
        after: str | None = None,
        with_vectors: bool = False,
    ) -> SamplePage:
        """Return a page of the samples that are meant, by domain and then by id."""
        place = checked_page(limit, after)
        with self._lock:
            stored = [
                _stored(row, with_vectors)
                for one in self._of(tenant, which.domain)
                for row in one.samples.values()
                if _is_meant(row.sample, which)
            ]
        behind = sorted((s for s in stored if (s.domain, s.id) > place), key=_by_domain_and_id)
        page = behind[:limit]
        return SamplePage(samples=page, next=page_end(page[-1]) if len(behind) > limit else None)

    async def count_samples(self, which: SampleFilter, *, tenant: str) -> dict[str, int]:
        """Return how many samples are meant, by domain."""
        with self._lock:
            return dict(
                Counter(
                    row.sample.domain
                    for one in self._of(tenant, which.domain)
                    for row in one.samples.values()
                    if _is_meant(row.sample, which)
                )
            )

    async def delete_samples(self, which: SampleFilter, *, tenant: str) -> int:
        """Delete the samples that are meant and return how many there were."""
        which.check_for_delete()
        deleted = 0
        with self._lock:
            for one in self._of(tenant, which.domain):
                gone = [key for key, row in one.samples.items() if _is_meant(row.sample, which)]
                for key in gone:
                    del one.samples[key]
                one.revision += bool(gone)
                deleted += len(gone)
        return deleted

    async def stats(self, *, tenant: str) -> list[DomainStats]:
        """Return the size of each domain, by name; bytes are those of its texts."""
        checked_name("tenant", tenant)
        with self._lock:
            return [
                DomainStats(
                    domain=name,
                    samples=len(one.samples),
                    revision=one.revision,
                    bytes=sum(
                        len(s.sample.question + s.sample.answer) for s in one.samples.values()
                    ),
                    index="exact",
                )
                for (owner, name), one in sorted(self._domains.items())
                if owner == tenant and one.samples
            ]

    def revision(self, domain: str | None, tenant: str) -> int | None:
        """Return the revision of a domain, or the sum over all; `None` if nothing is known."""
        with self._lock:
            found = [one.revision for one in self._of(tenant, domain)]
        return sum(found) if found else None

    def _of(self, tenant: str, domain: str | None) -> Iterator[_Domain]:
        checked_name("tenant", tenant)
        if domain is not None:
            checked_name("domain", domain)
        for (owner, name), one in self._domains.items():
            if owner == tenant and domain in (None, name):
                yield one

    def _outdated(self, sample: NewSample, tenant: str) -> list[str]:
        """Return the keys of the samples whose place this one takes."""
        domain = self._domains.get((tenant, sample.domain))
        if domain is None or sample.external_id is None:
            return []
        return [
            key
            for key, row in domain.samples.items()
            if row.sample.external_id == sample.external_id and key != _key(sample)
        ]

    def _add(self, rows: dict[str, _Stored], samples: Sequence[NewSample], tenant: str) -> Ingested:
        for row in rows.values():
            self._domains.setdefault((tenant, row.sample.domain), _Domain())
        outdated = [(sample, self._outdated(sample, tenant)) for sample in samples]
        replacing = {_key(sample): sample for sample, keys in outdated if keys}
        changed = {sample.domain for sample in replacing.values()}
        for sample, keys in outdated:
            for key in keys:
                self._domains[tenant, sample.domain].samples.pop(key, None)
        new, updated = 0, set(replacing)
        for key, row in rows.items():
            held = self._domains[tenant, row.sample.domain].samples
            if key not in held:
                held[key] = row
                changed.add(row.sample.domain)
                new += key not in replacing
                continue
            if key in replacing:
                held[key].sample = replace(held[key].sample, external_id=replacing[key].external_id)
            if _has_other_metadata(held[key].sample, row.sample):
                held[key] = row
                changed.add(row.sample.domain)
                updated.add(key)
        for name in changed:
            self._domains[tenant, name].revision += 1
        return Ingested(new=new, updated=len(updated))

    def _check_vector(self, vector: Vector) -> None:
        self._dimension = self._dimension or len(vector)
        if len(vector) != self._dimension:
            raise KnowledgeBaseError(
                f"a vector has dimension {len(vector)}, the others have {self._dimension}"
            )


def _has_other_metadata(stored: NewSample, given: NewSample) -> bool:
    """Tell whether a stored sample comes again under its own id, with other metadata."""
    is_same = stored.external_id == given.external_id
    return is_same and bool(given.metadata) and stored.metadata != given.metadata


class MemoryLedgerStore:
    """A `LedgerStore` that keeps its runs in `runs`, oldest first."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.runs: list[RunRecord] = []

    async def append(self, run: RunRecord) -> None:
        """Store one finished run; one whose id is stored already is left out."""
        checked_name("tenant", run.tenant)
        with self._lock:
            if all(stored.run_id != run.run_id for stored in self.runs):
                self.runs.append(copy.deepcopy(run))

    async def recent(self, *, tenant: str, count: int = 20) -> list[RunRecord]:
        """Return the tenant's last runs, newest first."""
        checked_name("tenant", tenant)
        with self._lock:
            found = [run for run in reversed(self.runs) if run.tenant == tenant]
        return copy.deepcopy(found[:count])


def _key(sample: NewSample) -> str:
    return sample_id(sample.question, sample.answer, checked_name("domain", sample.domain))


def _sample(row: _Stored, vector: Vector) -> Sample:
    sample: Sample = {
        "id": _key(row.sample),
        "question": row.sample.question,
        "answer": row.sample.answer,
        "domain": row.sample.domain,
        "similarity": cosine(row.vector, vector),
    }
    if row.sample.metadata:
        sample["metadata"] = copy.deepcopy(row.sample.metadata)
    return sample


def _stored(row: _Stored, with_vectors: bool) -> StoredSample:
    sample = row.sample
    return StoredSample(
        id=_key(sample),
        question=sample.question,
        answer=sample.answer,
        domain=sample.domain,
        external_id=sample.external_id,
        metadata=copy.deepcopy(sample.metadata),
        vector=list(row.vector) if with_vectors else None,
    )


def _by_domain_and_id(sample: StoredSample) -> tuple[str, str]:
    return sample.domain, sample.id


def _is_meant(sample: NewSample, which: SampleFilter) -> bool:
    named = {sample.external_id, _key(sample), _key(sample)[:8]}
    if which.ids is not None and not named & set(which.ids):
        return False
    if any(
        key not in sample.metadata or not _is_same_json(sample.metadata[key], value)
        for key, value in which.metadata.items()
    ):
        return False
    wanted = (which.contains or "").lower()
    return wanted in sample.question.lower() or wanted in sample.answer.lower()


def _is_same_json(one: object, other: object) -> bool:
    """Tell whether two values are the same JSON, where 1 is not true."""
    return isinstance(one, bool) == isinstance(other, bool) and one == other


def _nearest_first(sample: Sample) -> tuple[float, str]:
    return -sample["similarity"], sample["id"]


def cosine(first: Vector, second: Vector) -> float:
    """Return the cosine of the angle between two vectors of one length."""
    length = math.hypot(*first) * math.hypot(*second)
    cosine = sum(a * b for a, b in zip(first, second, strict=True)) / length
    return min(1.0, max(-1.0, cosine))
