"""What an ingest would do: which samples are new, which take another's place or get metadata."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from rttc_graph.protocols import NewSample
from rttc_graph.protocols.managed_knowledge_base import (
    MAX_PAGE_SAMPLES,
    ManagedKnowledgeBase,
    SampleFilter,
    StoredSample,
)
from rttc_graph.samples import Samples
from rttc_graph.samples.ingest import DEFAULT_BATCH_SIZE, IngestProgress, batches, distinct
from rttc_graph.support.identity import sample_id

__all__ = ("MOST_UPDATES", "IngestPreview", "SampleUpdate", "preview_ingest")

MOST_UPDATES = 1000
"""Updates that a preview describes; the rest is only counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleUpdate:
    """A stored sample, and the one that would take its place by its id."""

    before: StoredSample
    after: NewSample


@dataclass(slots=True, kw_only=True)
class IngestPreview:
    """Changes that an ingest would make."""

    rows: int = 0
    """Usable rows; `new + updated + already`."""
    new: int = 0
    updated: int = 0
    already: int = 0
    """Rows that are there, or twice in the source."""
    refused: int = 0
    """Bad rows: without `skip_bad` they would keep the whole source from being stored."""
    updates: list[SampleUpdate] = field(default_factory=list[SampleUpdate])
    """The first `MOST_UPDATES`."""


async def preview_ingest(
    samples: Samples | Sequence[NewSample],
    knowledge_base: ManagedKnowledgeBase,
    *,
    tenant: str = "default",
    on_progress: Callable[[IngestProgress], None] | None = None,
) -> IngestPreview:
    """Return what `ingest` would do; nothing is embedded and nothing is stored.

    Args:
        samples: Something that can be iterated twice.
        knowledge_base: Where they would be stored.
        tenant: Tenant to store the samples for.
        on_progress: Called on the event loop; must not block.

    Raises:
        BadSampleError: As `ingest`.
        KnowledgeBaseError: The knowledge base cannot be read.
    """
    told = IngestPreview()
    seen: set[str] = set()
    async for batch, total in batches(samples, DEFAULT_BATCH_SIZE):
        missing = await _missing(batch, knowledge_base, tenant, seen)
        replaced = await _replaced(missing, knowledge_base, tenant)
        told.rows += len(batch)
        told.already += len(batch) - len(missing)
        told.updated += len(replaced)
        told.new += len(missing) - len(replaced)
        told.updates += replaced[: MOST_UPDATES - len(told.updates)]
        if on_progress is not None:
            on_progress(IngestProgress(rows=told.rows, total=total, stored=0))
    told.refused = samples.bad_count if isinstance(samples, Samples) else 0
    return told


async def _missing(
    batch: Sequence[NewSample], knowledge_base: ManagedKnowledgeBase, tenant: str, seen: set[str]
) -> list[NewSample]:
    """Return the samples that would be stored, once each, and remember them."""
    rows = distinct(batch)
    flags = await knowledge_base.missing(rows, tenant=tenant) if rows else []
    found: list[NewSample] = []
    for sample, is_missing in zip(rows, flags, strict=True):
        key = _key(sample)
        if is_missing and key not in seen:
            seen.add(key)
            found.append(sample)
    return found


async def _replaced(
    samples: Sequence[NewSample], knowledge_base: ManagedKnowledgeBase, tenant: str
) -> list[SampleUpdate]:
    """Return those samples that take the place of a stored one, with the stored one.

    That is the one with their id, or the same one with other metadata.
    """
    updates: list[SampleUpdate] = []
    for domain in sorted({sample.domain for sample in samples}):
        mine = [sample for sample in samples if sample.domain == domain]
        names = {name for sample in mine for name in (_key(sample), sample.external_id) if name}
        which = SampleFilter(domain=domain, ids=tuple(sorted(names)))
        page = await knowledge_base.list_samples(which, tenant=tenant, limit=MAX_PAGE_SAMPLES)
        stored = {one.id: one for one in page.samples}
        stored |= {one.external_id: one for one in page.samples if one.external_id is not None}
        for sample in mine:
            before = stored.get(sample.external_id or _key(sample))
            if before is not None:
                updates.append(SampleUpdate(before=before, after=sample))
    return updates


def _key(sample: NewSample) -> str:
    return sample_id(sample.question, sample.answer, sample.domain)
