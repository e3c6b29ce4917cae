"""What every knowledge base must do."""

# ruff: noqa: D102 - the names of the tests say what they are for
from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from rttc_graph.errors import ConfigurationError, KnowledgeBaseError
from rttc_graph.protocols import Ingested, KnowledgeBase, NewSample
from rttc_graph.settings import SamplesChoice
from rttc_graph.support.identity import sample_id
from rttc_graph.testing.inputs import (
    BAD_NAMES,
    ODD_NAMES,
    TENANT,
    at_angle,
    fill,
    new_sample,
    questions,
)

__all__ = ("KnowledgeBaseContract",)

NOTHING: dict[str, Any] = {}

COS_20, COS_25 = 0.93969, 0.90631
CHOICES: dict[SamplesChoice, list[float]] = {
    "nearest": [COS_20, COS_20],
    "sift": [COS_20, COS_25],
}
"""Similarities of what each choice takes of copies at 20° and another sample at -25°."""
OTHER = 99
"""Number of the other sample."""


async def _fill_with_copies(
    knowledge_base: KnowledgeBase, copies: int, *, domain_of_other: str = "math"
) -> None:
    """Store samples at 20°, and one on the other side of 0° that is a little farther off."""
    samples = [new_sample(number) for number in range(copies)]
    samples.append(new_sample(OTHER, domain_of_other))
    vectors = [*[at_angle(20)] * copies, at_angle(-25)]
    assert (await knowledge_base.ingest(samples, vectors, tenant=TENANT)).new == copies + 1


def _with_ids(written: str) -> list[NewSample]:
    """Return samples written as numbers, each followed by its id or nothing."""
    return [new_sample(int(w[0]), external_id=w[1:] or None) for w in written.split()]


async def _ingest_with_ids(knowledge_base: KnowledgeBase, written: str) -> Ingested:
    samples = _with_ids(written)
    vectors = [at_angle(int(word[0])) for word in written.split()]
    return await knowledge_base.ingest(samples, vectors, tenant=TENANT)


class KnowledgeBaseContract:
    """Subclass it and define the fixture `knowledge_base`: empty, for vectors of dimension 3."""

    async def test_the_nearest_come_first_with_their_cosine(
        self, knowledge_base: KnowledgeBase
    ) -> None:
        await fill(knowledge_base, 90)
        found = await knowledge_base.search(at_angle(0), k=3, domain="math", tenant=TENANT)
        assert questions(found.samples) == [0, 1, 2]
        # cos 0°, 1°, 2°; half precision keeps three decimals
        assert [s["similarity"] for s in found.samples] == pytest.approx(
            [1.0, 0.99985, 0.99939], abs=2e-3
        )

    async def test_a_sample_comes_back_whole(self, knowledge_base: KnowledgeBase) -> None:
        metadata = {"level": 3, "tags": ["a", "ü"], "nested": {"x": None, "y": 0.5}}
        sample = new_sample(1, external_id="row-1", metadata=metadata)
        await knowledge_base.ingest([sample], [at_angle(0)], tenant=TENANT)
        (found,) = (
            await knowledge_base.search(at_angle(0), k=1, domain="math", tenant=TENANT)
        ).samples
        assert found == {
            "similarity": pytest.approx(1.0, abs=1e-3),
            "id": sample_id("question 1", "answer 1", "math"),
            "question": "question 1",
            "answer": "answer 1",
            "domain": "math",
            "metadata": metadata,
        }

    @pytest.mark.parametrize(("k", "expected"), [(1, 1), (5, 5), (6, 5), (64, 5)])
    async def test_k_samples_come_back_while_there_are_k(
        self, knowledge_base: KnowledgeBase, k: int, expected: int
    ) -> None:
        await fill(knowledge_base, 5)
        found = await knowledge_base.search(at_angle(180), k=k, domain="math", tenant=TENANT)
        assert len(found.samples) == expected

    async def test_an_empty_knowledge_base_has_nothing_at_revision_0(
        self, knowledge_base: KnowledgeBase
    ) -> None:
        found = await knowledge_base.search(at_angle(0), k=3, domain=None, tenant=TENANT)
        assert (found.samples, found.revision) == ([], 0)
        assert await knowledge_base.stats(tenant=TENANT) == []

    async def test_a_domain_is_searched_alone_and_no_domain_is_all(
        self, knowledge_base: KnowledgeBase
    ) -> None:
        await fill(knowledge_base, 3)
        await fill(knowledge_base, 3, domain="law", first=90)
        near_law = at_angle(90)
        one = await knowledge_base.search(near_law, k=3, domain="math", tenant=TENANT)
        every = await knowledge_base.search(near_law, k=4, domain=None, tenant=TENANT)
        none = await knowledge_base.search(near_law, k=4, domain="chess", tenant=TENANT)
        assert questions(one.samples) == [2, 1, 0]
        assert questions(every.samples) == [90, 91, 92, 2]
        assert {s["domain"] for s in one.samples} == {"math"}
        assert (none.samples, none.revision) == ([], 0)

    async def test_tenants_do_not_see_each_other(self, knowledge_base: KnowledgeBase) -> None:
        await fill(knowledge_base, 3)
        await fill(knowledge_base, 2, tenant="other", first=10)
        for domain in ("math", None):
            mine = await knowledge_base.search(at_angle(10), k=9, domain=domain, tenant=TENANT)
            theirs = await knowledge_base.search(at_angle(0), k=9, domain=domain, tenant="other")
            assert questions(mine.samples) == [2, 1, 0]
            assert questions(theirs.samples) == [10, 11]
        assert await knowledge_base.missing([new_sample(10)], tenant=TENANT) == [True]
        assert await knowledge_base.delete(domain="math", tenant=TENANT) == 3
        assert [s.samples for s in await knowledge_base.stats(tenant="other")] == [2]
        left = await knowledge_base.search(at_angle(10), k=9, domain="math", tenant="other")
        assert len(left.samples) == 2

    async def test_sizes_do_not_depend_on_other_tenants(
        self, knowledge_base: KnowledgeBase
    ) -> None:
        await fill(knowledge_base, 3)
        alone = await knowledge_base.stats(tenant=TENANT)
        await fill(knowledge_base, 200, tenant="other", first=10)
        assert await knowledge_base.stats(tenant=TENANT) == alone
        await knowledge_base.delete(domain="math", tenant="other")
        assert await knowledge_base.stats(tenant=TENANT) == alone

    async def test_copies_crowd_another_sample_out_unless_sift_chooses(
        self, knowledge_base: KnowledgeBase
    ) -> None:
        await _fill_with_copies(knowledge_base, 15)
        for choice, expected in CHOICES.items():
            found = await knowledge_base.search(
                at_angle(0), k=2, domain="math", tenant=TENANT, choice=choice
            )
            assert [s["similarity"] for s in found.samples] == pytest.approx(expected, abs=2e-3)

    async def test_sift_chooses_among_the_nearest_eight_times_k(
        self, knowledge_base: KnowledgeBase
    ) -> None:
        await _fill_with_copies(knowledge_base, 16)  # the other one is the 17th
        found = await knowledge_base.search(
            at_angle(0), k=2, domain="math", tenant=TENANT, choice="sift"
        )
        assert [s["similarity"] for s in found.samples] == pytest.approx([COS_20] * 2, abs=2e-3)

    async def test_what_sift_chooses_comes_nearest_first(
        self, knowledge_base: KnowledgeBase
    ) -> None:
        await _fill_with_copies(knowledge_base, 5)
        found = await knowledge_base.search(
            at_angle(0), k=3, domain="math", tenant=TENANT, choice="sift"
        )  # a copy, the other one and then a second copy
        assert [s["similarity"] for s in found.samples] == pytest.approx(
            [COS_20, COS_20, COS_25], abs=2e-3
        )

    @pytest.mark.parametrize("k", [5, 6, 64])
    async def test_sift_returns_all_samples_where_there_are_no_more(
        self, knowledge_base: KnowledgeBase, k: int
    ) -> None:
        await fill(knowledge_base, 5)
        nearest, chosen = [
            await knowledge_base.search(at_angle(2), k=k, domain=None, tenant=TENANT, choice=choice)
            for choice in CHOICES
        ]
        assert len(chosen.samples) == 5
        assert chosen == nearest

    async def test_sift_chooses_within_the_domain_and_the_tenant(
        self, knowledge_base: KnowledgeBase
    ) -> None:
        await _fill_with_copies(knowledge_base, 5, domain_of_other="law")
        await knowledge_base.ingest([new_sample(OTHER + 1)], [at_angle(-25)], tenant="theirs")
        expected = {"math": [COS_20, COS_20], "law": [COS_25], None: [COS_20, COS_25]}
        for domain, similarities in expected.items():
            found = await knowledge_base.search(
                at_angle(0), k=2, domain=domain, tenant=TENANT, choice="sift"
            )
            assert [s["similarity"] for s in found.samples] == pytest.approx(similarities, abs=2e-3)
            assert OTHER + 1 not in questions(found.samples)

    async def test_the_same_sample_is_stored_once(self, knowledge_base: KnowledgeBase) -> None:
        twice = [new_sample(1), new_sample(2), new_sample(1)]
        vectors = [at_angle(1), at_angle(2), at_angle(3)]
        assert (await knowledge_base.ingest(twice, vectors, tenant=TENANT)).new == 2
        assert (await knowledge_base.ingest(twice, vectors, tenant=TENANT)).new == 0
        (stats,) = await knowledge_base.stats(tenant=TENANT)
        assert (stats.domain, stats.samples, stats.revision) == ("math", 2, 1)
        assert stats.bytes > 0

    @pytest.mark.parametrize(
        ("before", "given", "after", "counts"),
        [
            pytest.param("1x", "2x", "2", (0, 1), id="other-content"),
            pytest.param("1x 2y", "3x 4z", "2 3 4", (1, 1), id="one-of-several"),
            pytest.param("1x 2", "2x", "2", (0, 1), id="content-that-is-there"),
            pytest.param("1x 2y", "2x 1y", "1 2", (0, 2), id="two-that-swap"),
            pytest.param("1x 2y", "2x 3y", "2 3", (0, 2), id="a-chain"),
            pytest.param("1x", "1x", "1", (0, 0), id="the-same"),
            pytest.param("1x", "1y", "1", (0, 0), id="the-same-by-another-id"),
            pytest.param("1x", "2", "1 2", (1, 0), id="without-an-id"),
            pytest.param("1x 2y", "3x 3y", "3", (0, 1), id="two-by-one"),
        ],
    )
    async def test_a_sample_takes_the_place_of_the_one_with_its_id(
        self,
        knowledge_base: KnowledgeBase,
        before: str,
        given: str,
        after: str,
        counts: tuple[int, int],
    ) -> None:
        """Samples are numbers, each with its id."""
        await _ingest_with_ids(knowledge_base, before)
        others = await knowledge_base.ingest(
            [new_sample(9, "law", external_id="x")], [at_angle(9)], tenant=TENANT
        )
        theirs = await knowledge_base.ingest(
            [new_sample(9, external_id="x")], [at_angle(9)], tenant="other"
        )
        assert (others.new, theirs.new) == (1, 1)
        for expected in (counts, (0, 0)):  # and a second time nothing changes
            done = await _ingest_with_ids(knowledge_base, given)
            assert (done.new, done.updated) == expected
            found = await knowledge_base.search(at_angle(0), k=9, domain="math", tenant=TENANT)
            assert questions(found.samples) == [int(number) for number in after.split()]
            assert found.revision == 1 + (counts != (0, 0))
        assert await knowledge_base.missing(_with_ids(given), tenant=TENANT) == [False] * len(
            given.split()
        )
        stats = await knowledge_base.stats(tenant=TENANT)
        assert [(s.domain, s.samples) for s in stats] == [("law", 1), ("math", len(after.split()))]
        assert [s.samples for s in await knowledge_base.stats(tenant="other")] == [1]

    @pytest.mark.parametrize(
        ("before", "given", "kept", "is_changed"),
        [
            pytest.param(("x", {"p": 1}), ("x", {"p": 2}), {"p": 2}, True, id="by-its-id"),
            pytest.param((None, {"p": 1}), (None, {"p": 2}), {"p": 2}, True, id="without-ids"),
            pytest.param((None, NOTHING), (None, {"p": 2}), {"p": 2}, True, id="at-last"),
            pytest.param(("x", {"p": 1}), ("x", {"p": 1.0}), {"p": 1}, False, id="the-same"),
            pytest.param(("x", {"p": 1}), ("x", NOTHING), {"p": 1}, False, id="without-metadata"),
            pytest.param(("x", {"p": 1}), ("y", {"p": 2}), {"p": 1}, False, id="by-another-id"),
            pytest.param(("x", {"p": 1}), (None, {"p": 2}), {"p": 1}, False, id="by-no-id"),
        ],
    )
    async def test_a_sample_gets_the_metadata_that_it_comes_with(
        self, knowledge_base: KnowledgeBase, before: Any, given: Any, kept: Any, is_changed: bool
    ) -> None:
        """Each sample is its id and its metadata."""
        first, again = (
            new_sample(1, external_id=name, metadata=metadata) for name, metadata in (before, given)
        )
        await knowledge_base.ingest([first, new_sample(2)], [at_angle(0)] * 2, tenant=TENANT)
        assert await knowledge_base.missing([again], tenant=TENANT) == [is_changed]
        for updated in (int(is_changed), 0):  # and a second time nothing changes
            done = await knowledge_base.ingest([again], [at_angle(1)], tenant=TENANT)
            assert (done.new, done.updated) == (0, updated)
        found = await knowledge_base.search(at_angle(0), k=9, domain="math", tenant=TENANT)
        assert {s["question"]: s.get("metadata", {}) for s in found.samples} == {
            "question 1": kept,
            "question 2": {},
        }
        assert found.revision == 1 + is_changed
        assert await knowledge_base.missing([again], tenant=TENANT) == [False]

    async def test_metadata_comes_with_what_takes_a_place(
        self, knowledge_base: KnowledgeBase
    ) -> None:
        await _ingest_with_ids(knowledge_base, "1x 2")
        taking = new_sample(2, external_id="x", metadata={"p": 1})
        for updated in (1, 0):
            done = await knowledge_base.ingest([taking], [at_angle(2)], tenant=TENANT)
            assert (done.new, done.updated) == (0, updated)
        (found,) = (
            await knowledge_base.search(at_angle(0), k=9, domain="math", tenant=TENANT)
        ).samples
        assert (found["question"], found.get("metadata")) == ("question 2", {"p": 1})

    async def test_missing_tells_which_would_take_another_s_place(
        self, knowledge_base: KnowledgeBase
    ) -> None:
        await _ingest_with_ids(knowledge_base, "1x 2y")
        asked = _with_ids("1x 2x 1y 1z 2 3z")
        expected = [False, True, True, False, False, True]
        assert await knowledge_base.missing(asked, tenant=TENANT) == expected

    async def test_what_took_a_place_is_found_by_the_id_afterwards(
        self, knowledge_base: KnowledgeBase
    ) -> None:
        await _ingest_with_ids(knowledge_base, "1x 2")
        for given, left in (("2x", [2]), ("3x", [3]), ("4x", [4])):
            await _ingest_with_ids(knowledge_base, given)
            found = await knowledge_base.search(at_angle(0), k=9, domain="math", tenant=TENANT)
            assert questions(found.samples) == left

    async def test_two_contents_under_one_id_are_refused(
        self, knowledge_base: KnowledgeBase
    ) -> None:
        await _ingest_with_ids(knowledge_base, "1x")
        with pytest.raises(ConfigurationError, match=r"samples\[0\] and samples\[2\].*'y'"):
            await _ingest_with_ids(knowledge_base, "2y 3z 4y")
        found = await knowledge_base.search(at_angle(0), k=9, domain="math", tenant=TENANT)
        assert (questions(found.samples), found.revision) == ([1], 1)

    async def test_nothing_may_be_ingested(self, knowledge_base: KnowledgeBase) -> None:
        assert (await knowledge_base.ingest([], [], tenant=TENANT)).new == 0

    async def test_one_call_may_fill_several_domains(self, knowledge_base: KnowledgeBase) -> None:
        samples = [new_sample(i, f"domain {i % 3}") for i in range(9)]
        assert (await knowledge_base.ingest(samples, [at_angle(1)] * 9, tenant=TENANT)).new == 9
        stats = await knowledge_base.stats(tenant=TENANT)
        assert [(s.domain, s.samples) for s in stats] == [
            ("domain 0", 3),
            ("domain 1", 3),
            ("domain 2", 3),
        ]

    async def test_missing_tells_which_are_not_stored(self, knowledge_base: KnowledgeBase) -> None:
        await fill(knowledge_base, 2)
        asked = [new_sample(0), new_sample(5), new_sample(1), new_sample(1, "law")]
        assert await knowledge_base.missing(asked, tenant=TENANT) == [False, True, False, True]
        assert await knowledge_base.missing([], tenant=TENANT) == []

    async def test_the_revision_grows_with_each_change_of_its_domain(
        self, knowledge_base: KnowledgeBase
    ) -> None:
        async def revisions() -> tuple[int, ...]:
            return tuple(
                [
                    (
                        await knowledge_base.search(at_angle(0), k=1, domain=d, tenant=TENANT)
                    ).revision
                    for d in ("math", "law", None)
                ]
            )

        await fill(knowledge_base, 2)
        assert await revisions() == (1, 0, 1)
        await fill(knowledge_base, 2, domain="law")
        assert await revisions() == (1, 1, 2)
        await fill(knowledge_base, 1, first=5)
        await knowledge_base.ingest([new_sample(5)], [at_angle(5)], tenant=TENANT)  # nothing new
        assert await revisions() == (2, 1, 3)
        await knowledge_base.delete(domain="law", tenant=TENANT)
        await knowledge_base.delete(domain="law", tenant=TENANT)  # nothing left
        assert await revisions() == (2, 2, 4)

    async def test_a_deleted_domain_can_be_filled_again(
        self, knowledge_base: KnowledgeBase
    ) -> None:
        await fill(knowledge_base, 3)
        assert await knowledge_base.delete(domain="math", tenant=TENANT) == 3
        assert await knowledge_base.delete(domain="chess", tenant=TENANT) == 0
        assert await knowledge_base.stats(tenant=TENANT) == []
        await fill(knowledge_base, 2)
        found = await knowledge_base.search(at_angle(0), k=9, domain="math", tenant=TENANT)
        assert (questions(found.samples), found.revision) == ([0, 1], 3)

    @pytest.mark.parametrize("domain", ODD_NAMES.values(), ids=ODD_NAMES)
    async def test_any_text_may_name_a_domain(
        self, knowledge_base: KnowledgeBase, domain: str
    ) -> None:
        await fill(knowledge_base, 2, domain=domain)
        await fill(knowledge_base, 1, tenant=domain)
        found = await knowledge_base.search(at_angle(0), k=9, domain=domain, tenant=TENANT)
        assert [s["domain"] for s in found.samples] == [domain, domain]
        assert [s.domain for s in await knowledge_base.stats(tenant=TENANT)] == [domain]
        assert await knowledge_base.delete(domain=domain, tenant=TENANT) == 2

    @pytest.mark.parametrize("name", BAD_NAMES.values(), ids=BAD_NAMES)
    async def test_a_name_that_cannot_be_kept_is_refused(
        self, knowledge_base: KnowledgeBase, name: str
    ) -> None:
        here = at_angle(0)
        calls = [
            knowledge_base.ingest([new_sample(1, name)], [here], tenant=TENANT),
            knowledge_base.ingest([new_sample(1)], [here], tenant=name),
            knowledge_base.search(here, k=1, domain=name, tenant=TENANT),
            knowledge_base.search(here, k=1, domain=None, tenant=name),
            knowledge_base.missing([new_sample(1, name)], tenant=TENANT),
            knowledge_base.delete(domain=name, tenant=TENANT),
            knowledge_base.stats(tenant=name),
        ]
        for call in calls:
            with pytest.raises(ConfigurationError, match=r"domain=|tenant="):
                await call
        assert await knowledge_base.stats(tenant=TENANT) == []

    async def test_a_vector_of_another_length_is_refused(
        self, knowledge_base: KnowledgeBase
    ) -> None:
        await fill(knowledge_base, 1)
        with pytest.raises(KnowledgeBaseError, match="dimension 2"):
            await knowledge_base.search([1.0, 0.0], k=1, domain=None, tenant=TENANT)
        with pytest.raises(KnowledgeBaseError, match="dimension 4"):
            await knowledge_base.ingest([new_sample(2)], [[1.0, 0, 0, 0]], tenant=TENANT)

    async def test_a_call_that_makes_no_sense_is_refused(
        self, knowledge_base: KnowledgeBase
    ) -> None:
        with pytest.raises(ConfigurationError, match="2 samples and 1 vectors"):
            await knowledge_base.ingest(
                [new_sample(1), new_sample(2)], [at_angle(0)], tenant=TENANT
            )
        with pytest.raises(ConfigurationError, match="k=0"):
            await knowledge_base.search(at_angle(0), k=0, domain=None, tenant=TENANT)

    async def test_ingests_at_the_same_time_store_each_sample_once(
        self, knowledge_base: KnowledgeBase
    ) -> None:
        samples = [new_sample(i, f"domain {i % 2}") for i in range(40)]
        vectors = [at_angle(i) for i in range(40)]
        orders = [range(40), range(39, -1, -1), range(20, 40), range(20)]
        stored = await asyncio.gather(
            *(
                knowledge_base.ingest(
                    [samples[i] for i in order], [vectors[i] for i in order], tenant=TENANT
                )
                for order in orders
            )
        )
        assert sum(done.new for done in stored) == 40
        assert sum(s.samples for s in await knowledge_base.stats(tenant=TENANT)) == 40

    @pytest.mark.parametrize(
        "texts",
        [
            {"question": ""},
            {"question": " \n"},
            {"answer": "\t"},
            {"question": "q" * 100_001},
            {"answer": "a" * 100_001},
            {"metadata": {"text": "m" * 100_001}},
        ],
        ids=["question", "blank-question", "answer", "long-question", "long-answer", "metadata"],
    )
    async def test_blank_and_endless_texts_are_not_stored(
        self, knowledge_base: KnowledgeBase, texts: dict[str, Any]
    ) -> None:
        samples = [new_sample(1), replace(new_sample(2), **texts)]
        with pytest.raises(ConfigurationError):
            await knowledge_base.ingest(samples, [at_angle(1), at_angle(2)], tenant=TENANT)
        assert await knowledge_base.missing([new_sample(1)], tenant=TENANT) == [True]
