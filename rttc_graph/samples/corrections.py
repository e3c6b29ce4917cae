"""Ratings of runs with the right answers that come with them, and samples that are corrected."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Literal

from rttc_graph.errors import ConfigurationError
from rttc_graph.protocols import (
    Embedder,
    KnowledgeBase,
    NewSample,
    RatedRun,
    Rating,
    RatingStore,
)
from rttc_graph.protocols.managed_knowledge_base import ManagedKnowledgeBase, SampleFilter
from rttc_graph.samples.ingest import ingest
from rttc_graph.samples.rows import DEFAULT_DOMAIN
from rttc_graph.support.identity import check_texts, query_digest, sample_id

__all__ = ("Corrections", "CorrectionsPolicy", "calibration_rows", "correct_sample")

CorrectionsPolicy = Literal["store", "approve", "off"]
"""Fate of a right answer: a sample at once, a sample after approval, or nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Corrections:
    """Takes ratings, and makes samples of the right answers that come with them."""

    ratings: RatingStore
    knowledge_base: KnowledgeBase
    embedder: Embedder
    policy: CorrectionsPolicy = "approve"

    async def rate(self, rating: Rating, *, tenant: str, may_store: bool = True) -> RatedRun:
        """Store a rating in the place of an earlier one of the run.

        Args:
            rating: Its `correction` is set here.
            tenant: Tenant that the run belongs to.
            may_store: Whether a right answer may become a sample without approval; else it waits.

        Raises:
            ConfigurationError: The tenant has no such run, or the right answer cannot be a sample.
            BackendError: It was not stored.
        """
        corrects = rating.answer is not None and self.policy != "off"
        if rating.answer is not None:
            check_texts(rating.run_id, rating.answer)
        waiting = replace(rating, correction="pending" if corrects else "none")
        rated = await self.ratings.rate(waiting, tenant=tenant)
        if corrects and self.policy == "store" and may_store:
            return await self.approve(rating.run_id, tenant=tenant)
        return rated

    async def approve(self, run_id: str, *, tenant: str) -> RatedRun:
        """Make a sample of a run's question and its right answer.

        A later correction of the same question in its domain takes the sample's place.

        Raises:
            ConfigurationError: There is no right answer to approve.
            BackendError: It was not stored.
        """
        rated = await self._with_answer(run_id, tenant)
        sample = NewSample(
            question=rated.query,
            answer=rated.rating.answer or "",
            domain=rated.domain or rated.source_domain or DEFAULT_DOMAIN,
            external_id=f"correction:{query_digest(rated.query).hex()[:32]}",
            metadata={"corrected_run": run_id},
        )
        await ingest([sample], self.knowledge_base, self.embedder, tenant=tenant)
        return await self.ratings.rate(replace(rated.rating, correction="stored"), tenant=tenant)

    async def reject(self, run_id: str, *, tenant: str) -> RatedRun:
        """Turn a right answer down; what became a sample already stays one.

        Raises:
            ConfigurationError: There is no right answer to turn down.
        """
        rated = await self._with_answer(run_id, tenant)
        return await self.ratings.rate(replace(rated.rating, correction="rejected"), tenant=tenant)

    async def _with_answer(self, run_id: str, tenant: str) -> RatedRun:
        rated = await self.ratings.rated_run(run_id, tenant=tenant)
        if rated.rating.answer is None:
            raise ConfigurationError(
                f"the rating of run {run_id!r} came without a right answer: give one with "
                f"'rttc rate {run_id} wrong --answer TEXT'"
            )
        return rated


async def correct_sample(
    sample: str,
    knowledge_base: ManagedKnowledgeBase,
    embedder: Embedder,
    *,
    question: str | None = None,
    answer: str | None = None,
    tenant: str,
) -> str | None:
    """Store a sample's new texts, and return its id from then on.

    Domain, external id and metadata stay. The old texts go once the new ones are stored, so that a
    failure in between leaves both and loses neither.

    Args:
        sample: Id of the sample, its content hash.
        knowledge_base: Where it is stored.
        embedder: Made the vectors of the knowledge base.
        question: New question; `None` keeps the old one.
        answer: New answer; `None` keeps the old one.
        tenant: Tenant whose sample it is.

    Returns:
        `None` if the tenant has no such sample.

    Raises:
        ConfigurationError: A text cannot be stored.
        KnowledgeBaseError: The sample could not be read, stored or deleted.
    """
    which = SampleFilter(ids=(sample,))
    page = await knowledge_base.list_samples(which, tenant=tenant, limit=2)
    old = next((found for found in page.samples if found.id == sample), None)
    if old is None:
        return None
    kept = NewSample(
        question=old.question,
        answer=old.answer,
        domain=old.domain,
        external_id=old.external_id,
        metadata=old.metadata,
    )
    new = replace(
        kept,
        question=kept.question if question is None else question,
        answer=kept.answer if answer is None else answer,
    )
    if new == kept:
        return sample
    await ingest([new], knowledge_base, embedder, tenant=tenant)
    if old.external_id is None:  # else it has been replaced under that id
        await knowledge_base.delete_samples(which, tenant=tenant)
    return sample_id(new.question, new.answer, new.domain)


def calibration_rows(rated: Iterable[RatedRun]) -> list[dict[str, Any]]:
    """Return rated runs as questions with their right answers, as `rttc calibrate` reads them.

    Runs that were rated wrong without a right answer are left out, and so are corrections that were
    turned down.
    """
    rows: list[dict[str, Any]] = []
    for one in rated:
        answer = one.answered if one.rating.is_right else one.rating.answer
        if answer is None or one.rating.correction == "rejected":
            continue
        row = {"question": one.query, "answer": answer, "id": one.rating.run_id}
        domain = one.domain or one.source_domain
        rows.append(row if domain is None else {**row, "domain": domain})
    return rows
