"""Ingest stores all or says why, never embeds twice, and goes on where a broken one stopped."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest

from rttc_graph.errors import (
    BadSampleError,
    ConfigurationError,
    EmbeddingError,
    KnowledgeBaseError,
)
from rttc_graph.protocols import DomainStats, Ingested, NewSample, SearchResult, Vector
from rttc_graph.samples import read_samples
from rttc_graph.samples.ingest import IngestProgress, ingest
from rttc_graph.settings import SamplesChoice


class ListKnowledgeBase:
    """Keeps samples in a list; the call `fails_at` (1-based) raises and stores nothing."""

    def __init__(self, *, fails_at: int = 0) -> None:
        self.stored: list[tuple[str, NewSample, list[float]]] = []
        self.calls: list[int] = []
        self._fails_at = fails_at

    def _has(self, sample: NewSample, tenant: str) -> bool:
        key = (tenant, sample.question, sample.answer, sample.domain)
        return any(key == (t, s.question, s.answer, s.domain) for t, s, _ in self.stored)

    async def missing(self, samples: Sequence[NewSample], *, tenant: str) -> list[bool]:
        return [not self._has(sample, tenant) for sample in samples]

    async def ingest(
        self, samples: Sequence[NewSample], vectors: Sequence[Vector], *, tenant: str
    ) -> Ingested:
        self.calls.append(len(samples))
        if len(self.calls) == self._fails_at:
            raise KnowledgeBaseError("gone", retryable=True)
        new = [
            (tenant, sample, list(vector))
            for sample, vector in zip(samples, vectors, strict=True)
            if not self._has(sample, tenant)
        ]
        self.stored += new
        return Ingested(new=len(new))

    async def search(
        self,
        vector: Vector,
        *,
        k: int,
        domain: str | None,
        tenant: str,
        choice: SamplesChoice = "nearest",
    ) -> SearchResult:
        raise AssertionError("an ingest does not search")

    async def delete(self, *, domain: str, tenant: str) -> int:
        raise AssertionError("an ingest does not delete")

    async def stats(self, *, tenant: str) -> list[DomainStats]:
        raise AssertionError("an ingest does not ask for sizes")


class CountingEmbedder:
    """Embeds a text as its length; raises once `capacity` texts are used up."""

    name = "lengths"

    def __init__(self, *, capacity: int = 10_000) -> None:
        self.texts: list[str] = []
        self._capacity = capacity

    async def fingerprint(self) -> str:
        return "lengths"

    async def dimension(self) -> int:
        return 1

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        if len(self.texts) + len(texts) > self._capacity:
            raise EmbeddingError("full")
        self.texts += texts
        return [[float(len(text))] for text in texts]


def samples(count: int, *, domain: str = "d") -> list[NewSample]:
    return [NewSample(question="q" * (n + 1), answer="a", domain=domain) for n in range(count)]


@pytest.mark.usefixtures("no_blocking_calls")
async def test_a_file_is_stored_batch_by_batch_with_its_own_vectors(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    rows = [f'{{"question": "{"q" * n}", "answer": "a"}}\n' for n in range(1, 8)]
    await asyncio.to_thread(path.write_text, "".join(rows))
    knowledge_base, embedder = ListKnowledgeBase(), CountingEmbedder()
    source = await asyncio.to_thread(read_samples, path)
    report = await ingest(source, knowledge_base, embedder, tenant="t", batch_size=3)
    assert knowledge_base.calls == [3, 3, 1]
    assert [(t, s.question, v) for t, s, v in knowledge_base.stored] == [
        ("t", "q" * n, [float(n)]) for n in range(1, 8)
    ]
    assert (report.rows, report.stored, report.already, report.skipped) == (7, 7, 0, 0)
    assert 0 <= report.embed_seconds <= report.seconds


async def test_a_second_ingest_embeds_and_stores_nothing() -> None:
    knowledge_base, embedder = ListKnowledgeBase(), CountingEmbedder()
    await ingest(samples(5), knowledge_base, embedder)
    report = await ingest(samples(6), knowledge_base, embedder)
    assert (report.rows, report.stored, report.already) == (6, 1, 5)
    assert len(embedder.texts) == 6


async def test_another_tenant_gets_samples_of_its_own() -> None:
    knowledge_base, embedder = ListKnowledgeBase(), CountingEmbedder()
    await ingest(samples(2), knowledge_base, embedder, tenant="one")
    report = await ingest(samples(2), knowledge_base, embedder, tenant="two")
    assert report.stored == 2


@pytest.mark.parametrize("batch_size", [2, 100], ids=["across-batches", "within-a-batch"])
async def test_a_row_that_is_there_twice_is_embedded_once(batch_size: int) -> None:
    knowledge_base, embedder = ListKnowledgeBase(), CountingEmbedder()
    twice = [*samples(3), *samples(3)]
    report = await ingest(twice, knowledge_base, embedder, batch_size=batch_size)
    assert (report.rows, report.stored, report.already) == (6, 3, 3)
    assert len(embedder.texts) == 3


@pytest.mark.parametrize("batch_size", [1, 100], ids=["across-batches", "within-a-batch"])
@pytest.mark.parametrize("unique_ids", [False, True])
async def test_two_contents_under_one_id_store_nothing(
    tmp_path: Path, batch_size: int, unique_ids: bool
) -> None:
    path = tmp_path / "x.jsonl"
    rows = [("1", "a", "b"), ("1", "a", "b"), ("2", "a", "c"), ("1", "a", "d")]
    text = "".join(f'{{"id": {i}, "question": "{q}", "answer": "{a}"}}\n' for i, q, a in rows)
    await asyncio.to_thread(path.write_text, text)
    knowledge_base = ListKnowledgeBase()
    source = await asyncio.to_thread(read_samples, path, unique_ids=unique_ids)
    with pytest.raises(BadSampleError, match=r"x.jsonl:4: id '1' is that of row 1 of 'general'"):
        await ingest(source, knowledge_base, CountingEmbedder(), batch_size=batch_size)
    listed = await asyncio.to_thread(lambda: list(read_samples(path)))
    with pytest.raises(BadSampleError, match="samples:4: "):
        await ingest(listed, knowledge_base, CountingEmbedder())
    assert knowledge_base.calls == []

    skipping = await asyncio.to_thread(read_samples, path, unique_ids=True, skip_bad=True)
    report = await ingest(skipping, knowledge_base, CountingEmbedder(), batch_size=batch_size)
    assert (report.stored, report.already, report.skipped) == (2, 1, 1)


async def test_equal_samples_with_ids_of_their_own_are_embedded_once() -> None:
    embedder = CountingEmbedder()
    two = [NewSample(question="q", answer="a", domain="d", external_id=i) for i in "xy"]
    await ingest(two, ListKnowledgeBase(), embedder)
    assert embedder.texts == ["q"]


async def test_samples_that_differ_in_domain_or_answer_are_different() -> None:
    knowledge_base = ListKnowledgeBase()
    three = [
        NewSample(question="q", answer="a", domain="d"),
        NewSample(question="q", answer="b", domain="d"),
        NewSample(question="q", answer="a", domain="e"),
    ]
    assert (await ingest(three, knowledge_base, CountingEmbedder())).stored == 3


async def test_a_bad_row_at_the_end_leaves_the_knowledge_base_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text('{"question": "q", "answer": "a"}\n' * 5 + "bad\n")
    source = await asyncio.to_thread(read_samples, path)
    knowledge_base = ListKnowledgeBase()
    with pytest.raises(BadSampleError):
        await ingest(source, knowledge_base, CountingEmbedder(), batch_size=2)
    assert knowledge_base.calls == []


async def test_skipped_rows_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text('{"question": "q", "answer": "a"}\nbad\nbad\n')
    source = await asyncio.to_thread(read_samples, path, skip_bad=True)
    report = await ingest(source, ListKnowledgeBase(), CountingEmbedder())
    assert (report.rows, report.stored, report.skipped) == (1, 1, 2)


async def test_what_broke_in_the_middle_goes_on_from_there() -> None:
    broken, embedder = ListKnowledgeBase(fails_at=3), CountingEmbedder()
    with pytest.raises(KnowledgeBaseError):
        await ingest(samples(10), broken, embedder, batch_size=3)
    assert len(broken.stored) == 6
    report = await ingest(samples(10), broken, embedder, batch_size=3)
    assert (report.stored, report.already) == (4, 6)
    assert [s.question for _, s, _ in broken.stored] == [s.question for s in samples(10)]


async def test_a_failing_embedder_keeps_the_batches_before() -> None:
    knowledge_base = ListKnowledgeBase()
    with pytest.raises(EmbeddingError):
        await ingest(samples(6), knowledge_base, CountingEmbedder(capacity=4), batch_size=2)
    assert len(knowledge_base.stored) == 4


async def test_progress_starts_at_zero_and_ends_with_all() -> None:
    seen: list[IngestProgress] = []
    await ingest(
        samples(5), ListKnowledgeBase(), CountingEmbedder(), batch_size=2, on_progress=seen.append
    )
    assert [(p.rows, p.stored, p.total) for p in seen] == [
        (0, 0, 5),
        (2, 2, 5),
        (4, 4, 5),
        (5, 5, 5),
    ]


async def test_nothing_to_ingest_is_no_error() -> None:
    report = await ingest([], ListKnowledgeBase(), CountingEmbedder())
    assert (report.rows, report.stored, report.skipped) == (0, 0, 0)


async def test_a_batch_size_below_one_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="batch_size=0"):
        await ingest(samples(1), ListKnowledgeBase(), CountingEmbedder(), batch_size=0)
