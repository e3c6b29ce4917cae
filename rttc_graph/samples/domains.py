"""Domains by name: one that nobody has is a typing mistake, and the error says what was meant."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches

from rttc_graph.errors import ConfigurationError
from rttc_graph.protocols.managed_knowledge_base import ManagedKnowledgeBase, SampleFilter

__all__ = ("check_domain", "unknown_domain")

_MOST_NAMED = 10


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


def unknown_domain(domain: str, known: Mapping[str, int], *, tenant: str) -> ConfigurationError:
    """Return the error about a domain without samples.

    Args:
        domain: The name that was given.
        known: Samples of each domain that there is.
        tenant: Whose domains.
    """
    if not known:
        return ConfigurationError(
            f"there is no domain {domain!r}: the knowledge base of tenant {tenant!r} is empty; "
            f"fill it with rttc kb ingest FILE --domain {domain}"
        )
    folded = {name.casefold(): name for name in known}
    near = get_close_matches(domain.casefold(), folded, n=1)
    meant = f", did you mean {folded[near[0]]!r}?" if near else ";"
    by_size = sorted(known, key=lambda name: (-known[name], name))
    named = ", ".join(f"{name!r} ({known[name]:,})" for name in by_size[:_MOST_NAMED])
    more = f" and {len(known) - _MOST_NAMED} more" if len(known) > _MOST_NAMED else ""
    return ConfigurationError(
        f"there is no domain {domain!r}{meant} tenant {tenant!r} has samples in {named}{more}"
    )
