"""What it takes to keep a knowledge base: list, count and delete its samples one by one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from rttc_graph.errors import ConfigurationError
from rttc_graph.protocols.knowledge_base import KnowledgeBase

__all__ = (
    "MAX_PAGE_SAMPLES",
    "ManagedKnowledgeBase",
    "SampleFilter",
    "SamplePage",
    "StoredSample",
    "checked_page",
    "page_end",
)

MAX_PAGE_SAMPLES = 1000
"""Most samples of one page: at 100,000 characters each they still fit in memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleFilter:
    """Which samples are meant: those for which all of these hold."""

    domain: str | None = None
    """They are in this domain; `None` for any."""
    ids: tuple[str, ...] | None = None
    """Their id, its first eight characters, or the id that they came with is one of these; `None`
    for any."""
    metadata: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Their metadata has these values under these keys; JSON."""
    contains: str | None = None
    """Their question or answer has this text in it, whatever the case; `None` for any."""

    @property
    def is_empty(self) -> bool:
        """Whether it says nothing, so that every sample of the tenant is meant."""
        return (
            self.domain is None and self.ids is None and not self.metadata and self.contains is None
        )

    def check_for_delete(self) -> None:
        """Do nothing if it names some condition.

        Raises:
            ConfigurationError: It names none, and deleting everything is never meant by accident.
        """
        if self.is_empty:
            raise ConfigurationError(
                "the filter names no sample, so everything would be deleted: give a domain, ids, "
                "metadata or a text"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredSample:
    """A sample as it lies in the knowledge base."""

    id: str
    """Hexadecimal content hash, as of `Sample`."""
    question: str
    answer: str
    domain: str
    external_id: str | None = None
    """The id that it came with."""
    metadata: dict[str, Any] = field(default_factory=dict[str, Any])
    vector: list[float] | None = None
    """Vector of unit length, to half precision; only if it was asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplePage:
    """Some samples of a list, by domain and id."""

    samples: list[StoredSample]
    next: str | None
    """Value of `after` for the next page; `None` at the end of the list."""


class ManagedKnowledgeBase(KnowledgeBase, Protocol):
    """A knowledge base whose samples can be looked at and deleted one by one.

    A graph needs only `KnowledgeBase`; this is for the people who keep one.
    """

    async def list_samples(
        self,
        which: SampleFilter,
        *,
        tenant: str,
        limit: int,
        after: str | None = None,
        with_vectors: bool = False,
    ) -> SamplePage:
        """Return a page of the samples that are meant, by domain and then by id.

        A list that is read page by page has every sample that is there from its first page to its
        last, once.

        Args:
            which: The samples that are meant.
            tenant: Tenant of the samples.
            limit: Samples of the page, 1 to `MAX_PAGE_SAMPLES`.
            after: `SamplePage.next` of the page before; the first page without.
            with_vectors: Whether each comes with its vector.

        Raises:
            ConfigurationError: `limit` is out of range, or `after` is of no page.
            KnowledgeBaseError: The samples cannot be read.
        """
        ...

    async def count_samples(self, which: SampleFilter, *, tenant: str) -> dict[str, int]:
        """Return how many samples are meant, by domain; domains without any are left out."""
        ...

    async def delete_samples(self, which: SampleFilter, *, tenant: str) -> int:
        """Delete the samples that are meant, in one transaction, and return how many there were.

        The revision of each domain that lost one grows.

        Raises:
            ConfigurationError: The filter is empty.
            KnowledgeBaseError: Nothing was deleted.
        """
        ...


def checked_page(limit: int, after: str | None) -> tuple[str, str]:
    """Return domain and id of the sample that a page comes after, both empty for the first page.

    Args:
        limit: Samples of the page.
        after: `SamplePage.next` of the page before, made by `page_end`.

    Raises:
        ConfigurationError: `limit` is out of range, or `after` is of no page.
    """
    if not 1 <= limit <= MAX_PAGE_SAMPLES:
        raise ConfigurationError(f"limit={limit!r} must be 1 to {MAX_PAGE_SAMPLES}")
    if after is None:
        return "", ""
    digest, _, domain = after.partition(":")
    if not domain or len(digest) != 64 or set(digest) - set("0123456789abcdef"):
        raise ConfigurationError(
            f"after={after[:80]!r} is not the end of a page: give the page's 'next', or nothing"
        )
    return domain, digest


def page_end(sample: StoredSample) -> str:
    """Return what continues a list behind a sample."""
    return f"{sample.id}:{sample.domain}"
