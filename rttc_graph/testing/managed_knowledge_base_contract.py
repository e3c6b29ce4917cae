"""What every knowledge base must do whose samples can be listed and deleted one by one."""

# ruff: noqa: D102 - the names of the tests say what they are for
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from rttc_graph.errors import ConfigurationError
from rttc_graph.protocols.managed_knowledge_base import (
    ManagedKnowledgeBase,
    SampleFilter,
    StoredSample,
)
from rttc_graph.support.identity import sample_id
from rttc_graph.testing.inputs import BAD_NAMES, ODD_NAMES, TENANT, at_angle, fill, new_sample

__all__ = ("ManagedKnowledgeBaseContract",)

_FILTERS: dict[str, tuple[SampleFilter, list[int]]] = {
    "none": (SampleFilter(), [1, 2, 3, 4]),
    "domain": (SampleFilter(domain="math"), [1, 2, 3]),
    "unknown-domain": (SampleFilter(domain="chess"), []),
    "external-id": (SampleFilter(ids=("b",)), [2]),
    "own-id": (SampleFilter(ids=(sample_id("question 1", "answer 1", "math"),)), [1]),
    "own-id-as-tables-show-it": (
        SampleFilter(ids=(sample_id("question 1", "answer 1", "math")[:8],)),
        [1],
    ),
    "several-ids": (SampleFilter(ids=("a", "c", "nobody")), [1, 4]),
    "no-ids": (SampleFilter(ids=()), []),
    "id-of-another-domain": (SampleFilter(domain="law", ids=("a",)), []),
    "metadata": (SampleFilter(metadata={"level": 1}), [1, 2]),
    "metadata-twice": (SampleFilter(metadata={"level": 1, "tag": "x"}), [2]),
    "metadata-is-not-true": (SampleFilter(metadata={"level": True}), []),
    "metadata-nested": (SampleFilter(metadata={"place": {"page": 1, "part": "a"}}), [3]),
    "metadata-part-of-nested": (SampleFilter(metadata={"place": {"page": 1}}), []),
    "metadata-null": (SampleFilter(metadata={"tag": None}), [4]),
    "contains-in-question": (SampleFilter(contains="TION 3"), [3]),
    "contains-in-answer": (SampleFilter(contains="Answer 4"), [4]),
    "contains-no-pattern": (SampleFilter(contains="question%"), []),
    "all-at-once": (
        SampleFilter(domain="math", ids=("a", "b"), metadata={"level": 1}, contains="2"),
        [2],
    ),
}
"""Filters, and the numbers of the samples that they mean."""


async def _fill(knowledge_base: ManagedKnowledgeBase) -> None:
    samples = [
        new_sample(1, external_id="a", metadata={"level": 1}),
        new_sample(2, external_id="b", metadata={"level": 1, "tag": "x"}),
        new_sample(3, metadata={"level": 2, "place": {"page": 1, "part": "a"}}),
        new_sample(4, "law", external_id="c", metadata={"tag": None}),
    ]
    await knowledge_base.ingest(samples, [at_angle(i) for i in range(4)], tenant=TENANT)


def _numbers(samples: Sequence[StoredSample]) -> list[int]:
    return sorted(int(sample.question.split()[1]) for sample in samples)


async def _all(
    knowledge_base: ManagedKnowledgeBase, which: SampleFilter, **more: Any
) -> list[StoredSample]:
    page = await knowledge_base.list_samples(which, tenant=TENANT, limit=100, **more)
    assert page.next is None
    return page.samples


class ManagedKnowledgeBaseContract:
    """Subclass it beside `KnowledgeBaseContract`; it needs the same fixture `knowledge_base`."""

    @pytest.mark.parametrize(("which", "expected"), _FILTERS.values(), ids=_FILTERS)
    async def test_a_filter_means_the_same_for_all(
        self, knowledge_base: ManagedKnowledgeBase, which: SampleFilter, expected: list[int]
    ) -> None:
        """Listed, counted and deleted are the same samples, and only those are gone then."""
        await _fill(knowledge_base)
        assert _numbers(await _all(knowledge_base, which)) == expected
        counted = await knowledge_base.count_samples(which, tenant=TENANT)
        assert sum(counted.values()) == len(expected)
        assert 0 not in counted.values()
        if which.is_empty:
            with pytest.raises(ConfigurationError, match="the filter names no sample"):
                await knowledge_base.delete_samples(which, tenant=TENANT)
            return
        assert await knowledge_base.delete_samples(which, tenant=TENANT) == len(expected)
        left = await _all(knowledge_base, SampleFilter())
        assert _numbers(left) == sorted({1, 2, 3, 4} - set(expected))
        stats = await knowledge_base.stats(tenant=TENANT)
        assert sum(domain.samples for domain in stats) == len(left)
        assert await knowledge_base.delete_samples(which, tenant=TENANT) == 0

    async def test_counts_are_by_domain(self, knowledge_base: ManagedKnowledgeBase) -> None:
        await _fill(knowledge_base)
        assert await knowledge_base.count_samples(SampleFilter(), tenant=TENANT) == {
            "math": 3,
            "law": 1,
        }
        which = SampleFilter(contains="question 4")
        assert await knowledge_base.count_samples(which, tenant=TENANT) == {"law": 1}

    async def test_a_stored_sample_is_listed_whole(
        self, knowledge_base: ManagedKnowledgeBase
    ) -> None:
        metadata = {"level": 3, "tags": ["a", "ü"], "nested": {"x": None, "y": 0.5}}
        sample = new_sample(1, external_id="row-1", metadata=metadata)
        await knowledge_base.ingest([sample, new_sample(2)], [at_angle(0)] * 2, tenant=TENANT)
        (found,) = await _all(knowledge_base, SampleFilter(ids=("row-1",)))
        assert found == StoredSample(
            id=sample_id("question 1", "answer 1", "math"),
            question="question 1",
            answer="answer 1",
            domain="math",
            external_id="row-1",
            metadata=metadata,
        )
        (bare,) = await _all(knowledge_base, SampleFilter(contains="question 2"))
        assert (bare.external_id, bare.metadata, bare.vector) == (None, {}, None)

    async def test_vectors_come_when_asked_for(self, knowledge_base: ManagedKnowledgeBase) -> None:
        await fill(knowledge_base, 1, first=30)
        (found,) = await _all(knowledge_base, SampleFilter(), with_vectors=True)
        assert found.vector == pytest.approx(at_angle(30), abs=1e-3)

    @pytest.mark.parametrize("limit", [1, 2, 3, 7, 8])
    async def test_pages_have_every_sample_once_in_order(
        self, knowledge_base: ManagedKnowledgeBase, limit: int
    ) -> None:
        for domain in ("b", "Z", "ä", "z:1"):
            await fill(knowledge_base, 2, domain=domain)
        listed: list[StoredSample] = []
        after: str | None = None
        for _ in range(9):
            page = await knowledge_base.list_samples(
                SampleFilter(), tenant=TENANT, limit=limit, after=after
            )
            assert 0 < len(page.samples) <= limit
            listed += page.samples
            after = page.next
            if after is None:
                break
        places = [(sample.domain, sample.id) for sample in listed]
        assert places == sorted(set(places))
        assert len(places) == 8

    async def test_a_list_goes_on_where_its_last_sample_was_deleted(
        self, knowledge_base: ManagedKnowledgeBase
    ) -> None:
        await fill(knowledge_base, 4)
        every = SampleFilter()
        page = await knowledge_base.list_samples(every, tenant=TENANT, limit=2)
        last = page.samples[-1].id
        await knowledge_base.delete_samples(SampleFilter(ids=(last,)), tenant=TENANT)
        rest = await _all(knowledge_base, every, after=page.next)
        assert len(rest) == 2
        assert not {s.id for s in rest} & {s.id for s in page.samples}

    async def test_other_tenants_samples_are_neither_listed_nor_deleted(
        self, knowledge_base: ManagedKnowledgeBase
    ) -> None:
        await _fill(knowledge_base)
        theirs = [new_sample(7, external_id="a", metadata={"level": 1})]
        await knowledge_base.ingest(theirs, [at_angle(0)], tenant="other")
        own = sample_id("question 7", "answer 7", "math")
        for which in (SampleFilter(ids=(own,)), SampleFilter(contains="question 7")):
            assert await _all(knowledge_base, which) == []
            assert await knowledge_base.count_samples(which, tenant=TENANT) == {}
            assert await knowledge_base.delete_samples(which, tenant=TENANT) == 0
        for which in (SampleFilter(ids=("a",)), SampleFilter(domain="math")):
            assert await knowledge_base.delete_samples(which, tenant=TENANT) > 0
        assert await knowledge_base.count_samples(SampleFilter(), tenant="other") == {"math": 1}

    async def test_a_deletion_raises_the_revision_of_the_domains_it_touches(
        self, knowledge_base: ManagedKnowledgeBase
    ) -> None:
        await _fill(knowledge_base)
        await knowledge_base.delete_samples(SampleFilter(ids=("a", "b")), tenant=TENANT)
        await knowledge_base.delete_samples(SampleFilter(ids=("a",)), tenant=TENANT)  # gone
        revisions = [
            (await knowledge_base.search(at_angle(0), k=1, domain=d, tenant=TENANT)).revision
            for d in ("math", "law")
        ]
        assert revisions == [2, 1]

    @pytest.mark.parametrize("name", ODD_NAMES.values(), ids=ODD_NAMES)
    async def test_any_text_may_be_an_id_or_in_a_sample(
        self, knowledge_base: ManagedKnowledgeBase, name: str
    ) -> None:
        sample = new_sample(1, name, external_id=name, metadata={name: name})
        await knowledge_base.ingest([sample, new_sample(2)], [at_angle(0)] * 2, tenant=TENANT)
        for which in (
            SampleFilter(domain=name),
            SampleFilter(ids=(name,)),
            SampleFilter(metadata={name: name}),
        ):
            assert _numbers(await _all(knowledge_base, which)) == [1]
        assert await _all(knowledge_base, SampleFilter(contains=name)) == []
        page = await knowledge_base.list_samples(SampleFilter(), tenant=TENANT, limit=1)
        rest = await _all(knowledge_base, SampleFilter(), after=page.next)
        assert _numbers([*page.samples, *rest]) == [1, 2]

    @pytest.mark.parametrize("name", BAD_NAMES.values(), ids=BAD_NAMES)
    async def test_a_name_that_nothing_can_have_is_refused(
        self, knowledge_base: ManagedKnowledgeBase, name: str
    ) -> None:
        which = SampleFilter(ids=("a",))
        calls = [
            knowledge_base.list_samples(SampleFilter(domain=name), tenant=TENANT, limit=1),
            knowledge_base.list_samples(which, tenant=name, limit=1),
            knowledge_base.count_samples(SampleFilter(domain=name), tenant=TENANT),
            knowledge_base.count_samples(which, tenant=name),
            knowledge_base.delete_samples(SampleFilter(domain=name), tenant=TENANT),
            knowledge_base.delete_samples(which, tenant=name),
        ]
        for call in calls:
            with pytest.raises(ConfigurationError, match=r"domain=|tenant="):
                await call

    @pytest.mark.parametrize(
        ("limit", "after", "message"),
        [
            (0, None, "limit=0"),
            (1001, None, "limit=1001"),
            (1, "", "after=''"),
            (1, "abc:math", "not the end of a page"),
            (1, f"{'g' * 64}:math", "not the end of a page"),
            (1, "0" * 64, "not the end of a page"),
        ],
    )
    async def test_a_page_that_makes_no_sense_is_refused(
        self, knowledge_base: ManagedKnowledgeBase, limit: int, after: str | None, message: str
    ) -> None:
        with pytest.raises(ConfigurationError, match=message):
            await knowledge_base.list_samples(
                SampleFilter(), tenant=TENANT, limit=limit, after=after
            )
