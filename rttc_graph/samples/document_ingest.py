"""A document into a knowledge base, in the place of what an earlier version of it left there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rttc_graph.protocols import NewSample
from rttc_graph.protocols.managed_knowledge_base import (
    ManagedKnowledgeBase,
    SampleFilter,
    StoredSample,
)
from rttc_graph.samples.documents import SOURCE
from rttc_graph.samples.export import sample_pages
from rttc_graph.support.identity import sample_id
from rttc_graph.support.passages import KIND, PASSAGE

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ("delete_vanished", "vanished_passages")


async def vanished_passages(
    passages: Sequence[NewSample], knowledge_base: ManagedKnowledgeBase, *, tenant: str
) -> list[StoredSample]:
    """Return the stored passages that a document's new version does not have any more.

    Those whose id a new passage has are left out: an ingest puts that one in their place.

    Args:
        passages: All of the document, at least one, as `read_document` returns them.
        knowledge_base: Where they are stored, or will be.
        tenant: Tenant of the samples.
    """
    first = passages[0]
    mark: Mapping[str, object] = {KIND: PASSAGE, SOURCE: first.metadata[SOURCE]}
    which = SampleFilter(domain=first.domain, metadata=mark)
    kept = {sample_id(one.question, one.answer, one.domain) for one in passages}
    replaced = {one.external_id for one in passages}
    found: list[StoredSample] = []
    async for samples in sample_pages(knowledge_base, which, tenant=tenant):
        found += [s for s in samples if s.id not in kept and s.external_id not in replaced]
    return found


async def delete_vanished(
    passages: Sequence[NewSample], knowledge_base: ManagedKnowledgeBase, *, tenant: str
) -> int:
    """Delete the stored passages that a document's new version does not have; return how many.

    It is called after the new version was ingested, so that the document never lacks a passage.
    """
    gone = await vanished_passages(passages, knowledge_base, tenant=tenant)
    if not gone:
        return 0
    which = SampleFilter(domain=passages[0].domain, ids=tuple(one.id for one in gone))
    return await knowledge_base.delete_samples(which, tenant=tenant)
