"""Domains by name: one that nobody has is a typing mistake, and the error says what was meant."""

from __future__ import annotations

from collections.abc import Collection

from rttc_graph.errors import ConfigurationError
from rttc_graph.protocols.managed_knowledge_base import ManagedKnowledgeBase, SampleFilter
from rttc_graph.support.identity import known_names

__all__ = ("check_domain", "unknown_domain")


async def check_domain(
    knowledge_base: ManagedKnowledgeBase, domain: str | None, *, tenant: str
) -> None:
    """Do nothing if the tenant has samples in the domain, or if it is `None`.

    Raises:
        ConfigurationError: It has none; names the domains that there are.
    """
    if domain is None:
        return
    known = await knowledge_base.count_samples(SampleFilter(domain=domain), tenant=tenant)
    if domain not in known:
        every = await knowledge_base.count_samples(SampleFilter(), tenant=tenant)
        raise unknown_domain(domain, every, tenant=tenant)


def unknown_domain(domain: str, known: Collection[str], *, tenant: str) -> ConfigurationError:
    """Return the error about a domain without samples.

    Args:
        domain: The name that was given.
        known: The domains that there are.
        tenant: Tenant of the domains.
    """
    if not known:
        return ConfigurationError(
            f"tenant {tenant!r} has no domain {domain!r}: the knowledge base is empty; "
            f"fill it with rttc kb ingest FILE --domain {domain}"
        )
    return ConfigurationError(
        f"tenant {tenant!r} has no domain {domain!r}: {known_names(domain, sorted(known))}"
    )
