"""Which domains a tenant's knowledge base has, so that a misspelt one is not answered from nothing.

A run in a domain without samples would be answered by the plain model alone, and look like any
other.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from rttc_graph.errors import ConfigurationError
from rttc_graph.protocols import KnowledgeBase
from rttc_graph.support.identity import unknown_domain

__all__ = ("KnownDomains",)

FRESH_SECONDS = 60.0
"""Time that a domain that was found counts as present, so runs pay for one look-up a minute."""

_MOST_TENANTS = 1_000
"""Most tenants whose domains are held at once."""


class KnownDomains:
    """The domains of a knowledge base by tenant, as of less than a minute ago.

    Args:
        knowledge_base: Is asked.
        clock: Seconds, monotonic.
    """

    def __init__(
        self, knowledge_base: KnowledgeBase, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._knowledge_base = knowledge_base
        self._clock = clock
        self._seen: dict[str, tuple[float, frozenset[str]]] = {}

    async def problem(self, domain: str, *, tenant: str) -> ConfigurationError | None:
        """Return what is wrong with a domain that a run names; `None` if it has samples.

        Raises:
            KnowledgeBaseError: The knowledge base cannot be asked.
        """
        now = self._clock()
        asked_at, names = self._seen.get(tenant, (0.0, frozenset[str]()))
        if domain in names and now - asked_at < FRESH_SECONDS:
            return None
        domains = await self._knowledge_base.stats(tenant=tenant)
        names = frozenset(one.domain for one in domains if one.samples)
        if len(self._seen) >= _MOST_TENANTS:
            self._seen.clear()
        self._seen[tenant] = (now, names)
        if domain in names:
            return None
        return unknown_domain(domain, names, tenant=tenant)
