"""Domains by name: one that nobody has is a typing mistake, and the error says what was meant."""

from __future__ import annotations

from rttc_graph.protocols.managed_knowledge_base import ManagedKnowledgeBase, SampleFilter
from rttc_graph.support.identity import unknown_domain

__all__ = ("check_domain",)


async def check_domain(
    knowledge_base: ManagedKnowledgeBase,
    domain: str | None,
    *,
    tenant: str,
    may_be_all: bool = True,
) -> None:
    """Do nothing if the tenant has samples in the domain, or if it is `None`.

    Args:
        knowledge_base: Has the samples.
        domain: The name that was given.
        tenant: Tenant of the samples.
        may_be_all: Whether the error may say to leave the domain out: not where that deletes.

    Raises:
        ConfigurationError: It has none; names the domains that there are.
    """
    if domain is None:
        return
    known = await knowledge_base.count_samples(SampleFilter(domain=domain), tenant=tenant)
    if domain not in known:
        every = await knowledge_base.count_samples(SampleFilter(), tenant=tenant)
        raise unknown_domain(domain, every, tenant=tenant, may_be_all=may_be_all)
