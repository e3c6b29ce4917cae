"""Samples into a knowledge base: check everything, then embed and store batch by batch.

A batch is one transaction and what is stored already is not embedded again, so an ingest that was
killed is resumed by running it once more.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

from rttc_graph.errors import ConfigurationError
from rttc_graph.protocols import Embedder, KnowledgeBase, NewSample
from rttc_graph.samples import Samples
from rttc_graph.samples.source import check_row
from rttc_graph.samples.unique_ids import UniqueIds
from rttc_graph.support.passages import embedded_text

DEFAULT_BATCH_SIZE = 256
"""Rows in a transaction: what a kill can cost, a few seconds of embedding on two CPU cores."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IngestProgress:
    """Progress of an ingest, sent after each batch and once before the first."""

    rows: int
    """Usable rows dealt with so far."""
    total: int
    """Usable rows of the source."""
    stored: int


@dataclass(frozen=True, slots=True, kw_only=True)
class IngestReport:
    """Result of an ingest."""

    rows: int
    """Usable rows; `stored + updated + already`."""
    stored: int
    """New rows."""
    updated: int
    """Rows that took the place of earlier ones with their id and another question or answer, or
    that are stored with other metadata now."""
    already: int
    """Rows that were there before, or twice in the source."""
    skipped: int
    """Bad rows that were left out."""
    seconds: float
    embed_seconds: float
    domains: tuple[str, ...] = ()
    """Domains of the rows, by name."""


async def ingest(
    samples: Samples | Sequence[NewSample],
    knowledge_base: KnowledgeBase,
    embedder: Embedder,
    *,
    tenant: str = "default",
    batch_size: int = DEFAULT_BATCH_SIZE,
    on_progress: Callable[[IngestProgress], None] | None = None,
) -> IngestReport:
    """Store all samples and return what was new.

    The whole source is read once before anything is stored, so that a bad row leaves the knowledge
    base as it was. Cancelling, or an error, keeps the batches that were stored before it.

    Args:
        samples: Something that can be iterated twice.
        knowledge_base: Where they are stored.
        embedder: Makes the vectors; the one that the knowledge base was filled with before.
        tenant: Tenant to store the samples for.
        batch_size: Rows that are embedded together and stored in one transaction, at least 1.
        on_progress: Called on the event loop; must not block.

    Raises:
        BadSampleError: A row cannot be used, or two of one domain have one id and other content;
            nothing was stored.
        ConfigurationError: `batch_size` is below 1, or the source cannot be read.
        EmbeddingError: Batches before this one are stored.
        KnowledgeBaseError: Batches before this one are stored.
    """
    if batch_size < 1:
        raise ConfigurationError(f"batch_size={batch_size!r} must be at least 1")
    ingestion = _Ingestion(knowledge_base, embedder, tenant)
    async for batch, total in batches(samples, batch_size):
        if batch:
            await ingestion.add(batch)
        if on_progress is not None:
            on_progress(IngestProgress(rows=ingestion.rows, total=total, stored=ingestion.stored))
    return ingestion.report(samples)


class _Ingestion:
    """The counts of one ingest, and the one thing it does with a batch."""

    def __init__(self, knowledge_base: KnowledgeBase, embedder: Embedder, tenant: str) -> None:
        self.rows = 0
        self.stored = 0
        self._updated = 0
        self._embed_seconds = 0.0
        self._domains: set[str] = set()
        self._started = time.monotonic()
        self._knowledge_base = knowledge_base
        self._embedder = embedder
        self._tenant = tenant

    async def add(self, batch: Sequence[NewSample]) -> None:
        rows = distinct(batch)
        missing = await self._knowledge_base.missing(rows, tenant=self._tenant)
        fresh = [s for s, is_missing in zip(rows, missing, strict=True) if is_missing]
        if fresh:
            started = time.monotonic()
            texts = list(dict.fromkeys(map(_embedded_text, fresh)))
            embedded = await self._embedder.embed(texts)
            vector_of = dict(zip(texts, embedded, strict=True))
            vectors = [vector_of[_embedded_text(sample)] for sample in fresh]
            self._embed_seconds += time.monotonic() - started
            done = await self._knowledge_base.ingest(fresh, vectors, tenant=self._tenant)
            self.stored += done.new
            self._updated += done.updated
        self.rows += len(batch)
        self._domains.update(sample.domain for sample in batch)

    def report(self, samples: Samples | Sequence[NewSample]) -> IngestReport:
        return IngestReport(
            rows=self.rows,
            stored=self.stored,
            updated=self._updated,
            already=self.rows - self.stored - self._updated,
            skipped=samples.bad_count if isinstance(samples, Samples) else 0,
            seconds=time.monotonic() - self._started,
            embed_seconds=self._embed_seconds,
            domains=tuple(sorted(self._domains)),
        )


def _embedded_text(sample: NewSample) -> str:
    return embedded_text(sample.question, sample.answer, sample.metadata)


def distinct(samples: Sequence[NewSample]) -> list[NewSample]:
    """Return the samples once each, by content and id.

    With the id, since each of two equal samples may take another's place by its own.
    """
    return list({(s.question, s.answer, s.domain, s.external_id): s for s in samples}.values())


async def batches(
    samples: Iterable[NewSample], batch_size: int
) -> AsyncIterator[tuple[list[NewSample], int]]:
    """Yield an empty batch once all rows are checked, then the rows; each with the total.

    Reading a file blocks, so it happens on a thread of our own, which stops at the next row when
    the ingest is cancelled.
    """
    loop = asyncio.get_running_loop()
    stop = threading.Event()
    reading = ThreadPoolExecutor(max_workers=1, thread_name_prefix="rttc-ingest")
    try:
        total = await loop.run_in_executor(reading, _count, samples, stop)
        yield [], total
        rows = iter(samples)
        while batch := await loop.run_in_executor(reading, _take, rows, batch_size):
            yield batch, total
    finally:
        stop.set()
        reading.shutdown(wait=False)


def _count(samples: Iterable[NewSample], stop: threading.Event) -> int:
    ids, source = UniqueIds(), getattr(samples, "source", "samples")
    count = 0
    for count, sample in enumerate(samples, 1):
        if stop.is_set():
            break
        check_row(ids, sample, source=source, line=count)
    return count


def _take(rows: Iterator[NewSample], batch_size: int) -> list[NewSample]:
    return list(islice(rows, batch_size))
