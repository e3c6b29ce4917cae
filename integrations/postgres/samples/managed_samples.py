"""Samples listed, counted and deleted by a filter."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from psycopg.rows import DictRow

from rttc_graph.integrations.postgres.database_session import DatabaseSession
from rttc_graph.integrations.postgres.json_values import checked_jsonb, checked_text
from rttc_graph.protocols.managed_knowledge_base import (
    SampleFilter,
    SamplePage,
    StoredSample,
    page_end,
)

__all__ = ("counted_samples", "delete_listed", "listed_page")

_DIGEST_CHARACTERS = 64
_SHOWN = 8
"""Characters of an id that tables show: they name the sample too."""


@dataclass(frozen=True, slots=True)
class _Domain:
    id: int
    name: str
    samples: int


def listed_page(
    session: DatabaseSession,
    *,
    which: SampleFilter,
    tenant: str,
    limit: int,
    after: tuple[str, str],
    with_vectors: bool,
) -> SamplePage:
    """Return a page of the samples that are meant, by domain and then by id.

    Args:
        session: At work.
        which: The samples that are meant.
        tenant: Tenant of the samples.
        limit: Samples of the page.
        after: Domain and id of the sample that the page comes after.
        with_vectors: Whether each comes with its vector.
    """
    conditions = _conditions(which)
    last_domain, last_id = after
    samples: list[StoredSample] = []
    for domain in _domains(session, which, tenant):
        if domain.name < last_domain or len(samples) > limit:
            continue
        rows = session.rows(
            "listed_samples",
            domain_id=domain.id,
            tenant=tenant,
            after=bytes.fromhex(last_id) if domain.name == last_domain else b"",
            count=limit + 1 - len(samples),  # one more, to tell whether there is a next page
            with_texts=True,
            with_vectors=with_vectors,
            **conditions,
        )
        samples += [_stored(row, domain.name) for row in rows]
    page = samples[:limit]
    return SamplePage(samples=page, next=page_end(page[-1]) if len(samples) > limit else None)


def counted_samples(
    session: DatabaseSession, *, which: SampleFilter, tenant: str
) -> dict[str, int]:
    """Return how many samples are meant, by domain; domains without any are left out."""
    domains = _domains(session, which, tenant)
    if which == SampleFilter(domain=which.domain):
        return {domain.name: domain.samples for domain in domains}
    conditions = _conditions(which)
    counted = {
        domain.name: len(_matching(session, domain.id, tenant, conditions)) for domain in domains
    }
    return {name: count for name, count in counted.items() if count}


def delete_listed(session: DatabaseSession, *, which: SampleFilter, tenant: str) -> int:
    """Delete the samples that are meant and return how many there were."""
    conditions = _conditions(which)
    deleted = 0
    with session.connection.transaction():
        domain_ids = sorted(domain.id for domain in _domains(session, which, tenant))
        session.rows("share_domains", domain_ids=domain_ids)
        session.rows("lock_tenant_domains", tenant=tenant, domain_ids=domain_ids)
        for domain_id in domain_ids:
            ids = _matching(session, domain_id, tenant, conditions)
            if not ids:
                continue
            place = {"tenant": tenant, "domain_ids": [domain_id]}
            gone = len(session.rows("delete_outdated", ids=ids, **place))
            session.execute("count_samples", tenant=tenant, domain_id=domain_id, added=-gone)
            deleted += gone
    return deleted


def _domains(session: DatabaseSession, which: SampleFilter, tenant: str) -> list[_Domain]:
    """Return the tenant's domains in the order of a list, whatever the database's collation."""
    rows = session.rows("tenant_domains", tenant=tenant, domain=which.domain)
    domains = [_Domain(row["domain_id"], row["name"], row["samples"]) for row in rows]
    return sorted(domains, key=lambda domain: domain.name)


def _matching(
    session: DatabaseSession, domain_id: int, tenant: str, conditions: Mapping[str, Any]
) -> list[bytes]:
    rows = session.rows(
        "listed_samples",
        domain_id=domain_id,
        tenant=tenant,
        after=b"",
        count=None,
        with_texts=False,
        with_vectors=False,
        **conditions,
    )
    return [row["id"] for row in rows]


def _conditions(which: SampleFilter) -> dict[str, Any]:
    """Return a filter as the statements take it.

    Raises:
        ConfigurationError: PostgreSQL has no such text.
    """
    ids = None if which.ids is None else [checked_text("an id", one) for one in which.ids]
    contains = which.contains
    return {
        "external_ids": ids,
        "ids": [digest for one in ids or () if (digest := _digest(one)) is not None],
        "shown_ids": [part for one in ids or () if (part := _digest(one, _SHOWN)) is not None],
        "metadata": checked_jsonb("metadata", dict(which.metadata)),
        "contains": None if contains is None else checked_text("the text", contains),
    }


def _digest(one: str, characters: int = _DIGEST_CHARACTERS) -> bytes | None:
    if len(one) != characters or set(one) - set("0123456789abcdef"):
        return None
    return bytes.fromhex(one)


def _stored(row: DictRow, domain: str) -> StoredSample:
    vector = row["embedding"]
    return StoredSample(
        id=row["id"].hex(),
        question=row["question"],
        answer=row["answer"],
        domain=domain,
        external_id=row["external_id"],
        metadata=row["metadata"],
        vector=None
        if vector is None
        else vector.to_numpy().tolist(),  # a hundredth of to_list's time
    )
